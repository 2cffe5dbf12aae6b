"""Filters over time, of windows whose newest vector stands last.

A filter multiplies the frequencies of a window of L vectors. In time that is a circular
convolution, and for the newest vector, which has the whole window before it, it is

    y_t = sum over j < L of kernel_j x_(t - j).

So every position may have it, of the vectors up to itself alone: no position sees later ones, and
rows may be packed. Vectors before a sequence began count as 0.
"""

import jax
import jax.numpy as jnp
import numpy as np

from recjax.typing import Array


def low_pass(length: int, kept: int) -> np.ndarray:
    """The kernel [L] float32 that keeps the `kept` lowest frequencies of a window, the mean first.

    Args:
        length: L.
        kept: 1 to L // 2 + 1.
    """
    gains = (np.arange(length // 2 + 1) < kept).astype(float)
    return np.fft.irfft(gains, n=length).astype(np.float32)


def kernel_of(gains: Array, length: int) -> Array:
    """The kernel [L D] of complex gains [L // 2 + 1 D 2] (real and imaginary parts)."""
    return jnp.fft.irfft(jax.lax.complex(gains[..., 0], gains[..., 1]), n=length, axis=0)


def filtered_alike(x: Array, kernel: np.ndarray, mask: Array, positions: Array) -> Array:
    """One kernel for all channels: [B L D] -> [B L D].

    Args:
        x: [B L D].
        kernel: [W], for lags 0 to W - 1.
        mask: [B L L] bool, of `recjax.nn.masks.make_mask`; causal.
        positions: [B L], in the window.
    """
    lags = jnp.clip(positions[:, :, None] - positions[:, None, :], 0, len(kernel) - 1)
    return jnp.einsum("BLM,BMD->BLD", jnp.where(mask, jnp.asarray(kernel)[lags], 0.0), x)


def filtered(x: Array, kernel: Array, segments: Array) -> Array:
    """A kernel for each channel: [B L D] -> [B L D].

    Args:
        x: [B L D].
        kernel: [W D].
        segments: [B L], 0 = padding.
    """
    length = x.shape[1]
    before = ((0, 0), (length, 0))
    padded = jnp.pad(jnp.where(segments[..., None] > 0, x, 0.0), (*before, (0, 0)))
    owners = jnp.pad(segments, before)

    @jax.checkpoint
    def add(total, at):
        lag, weight = at
        there = jax.lax.dynamic_slice_in_dim(padded, length - lag, length, axis=1)
        owner = jax.lax.dynamic_slice_in_dim(owners, length - lag, length, axis=1)
        return total + jnp.where((owner == segments)[..., None], there * weight, 0.0), None

    lags = min(length, len(kernel))
    return jax.lax.scan(add, jnp.zeros_like(x), (jnp.arange(lags), kernel[:lags]))[0]
