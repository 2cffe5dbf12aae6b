"""Terms of attention's logits for the distance of two items."""

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
        self.table = nnx.Param(jnp.zeros((length, heads)))

    def __call__(self, positions: Array) -> Array:
        """[B N L L], query by key, of positions [B L]; later keys have distance 0."""
        table = self.table[...]
        distance = positions[:, :, None] - positions[:, None, :]
        return jnp.einsum("BLMN->BNLM", table[jnp.clip(distance, 0, len(table) - 1)])
