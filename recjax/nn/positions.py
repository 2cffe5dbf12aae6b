"""Rotary position embeddings (RoPE, Su et al. 2021), and the scaling of their wavelengths."""

import dataclasses
from typing import Annotated

import jax.numpy as jnp
import numpy as np

from recjax.ranges import Checked, Positive, Range
from recjax.typing import Array


@dataclasses.dataclass(frozen=True)
class RopeScaling(Checked):
    """`rope_type: llama3` of Transformers: long wavelengths are stretched.

    A frequency of wavelength w stays where w < context / high_freq_factor, is divided by `factor`
    where w > context / low_freq_factor, and is interpolated between.
    """

    factor: Positive  # 8 in 3.1, 32 in 3.2
    low_freq_factor: Positive
    high_freq_factor: Positive
    # The context of pre-training, 8,192.
    original_max_position_embeddings: Annotated[int, Range(1, 2**24)]


def rope_frequencies(dim: int, theta: float, scaling: RopeScaling | None = None) -> np.ndarray:
    """The angle that one position adds, for each pair of a head: [H/2] float32.

    Args:
        dim: H, even.
        theta: base of the frequencies.
        scaling: of long wavelengths, or none.
    """
    frequencies = theta ** -(np.arange(0, dim, 2) / dim)
    if scaling is not None:
        low, high = scaling.low_freq_factor, scaling.high_freq_factor
        turns = scaling.original_max_position_embeddings * frequencies / (2 * np.pi)
        share = np.clip((turns - low) / (high - low), 0, 1)
        frequencies = share * frequencies + (1 - share) * frequencies / scaling.factor
    return frequencies.astype(np.float32)


def rope_angles(positions: Array, frequencies: np.ndarray) -> tuple[Array, Array]:
    """`(cos, sin)`, each [B T H/2] float32, for positions [B T]."""
    each = frequencies.reshape((1,) * positions.ndim + (-1,))
    angles = positions[..., None].astype(jnp.float32) * each
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: Array, angles: tuple[Array, Array]) -> Array:
    """Rotates the pairs (j, j + H/2) of every head: the half-split form of Hugging Face's weights.

    Args:
        x: [B N T H].
        angles: of `rope_angles`.
    """
    cos, sin = (a[:, None, :, None] for a in angles)
    halves = x.astype(jnp.float32).reshape(*x.shape[:-1], 2, -1)
    sign = jnp.array([-1.0, 1.0], jnp.float32)[None, None, None, :, None]
    # Reversed, not split and joined: XLA on a CPU would take three passes over memory for that.
    rotated = halves * cos + jnp.flip(halves, axis=-2) * (sin * sign)
    return rotated.reshape(x.shape).astype(x.dtype)


def rotate_neighbours(x: Array, angles: tuple[Array, Array]) -> Array:
    """Rotates the pairs (2j, 2j+1) of every head's first numbers; the others stay.

    Args:
        x: [B N T H].
        angles: of `rope_angles`, [B T P] for the first 2 P numbers.
    """
    cos, sin = (a[:, None, :, :, None] for a in angles)
    turned = 2 * angles[0].shape[-1]
    pairs = x[..., :turned].astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
    sign = jnp.array([-1.0, 1.0], jnp.float32)[None, None, None, None, :]
    rotated = pairs * cos + jnp.flip(pairs, axis=-1) * (sin * sign)
    return jnp.concatenate(
        [rotated.reshape(*x.shape[:-1], turned).astype(x.dtype), x[..., turned:]], axis=-1
    )
