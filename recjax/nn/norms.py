"""Normalisations."""

import jax.numpy as jnp
from flax import nnx
from jax import lax

from recjax.typing import Array


def _last(a: Array, x: Array) -> Array:
    """[D] as [1 ... D] beside x [... D]: as x's shape it would be kept for the gradient."""
    return a.reshape((1,) * (x.ndim - 1) + a.shape)


def unit(x: Array) -> Array:
    """Vectors [... D] at length 1."""
    return x / jnp.sqrt(jnp.maximum((x * x).sum(axis=-1, keepdims=True), 1e-12))


class RMSNorm(nnx.Module):
    """Root mean square norm (Zhang and Sennrich 2019), computed in float32 whatever the input.

    `x / sqrt(mean(x^2) + eps)`, rounded to the input's type, then times `scale`, in this order, as
    published weights expect.

    Args:
        dim: E.
        eps: inside the root.
        stack: leading axes of the scale, for layers that are scanned.
        dtype: of the scale.
    """

    def __init__(self, dim: int, eps: float, *, stack: tuple[int, ...] = (), dtype=jnp.float32):
        self.eps = eps
        self.scale = nnx.Param(jnp.ones((*stack, dim), dtype))

    def __call__(self, x: Array) -> Array:
        wide = x.astype(jnp.float32)
        wide *= lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
        return wide.astype(x.dtype) * _last(self.scale[...], x).astype(x.dtype)


class LayerNorm(nnx.Module):
    """Layer norm (Ba et al. 2016) with scale and bias, computed in float32 whatever the input.

    Args:
        dim: E.
        eps: inside the root.
        stack: leading axes of scale and bias, for layers that are scanned.
        dtype: of scale and bias.
    """

    def __init__(self, dim: int, eps: float, *, stack: tuple[int, ...] = (), dtype=jnp.float32):
        self.eps = eps
        self.scale = nnx.Param(jnp.ones((*stack, dim), dtype))
        self.bias = nnx.Param(jnp.zeros((*stack, dim), dtype))

    def __call__(self, x: Array) -> Array:
        wide = x.astype(jnp.float32)
        wide -= jnp.mean(wide, axis=-1, keepdims=True)
        wide *= lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
        scale, bias = (_last(a[...], x) for a in (self.scale, self.bias))
        return (wide * scale + bias).astype(x.dtype)
