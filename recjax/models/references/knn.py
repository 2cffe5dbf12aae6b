"""Item-kNN: each item of a history votes for its nearest items by cosine.

`w(i, j) = c_ij / (sqrt(c_i c_j) + shrink)`, c the number of training sequences with an item or with
both (Sarwar et al., WWW 2001; the shrink term as in Dacrema et al., RecSys 2019).
"""

import dataclasses

import numpy as np

from recjax.models.references import Sequences
from recjax.models.references.counts import nearest_items, pair_bytes, together, users_of, votes
from recjax.ranges import Amount, Checked, Share, Size
from recjax.typing import Array


@dataclasses.dataclass(frozen=True)
class Config(Checked):
    """Settings of item-kNN."""

    neighbours: Size = 100  # K
    shrink: Amount = 10.0  # lowers the similarity of items that few have
    recency: Share = 0.8  # each item counts this many times as much as the next newer one
    max_length: Size = 50  # the newest items that are read


def needed(config: Config, sequences: Sequences) -> tuple[str, int]:
    """The key that asks for most, and bytes: neighbours and weights [I K], and pairs."""
    own = 8 * sequences.n_items * config.neighbours
    return "config.model.neighbours", own + pair_bytes(sequences)


def fit(config: Config, sequences: Sequences) -> dict[str, np.ndarray]:
    """`neighbours` and `weights` [I K]."""
    rows, columns, counts = together(sequences)
    users = users_of(sequences)
    other = rows != columns
    rows, columns, counts = rows[other], columns[other], counts[other]
    alike = counts / (np.sqrt(users[rows] * users[columns].astype(np.float64)) + config.shrink)
    return nearest_items(rows, columns, alike, sequences.n_items, config.neighbours)


def score(config: Config, arrays: dict[str, Array], ids: Array) -> Array:
    """Votes of the history's items: [B I]."""
    return votes(arrays, ids, config.recency)
