"""Blocks of positions without one that counts are not computed: worth it where products are slow.

A packed batch has room for more targets than it holds, and a cloze task learns some of its places.
On a CPU the products of the others are a fifth of a step and more. A GPU has them done before the
host has read whether to skip them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

_LEAST = 128  # positions of a block, for products as fast as of larger ones
_BLOCKS = 8

Body = Callable[[Any, tuple], tuple[Any, Any]]


def block_count(positions: int, blocks: int) -> int:
    """Blocks to take positions in, where `blocks` are enough for their memory: a few more."""
    return max(blocks, min(_BLOCKS, positions // _LEAST))


def skip_weightless(body: Body) -> Body:
    """A scan's body `(carry, block) -> (carry, rows or None)` that leaves out blocks of weight 0.

    Args:
        body: its block is `(rows, targets, weights, ...)`, and its rows are as those of the block.
    """

    def skip(carry: Any, block: tuple) -> tuple[Any, Any]:
        _, rows = jax.eval_shape(body, carry, block)
        return carry, None if rows is None else jnp.zeros(rows.shape, rows.dtype)

    def either(carry: Any, block: tuple) -> tuple[Any, Any]:
        return jax.lax.cond(jnp.any(block[2] != 0), body, skip, carry, block)

    return either
