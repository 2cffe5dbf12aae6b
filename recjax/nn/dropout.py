"""Dropout that draws one byte an element."""

import jax
import jax.numpy as jnp
from flax import nnx

from recjax.typing import Array


def dropout(x: Array, rate: float | Array, *, deterministic: bool, rngs: nnx.Rngs | None) -> Array:
    """Inverted dropout (Srivastava et al. 2014).

    A small model's step spends most of its time on random bits. The mask compares bytes instead of
    floats, which takes a quarter of the bits. The rate is therefore rounded to 1/256, to 255/256 at
    the most; the scale is that of the rounded rate, so that the expectation is exact.

    Args:
        x: any shape.
        rate: probability of zeroing, in [0, 1); may be traced.
        deterministic: return `x`.
        rngs: its `dropout` stream is used.
    """
    keep: float | Array
    if isinstance(rate, jax.Array):
        keep = jnp.maximum(256 - jnp.round(rate * 256), 1)
    else:
        keep = max(256 - round(rate * 256), 1)
        deterministic = deterministic or keep == 256
    if deterministic:
        return x
    if rngs is None:
        raise ValueError("dropout in training needs rngs=nnx.Rngs(dropout=key)")
    bits = jax.random.bits(rngs.dropout(), x.shape, jnp.uint8)
    return jnp.where(bits < keep, x * (256 / keep), jnp.zeros((), x.dtype))
