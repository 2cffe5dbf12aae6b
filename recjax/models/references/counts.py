"""Counts of the references: occurrences, pairs of a sequence, the nearest neighbours of each item.

Letters: N pairs, I items and padding, K neighbours, B histories of L items.
"""

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

from recjax.data.ragged import row_numbers, row_positions, row_starts
from recjax.models.references import Sequences
from recjax.typing import Array

_PAIRS = 1 << 22  # pairs that are made at a time


def occurrences(sequences: Sequences) -> np.ndarray:
    """[I] int64, how often training has each item."""
    lengths = sequences.stops - sequences.starts
    places = np.repeat(sequences.starts, lengths) + row_positions(lengths)
    return np.bincount(sequences.items[places], minlength=sequences.n_items)


def users_of(sequences: Sequences) -> np.ndarray:
    """[I] int64, how many sequences have each item."""
    out = np.zeros(sequences.n_items, np.int64)
    for rows, items in _distinct(sequences):
        del rows
        out += np.bincount(items, minlength=sequences.n_items)
    return out


def pair_bytes(sequences: Sequences) -> int:
    """Bytes that `together` takes at most: a pair's key and sum, and a copy of its key."""
    lengths = (sequences.stops - sequences.starts).astype(np.int64)
    return 24 * min(int((lengths**2).sum()), sequences.n_items**2)


def _groups(sizes: np.ndarray) -> Iterator[slice]:
    """Slices of consecutive sequences whose sizes add up to about `_PAIRS`."""
    first, total = 0, 0
    for n, size in enumerate(sizes.tolist()):
        if total and total + size > _PAIRS:
            yield slice(first, n)
            first, total = n, 0
        total += size
    if first < len(sizes):
        yield slice(first, len(sizes))


def _distinct(sequences: Sequences) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(rows, items) of groups of sequences, each item once a sequence, sorted by both."""
    lengths = sequences.stops - sequences.starts
    for group in _groups(lengths**2):
        group_lengths = lengths[group]
        rows = row_numbers(group_lengths)
        items = sequences.items[sequences.starts[group][rows] + row_positions(group_lengths)]
        keys = np.unique(rows * sequences.n_items + items)
        yield np.divmod(keys, sequences.n_items)


class PairCounts:
    """Sums of weights by pair of items, added up group by group."""

    def __init__(self, n_items: int):
        self.n_items = n_items
        self._keys: np.ndarray = np.zeros(0, np.int64)
        self._sums: np.ndarray = np.zeros(0)

    def add(self, rows: np.ndarray, columns: np.ndarray, weights: np.ndarray | None = None) -> None:
        """Adds pairs [N] with their weights; 1 each by default."""
        keys = rows.astype(np.int64) * self.n_items + columns
        weights = np.ones(len(keys)) if weights is None else weights
        keys = np.concatenate([self._keys, keys])
        self._keys, place = np.unique(keys, return_inverse=True)
        self._sums = np.bincount(place, np.concatenate([self._sums, weights]))

    @property
    def pairs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`(rows, columns, sums)` [N], sorted by row and column; no pair twice."""
        return *np.divmod(self._keys, self.n_items), self._sums


def together(sequences: Sequences) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`(rows, columns, counts)` of the Gram matrix: in how many sequences two items stand.

    The diagonal is part of it: in how many sequences an item stands.
    """
    out = PairCounts(sequences.n_items)
    for rows, items in _distinct(sequences):
        lengths = np.bincount(rows)
        first = row_starts(lengths)
        partners = lengths[rows]  # partners of each
        left = row_numbers(partners)
        right = first[rows[left]] + row_positions(partners)
        out.add(items[left], items[right])
    return out.pairs


def following(
    sequences: Sequences, steps: int, directed: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`(rows, columns, sums)`: how often an item comes after another one, at most `steps` later.

    A pair d steps apart weighs 1 / d. Pairs of an item with itself do not count.

    Args:
        sequences: the training split.
        steps: the longest distance.
        directed: off = a pair counts in both directions.
    """
    out = PairCounts(sequences.n_items)
    lengths = sequences.stops - sequences.starts
    for distance in range(1, min(steps, int(lengths.max(initial=1)) - 1) + 1):
        for group in _groups(lengths):
            pairs = np.maximum(lengths[group] - distance, 0)
            left = np.repeat(sequences.starts[group], pairs) + row_positions(pairs)
            a, b = sequences.items[left], sequences.items[left + distance]
            a, b = a[a != b], b[a != b]
            weights = np.full(len(a), 1 / distance)
            out.add(a, b, weights)
            if not directed:
                out.add(b, a, weights)
    return out.pairs


def nearest_items(
    rows: np.ndarray, columns: np.ndarray, weights: np.ndarray, n_items: int, count: int
) -> dict[str, np.ndarray]:
    """The heaviest `count` columns of each row (equal ones by id).

    Returns:
        `neighbours` [I K] int32, 0 where there are fewer, and `weights` [I K] float32, 0 there.
    """
    order = np.lexsort((columns, -weights, rows))
    rows, columns, weights = rows[order], columns[order], weights[order]
    degrees = np.bincount(rows, minlength=n_items)
    rank = row_positions(degrees)
    near = rank < count
    width = max(1, min(count, int(degrees.max(initial=0))))
    neighbours = np.zeros((n_items, width), np.int32)
    heavy = np.zeros((n_items, width), np.float32)
    neighbours[rows[near], rank[near]] = columns[near]
    heavy[rows[near], rank[near]] = weights[near]
    return {"neighbours": neighbours, "weights": heavy}


def votes(arrays: dict[str, Array], ids: Array, recency: float) -> Array:
    """The sum of the weights that a history's items give to their neighbours: [B I].

    Args:
        arrays: of `nearest_items`.
        ids: [B L].
        recency: each item counts this many times as much as the next newer one.
    """
    length = ids.shape[1]
    ages = jnp.arange(length)[::-1]
    share = jnp.where(ids > 0, jnp.power(recency, ages.astype(jnp.float32)), 0.0)
    out = jnp.zeros((len(ids), len(arrays["neighbours"])), jnp.float32)
    rows = jnp.arange(len(ids))[:, None, None]
    given = arrays["weights"][ids] * share[..., None]
    return out.at[rows, arrays["neighbours"][ids]].add(given)
