"""EASE: the linear autoencoder in closed form (Steck, WWW 2019).

`B = P / -diag(P)` with P the inverse of `X^T X + lambda I`, and 0 on the diagonal. X [n I] says
which items a training sequence has. The inverse is dense: at I = 12,102 (Amazon Beauty) the result
takes 0.59 GB, and making it three times as much.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from recjax.errors import InputError
from recjax.models.references import Sequences
from recjax.models.references.counts import pair_bytes, together
from recjax.ranges import Checked, Positive, Share, Size
from recjax.typing import Array


@dataclasses.dataclass(frozen=True)
class Config(Checked):
    """Settings of EASE."""

    l2: Positive = 200.0  # lambda; 200 to 1,000 on the paper's data sets (table 1)
    recency: Share = 1.0  # each item counts this many times as much as the next newer; paper: 1
    max_length: Size = 50  # the newest items that are read


def needed(config: Config, sequences: Sequences) -> tuple[str, int]:
    """The key that asks for most, and bytes: the Gram matrix, its inverse and a copy, [I I], and
    pairs."""
    del config
    return "config.model.name", 3 * 4 * sequences.n_items**2 + pair_bytes(sequences)


def fit(config: Config, sequences: Sequences) -> dict[str, np.ndarray]:
    """`weights` [I I] float32: what an item of a history adds to each item's score.

    Raises:
        InputError: `l2` is lost in the counts' rounding.
    """
    n_items = sequences.n_items
    gram = np.zeros((n_items, n_items), np.float32)
    rows, columns, counts = together(sequences)
    gram[rows, columns] = counts
    gram[np.diag_indices(n_items)] += config.l2
    try:
        inverse = np.linalg.inv(gram)
    except np.linalg.LinAlgError:
        inverse = np.full((1, 1), np.nan)
    if not np.isfinite(inverse).all():
        raise InputError(
            f"config.model.l2: {config.l2:g} is too small beside the data's largest count "
            f"{counts.max():,.0f}; expected more"
        )
    del gram
    inverse /= -np.diag(inverse).copy()
    inverse[np.diag_indices(n_items)] = 0.0
    return {"weights": inverse}


def score(config: Config, arrays: dict[str, Array], ids: Array) -> Array:
    """The history's rows of B, added up: [B I]. An item that stands twice counts twice."""
    length, weights = ids.shape[1], arrays["weights"]
    ages = jnp.arange(length)[::-1].astype(jnp.float32)
    share = jnp.where(ids > 0, jnp.power(config.recency, ages), 0.0)
    history = jnp.zeros((len(ids), len(weights)), jnp.float32)
    history = history.at[jnp.arange(len(ids))[:, None], ids].add(share)
    return jnp.matmul(history, weights, precision="highest")  # a GPU or TPU would round them
