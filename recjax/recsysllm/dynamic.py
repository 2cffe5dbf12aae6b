"""Dynamic positions: inner positions of tokens as they are written.

The paper's "Inference Phase" and Figure 2 (Chu et al. 2023).

The rule of `entities.EntityPool.written`, one token a row at a time, inside a jitted loop. The
state lives in the loop's cache and moves with its rows where beams are reordered.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from recjax.errors import InputError
from recjax.generate.trie import DeviceTrie, on_device
from recjax.recsysllm.entities import EntityPool
from recjax.typing import Array


class InnerState(NamedTuple):
    """The state of each row after its last token.

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

    Attributes:
        trie: the entities.
        sop: [] int32, the token that begins a span.
    """

    trie: DeviceTrie
    sop: Array

    def init(self, rows: int) -> InnerState:
        """The state before `<sop>`."""
        zeros = jnp.zeros(rows, jnp.int32)
        return InnerState(zeros, zeros, jnp.zeros(rows, bool))

    def update(self, state: InnerState, tokens: Array) -> InnerState:
        """The state after `tokens` [B]; its `inner` is their position."""
        after = jnp.where(state.node > 0, self.trie.child(state.node, tokens), -1)
        sop = tokens == self.sop
        grows = ((after > 0) | state.started) & ~sop
        node = jnp.where(after > 0, after, jnp.maximum(self.trie.begin(tokens), 0))
        return InnerState(jnp.where(sop, 0, node), jnp.where(grows, state.inner + 1, 1), sop)


def dynamic_positions(pool: EntityPool, vocab: int) -> DynamicPositions:
    """A pool on the device.

    Args:
        pool: the entities.
        vocab: V.

    Raises:
        InputError: an entity has a token above V - 1.
    """
    if (highest := pool.trie.tokens.max()) >= vocab:
        raise InputError(f"entity pool: token {highest}; expected at most {vocab - 1}")
    return DynamicPositions(on_device(pool.trie.automaton, vocab), jnp.int32(pool.sop))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CountedPositions:
    """GLM's own inner positions: 1, 2, ... in each span.

    Attributes:
        sop: [] int32, the token that begins a span.
    """

    sop: Array

    def init(self, rows: int) -> InnerState:
        """The state before `<sop>`."""
        zeros = jnp.zeros(rows, jnp.int32)
        return InnerState(zeros, zeros, jnp.zeros(rows, bool))

    def update(self, state: InnerState, tokens: Array) -> InnerState:
        """The state after `tokens` [B]; its `inner` is their position."""
        sop = tokens == self.sop
        return InnerState(state.node, jnp.where(sop, 1, state.inner + 1), sop)
