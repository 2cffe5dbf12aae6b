"""Last-item co-occurrence: what followed the newest item in training, nearer items weigh more.

Without `directed` and with one step it is the count of neighbours; with `directed` it is the
sequential rules of Ludewig and Jannach (UMUAI 2018, section 3.1).
"""

import dataclasses

import numpy as np

from recjax.models.references import Sequences
from recjax.models.references.counts import following, nearest_items, votes
from recjax.ranges import Checked, Few, Size
from recjax.typing import Array


@dataclasses.dataclass(frozen=True)
class Config(Checked):
    """Settings of co-occurrence."""

    steps: Few = 10  # the longest distance in a sequence; a pair d steps apart weighs 1 / d
    directed: bool = False  # only what comes later counts
    neighbours: Size = 500  # K
    max_length: Size = 1  # the newest item alone is read


def needed(config: Config, sequences: Sequences) -> tuple[str, int]:
    """The key that asks for most, and bytes: neighbours and weights [I K], and pairs."""
    pairs = 2 * int((sequences.stops - sequences.starts).sum()) * config.steps
    return "config.model.neighbours", 8 * sequences.n_items * config.neighbours + 24 * pairs


def fit(config: Config, sequences: Sequences) -> dict[str, np.ndarray]:
    """`neighbours` and `weights` [I K]."""
    pairs = following(sequences, config.steps, config.directed)
    return nearest_items(*pairs, sequences.n_items, config.neighbours)


def score(config: Config, arrays: dict[str, Array], ids: Array) -> Array:
    """The weights of the newest item's neighbours: [B I]."""
    del config
    return votes(arrays, ids[:, -1:], 1.0)
