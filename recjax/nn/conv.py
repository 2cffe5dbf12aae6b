"""Convolutions over the window before every position of packed rows."""

import jax.numpy as jnp

from recjax.nn.masks import shift
from recjax.typing import Array


def windows(x: Array, segments: Array, size: int) -> Array:
    """The `size` newest vectors up to every position, oldest first; 0 before a sequence began.

    Args:
        x: [B L D].
        segments: [B L], 0 = padding.
        size: length of a window.

    Returns:
        [B L size D].
    """
    places = []
    for back in range(size - 1, -1, -1):
        same = (shift(segments, back) == segments) & (segments != 0)
        places.append(shift(x, back) * same[..., None].astype(x.dtype))
    return jnp.stack(places, axis=2)


def sliding_max(x: Array, segments: Array, size: int, start: Array) -> Array:
    """Maximum over the `size` newest vectors up to every position.

    Args:
        x: [B L F].
        segments: [B L], 0 = padding.
        size: places of the maximum.
        start: [F] what stands before a sequence began.

    Returns:
        [B L F].
    """
    out = x
    for back in range(1, size):
        same = shift(segments, back) == segments
        out = jnp.maximum(out, jnp.where(same[..., None], shift(x, back), start))
    return out
