"""Attention masks: boolean, True = may attend."""

import jax.numpy as jnp

from recjax.typing import Array


def segment_mask(segments: Array, *, causal: bool) -> Array:
    """Who may attend to whom in packed rows.

    Args:
        segments: [B L] int, 0 = padding, otherwise the number of the sequence in the row.
        causal: no item sees a later one.

    Returns:
        [B L L] bool, query by key. Padding attends to itself alone, so that its softmax is defined.
    """
    length = segments.shape[-1]
    same = segments[:, :, None] == segments[:, None, :]
    real = (segments != 0)[:, None, :]
    mask = same & real
    if causal:
        mask &= jnp.tril(jnp.ones((length, length), bool))
    return mask | jnp.eye(length, dtype=bool)


def shift(x: Array, places: int) -> Array:
    """`x` [B L ...] moved `places` to the right (negative: to the left), 0 where nothing was."""
    if not places:
        return x
    width = [(0, 0)] * x.ndim
    if places > 0:
        width[1] = (places, 0)
        return jnp.pad(x, width)[:, : x.shape[1]]
    width[1] = (0, -places)
    return jnp.pad(x, width)[:, -places:]


def causal_mask(real: Array) -> Array:
    """Every token sees the real tokens up to itself.

    Args:
        real: [B T] bool, False = padding.

    Returns:
        [B T T] bool, query by key.
    """
    return real.astype(bool)[:, None] & jnp.tril(jnp.ones((real.shape[-1],) * 2, bool))
