"""Terms of attention's logits for the distance of two items, in places and in time."""

import jax.numpy as jnp
from flax import nnx

from recjax.typing import Array


class RelativeBias(nnx.Module):
    """A learned number for each distance and head (Shaw et al. 2018 in T5's form, one a distance).

    It begins at 0: all distances are alike.

    Args:
        length: L, distances 0 to L - 1.
        heads: N.
    """

    def __init__(self, length: int, heads: int):
        self.table = nnx.Param(jnp.zeros((length, heads), jnp.float32))

    def __call__(self, positions: Array) -> Array:
        """[B N L L], query by key, for positions [B L]; later keys have distance 0."""
        table = self.table[...]
        distance = positions[:, :, None] - positions[:, None, :]
        return jnp.einsum("BLMN->BNLM", table[jnp.clip(distance, 0, len(table) - 1)])


BUCKETS = 72  # the last one begins after 60 years


class TimeBias(nnx.Module):
    """A learned number for each bucket of the time between two items and each head (HSTU's code).

    The bucket of s seconds is `floor(log(max(1, s)) / 0.301)`: each is e^0.301 = 1.35 times as wide
    as the one before. All numbers begin at 0.

    Args:
        heads: N.
    """

    def __init__(self, heads: int):
        self.table = nnx.Param(jnp.zeros((BUCKETS, heads), jnp.float32))

    def __call__(self, times: Array) -> Array:
        """[B N L L], query by key, for times [B L] in seconds."""
        seconds = jnp.abs(times[:, :, None] - times[:, None, :])
        bucket = jnp.log(jnp.maximum(seconds, 1).astype(jnp.float32)) / 0.301
        bucket = jnp.minimum(bucket.astype(jnp.int32), BUCKETS - 1)
        return jnp.einsum("BLMN->BNLM", self.table[...][bucket])
