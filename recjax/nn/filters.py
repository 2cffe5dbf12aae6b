"""Filters over time, for windows whose newest vector is last.

A filter multiplies the frequencies of a window of L vectors. In time that is a circular
convolution, and for the newest vector, which has the whole window before it, it is

    y_t = sum over j < L of kernel_j x_(t - j).

So every position may have it, of the vectors up to itself alone: no position sees later ones, and
rows may be packed. Vectors before a sequence began count as 0.
"""

import jax
import jax.numpy as jnp
import numpy as np

from recjax.nn.masks import shift
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
    wide = gains.astype(jnp.float32)  # there are no complex numbers of half precision
    kernel = jnp.fft.irfft(jax.lax.complex(wide[..., 0], wide[..., 1]), n=length, axis=0)
    return kernel.astype(gains.dtype)


def filtered_alike(x: Array, kernel: np.ndarray, mask: Array, positions: Array) -> Array:
    """One kernel for all channels: [B L D] -> [B L D].

    Args:
        x: [B L D].
        kernel: [W], for lags 0 to W - 1.
        mask: [B L L] bool, of `recjax.nn.masks.make_mask`; causal.
        positions: [B L], in the window.
    """
    lags = jnp.clip(positions[:, :, None] - positions[:, None, :], 0, len(kernel) - 1)
    weights = jnp.where(mask, jnp.asarray(kernel, x.dtype)[lags], 0.0)
    return jnp.einsum("BLM,BMD->BLD", weights, x)


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
        vectors = jax.lax.dynamic_slice_in_dim(padded, length - lag, length, axis=1)
        owner = jax.lax.dynamic_slice_in_dim(owners, length - lag, length, axis=1)
        return total + jnp.where(
            (owner == segments)[..., None], vectors * weight[None, None], 0.0
        ), None

    lags = min(length, len(kernel))
    return jax.lax.scan(add, jnp.zeros_like(x), (jnp.arange(lags), kernel[:lags]))[0]


def waves(length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The waves of a window: (cosines [W M], sines [W M], weights [M]), M = W // 2 + 1.

    The inverse transform of real gains g [M] is, at lag j, `sum_m weights_m g_m cosines_jm`.

    Args:
        length: W.
    """
    number = np.arange(length // 2 + 1)
    angles = 2 * np.pi * (np.outer(np.arange(length), number) % length) / length
    twice = (number > 0) & (2 * number != length)  # these stand for their mirror, too
    weights = np.where(twice, 2.0, 1.0) / length
    cosines, sines = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    return cosines, sines, weights.astype(np.float32)


def filtered_each(x: Array, gains: Array, length: int, mask: Array, positions: Array) -> Array:
    """A filter for each place and group of channels: [B L N H] -> [B L N H].

    Attention without a softmax: a real gain's kernel is a sum of cosines of the distance, and the
    cosine of a difference is an inner product.

    Args:
        x: [B L N H], N groups of H channels.
        gains: [B L N M] real, of the frequencies of a window; M = W // 2 + 1.
        length: W.
        mask: [B L L] bool, of `recjax.nn.masks.make_mask`; causal.
        positions: [B L], in the window, 0 to W - 1.
    """
    cosines, sines, weights = (jnp.asarray(a, x.dtype) for a in waves(length))
    basis = jnp.concatenate([cosines, sines], axis=-1)[positions]  # [B L 2 M]
    queries = jnp.tile(gains * weights[None, None, None], 2) * basis[:, :, None]
    kernels = jnp.einsum("BLNF,BMF->BNLM", queries, basis)
    kernels = jnp.where(mask[:, None], kernels, 0.0)
    return jnp.einsum("BNLM,BMNH->BLNH", kernels, x)


def detail_scaled(x: Array, scale: Array, segments: Array) -> Array:
    """Haar's wavelet of each vector and the one before, its detail scaled: [B L D] -> [B L D].

    The pair's mean and half its difference (the detail) make the newer vector again: `mean - scale
    * detail`. With scale 1 that is x, with 0 the mean.

    Args:
        x: [B L D].
        scale: [B L D] or of a shape that fits it.
        segments: [B L], 0 = padding; before a sequence's first vector comes 0.
    """
    alike = (shift(segments, 1) == segments) & (segments > 0)
    before = jnp.where(alike[..., None], shift(x, 1), 0.0)
    return 0.5 * (before + x) - scale * 0.5 * (before - x)
