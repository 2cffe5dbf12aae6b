"""Dynamic positions (RecSysLLM, Figure 2): inner positions of tokens as they are written.

The rule of `entities.EntityPool.written`, one token a row at a time, inside a jitted loop. The
state lives in the loop's cache and moves with its rows where beams are reordered.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from recjax.errors import InputError
from recjax.recsysllm.entities import EntityPool
from recjax.typing import Array


class InnerState(NamedTuple):
    """Of each row, after its last token.

    Attributes:
        node: [B] int32, of the trie: the tokens since the position's last start, or 0.
        inner: [B] int32, the inner position of the last token.
        started: [B] bool, the last token is `<sop>`.
    """

    node: Array
    inner: Array
    started: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DynamicPositions:
    """An entity pool on the device; made by `dynamic_positions`.

    The first token of an entity is looked up in a table over the vocabulary, the others by binary
    search among the few edges of their node.

    Attributes:
        root: [V] int32, the node that a token leads to from the root, 0 = none.
        offsets: [nodes + 1] int32, the edges of a node are offsets[node] .. offsets[node + 1].
        tokens: [edges] int32; the edge at place e leads to node e + 1.
        sop: [] int32, the token that begins a span.
        depth: steps of the search.
    """

    root: Array
    offsets: Array
    tokens: Array
    sop: Array
    depth: int = dataclasses.field(metadata={"static": True})

    def init(self, rows: int) -> InnerState:
        """The state before `<sop>`."""
        zeros = jnp.zeros(rows, jnp.int32)
        return InnerState(zeros, zeros, jnp.zeros(rows, bool))

    def update(self, state: InnerState, tokens: Array) -> InnerState:
        """The state after `tokens` [B]; its `inner` is their position."""
        after = self._child(state.node, tokens)
        begins = self.root.at[tokens].get(mode="fill", fill_value=0)
        sop = tokens == self.sop
        grows = ((after > 0) | state.started) & ~sop
        node = jnp.where(sop, 0, jnp.where(after > 0, after, begins))
        return InnerState(node, jnp.where(grows, state.inner + 1, 1), sop)

    def _child(self, node: Array, tokens: Array) -> Array:
        """The node [B] that tokens lead to from a node that is not the root; 0 = none."""
        low = self.offsets[node]
        end = jnp.where(node > 0, self.offsets[node + 1], low)

        def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = bounds
            middle = (low + high) // 2
            below = (middle < high) & (self.tokens[middle] < tokens)
            return jnp.where(below, middle + 1, low), jnp.where(below, high, middle)

        # A loop, not unrolled: see `generate.constrained`.
        place, _ = lax.fori_loop(0, self.depth, halve, (low, end))
        return jnp.where((place < end) & (self.tokens[place] == tokens), place + 1, 0)


def dynamic_positions(pool: EntityPool, vocab: int) -> DynamicPositions:
    """A pool on the device.

    Arrays are padded to a power of two: pools of about the same size share a compilation.

    Args:
        pool: the entities.
        vocab: V.

    Raises:
        InputError: an entity has a token above V - 1.
    """
    offsets, tokens = pool.trie.offsets, pool.trie.tokens
    if tokens.max() >= vocab:
        raise InputError(f"entity pool: token {tokens.max()}; expected at most {vocab - 1}")
    root = np.zeros(vocab, np.int32)
    root[tokens[: offsets[1]]] = 1 + np.arange(offsets[1])
    padded = 1 << int(len(offsets) - 1).bit_length()
    most = int(np.diff(offsets[1:]).max(initial=0))
    return DynamicPositions(
        jnp.asarray(root),
        jnp.asarray(np.pad(offsets, (0, padded + 1 - len(offsets)), mode="edge")),
        jnp.asarray(np.pad(tokens, (0, padded - len(tokens)), constant_values=-1)),
        jnp.asarray(pool.sop, jnp.int32),
        depth=most.bit_length(),
    )
