"""A walk over the graph of items that follow each other; nothing is trained.

From each item of a history the walk goes to items that stood within `steps` of it in training, with
probability p(i, j) ~ count(i, j) / popularity(j) ** beta: the rule of RP3beta (Christoffel et al.,
RecSys 2015), on a graph of items in place of users and items. The scores are the sums of the
probabilities after one step and, times `depth_share`, after two.
"""

import dataclasses

import numpy as np

from recjax.models.references import Sequences
from recjax.models.references.counts import following, nearest_items, occurrences, votes
from recjax.ranges import Amount, Checked, Few, Share, Size
from recjax.typing import Array

_ROWS = 64  # items whose second steps are added up at a time


@dataclasses.dataclass(frozen=True)
class Config(Checked):
    """Settings of the walk."""

    steps: Few = 5  # the longest distance in a sequence; an edge d steps apart weighs 1 / d
    edges: Size = 100  # of each item, the heaviest ones
    neighbours: Size = 300  # K, what is kept of the first and second step
    beta: Amount = 0.3  # how much popular items are held back
    depth_share: Amount = 0.5  # weight of the second step; the first one's is 1
    recency: Share = 0.6  # each item counts this many times as much as the next newer one
    max_length: Size = 50  # the newest items that are read


def needed(config: Config, sequences: Sequences) -> tuple[str, int]:
    """The key that asks for most, and bytes: neighbours, edges, pairs, second steps of a part."""
    pairs = 2 * int((sequences.stops - sequences.starts).sum()) * config.steps
    tables = 8 * sequences.n_items * (config.neighbours + config.edges)
    return "config.model.neighbours", tables + 24 * pairs + 24 * _ROWS * config.edges**2


def fit(config: Config, sequences: Sequences) -> dict[str, np.ndarray]:
    """`neighbours` and `weights` [I K]: where the walk is after one step or two."""
    n_items, popular = sequences.n_items, np.maximum(occurrences(sequences), 1)
    rows, columns, counts = following(sequences, config.steps, directed=False)
    edges = nearest_items(
        rows, columns, counts / popular[columns] ** config.beta, n_items, config.edges
    )
    to, chance = edges["neighbours"], edges["weights"].astype(np.float64)
    chance /= np.maximum(chance.sum(axis=1, keepdims=True), 1e-12)
    parts: list[tuple[np.ndarray, ...]] = []
    for start in range(0, n_items, _ROWS):
        items = np.arange(start, min(start + _ROWS, n_items))
        second = chance[items, :, None] * chance[to[items]] * config.depth_share
        targets = np.concatenate([to[items], to[to[items]].reshape(len(items), -1)], axis=1)
        weights = np.concatenate([chance[items], second.reshape(len(items), -1)], axis=1)
        keys = (items[:, None].astype(np.int64) * n_items + targets)[weights > 0]
        keys, place = np.unique(keys, return_inverse=True)
        parts.append((*np.divmod(keys, n_items), np.bincount(place, weights[weights > 0])))
    rows, columns, sums = (np.concatenate(part) for part in zip(*parts, strict=True))
    is_other = rows != columns  # the way back home says nothing
    return nearest_items(
        rows[is_other], columns[is_other], sums[is_other], n_items, config.neighbours
    )


def score(config: Config, arrays: dict[str, Array], ids: Array) -> Array:
    """Scores [B I] by the walks from the history's items."""
    return votes(arrays, ids, config.recency)
