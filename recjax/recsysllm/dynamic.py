"""Dynamic positions (RecSysLLM, Figure 2): inner positions of tokens as they are written.

The rule of `entities.EntityPool.written`, one token a row at a time, inside a jitted loop. The
state lives in the loop's cache and moves with its rows where beams are reordered.
"""

import dataclasses
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

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

    The first token of an entity is looked up in a table over the vocabulary. The other edges of the
    trie stand in the order of their hashes, and one read of `width` edges finds any of them.

    Attributes:
        root: [V] int32, the node that a token leads to from the root, 0 = none.
        starts: [buckets] int32, the first edge of each hash; buckets are a power of two.
        edges: [edges 3] int32: a node, a token, and the node that it leads to.
        sop: [] int32, the token that begins a span.
        width: the most edges that share a hash.
    """

    root: Array
    starts: Array
    edges: Array
    sop: Array
    width: int = dataclasses.field(metadata={"static": True})

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
        """The node [B] that tokens lead to from a node; 0 = none, or the node is the root."""
        bucket = _bucket(node.astype(jnp.uint32), tokens.astype(jnp.uint32), self.starts.size)
        read = self.edges[self.starts[bucket][:, None] + jnp.arange(self.width)]
        same = (read[..., 0] == node[:, None]) & (read[..., 1] == tokens[:, None])
        return jnp.where(same, read[..., 2], 0).max(axis=1)


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


U = TypeVar("U", Array, np.ndarray)


def _bucket(node: U, token: U, buckets: int) -> U:
    """The hash of an edge; uint32, the same in NumPy and JAX."""
    mixed = node * np.uint32(0x9E3779B1) ^ token * np.uint32(0x85EBCA77)
    mixed = (mixed ^ (mixed >> np.uint32(15))) * np.uint32(0x2C1B3C6D)
    return (mixed ^ (mixed >> np.uint32(13))) & np.uint32(buckets - 1)


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
    tail = np.arange(offsets[1], len(tokens))
    source = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))[tail]
    buckets = 1 << len(tail).bit_length()
    hashes = _bucket(source.astype(np.uint32), tokens[tail].astype(np.uint32), buckets)
    order = np.argsort(hashes, kind="stable")
    counts = np.bincount(hashes, minlength=buckets)
    width = max(int(counts.max()), 4)
    edges = np.full((buckets + width, 3), -1, np.int32)
    edges[: len(tail)] = np.stack([source, tokens[tail], tail + 1], axis=1)[order]
    return DynamicPositions(
        jnp.asarray(root),
        jnp.asarray((np.cumsum(counts) - counts).astype(np.int32)),
        jnp.asarray(edges),
        jnp.asarray(pool.sop, jnp.int32),
        width=width,
    )
