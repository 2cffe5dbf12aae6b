"""Popularity: every history gets the items with the most training interactions."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from recjax.models.references import Sequences
from recjax.models.references.counts import occurrences
from recjax.ranges import Checked, Size
from recjax.typing import Array


@dataclasses.dataclass(frozen=True)
class Config(Checked):
    """Settings of popularity."""

    max_length: Size = 1  # the history is not read


def needed(config: Config, sequences: Sequences) -> tuple[str, int]:
    """The key that asks for most, and bytes: counts [I]."""
    del config
    return "config.model.name", 8 * sequences.n_items


def fit(config: Config, sequences: Sequences) -> dict[str, np.ndarray]:
    """`counts` [I], the training interactions of each item."""
    del config
    return {"counts": occurrences(sequences).astype(np.float32)}


def score(config: Config, arrays: dict[str, Array], ids: Array) -> Array:
    """Counts, for every history: [B I]."""
    del config
    return jnp.broadcast_to(arrays["counts"], (len(ids), len(arrays["counts"])))
