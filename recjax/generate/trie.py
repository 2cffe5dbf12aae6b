"""Automata over tokens on the device: tries of titles or entities, and templates around them.

One form serves all users: the logits of what may follow a node (`constrained`), and
where a token leads (`constrained`, and the positions of `recsysllm.dynamic`). Most nodes have few
edges and a few have very many (the first tokens of all titles). The edges are a compressed sparse
matrix, and the few nodes are a dense head: a row of bits over the vocabulary. A step reads a fixed
number of edges, or one word of bits and a count: nothing is searched, and no host is asked. The
division is that of STATIC (`third_party/static.md`).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from recjax.generate.templates import Automaton
from recjax.typing import Array

_SHORT = 32  # most edges of a node that are read one by one, unless the bits would take too much
_BITS = 1 << 24  # so many bytes, and as many for the edges before each word


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DeviceTrie:
    """A deterministic automaton over tokens, such as a trie, on the device; made by `on_device`.

    Node 0 is the root. Arrays are padded, so that automata of about the same size share a
    compilation; the last node, `off`, has no edges.

    Attributes:
        offsets: [nodes + 1] int32, the edges of a node are offsets[node] .. offsets[node + 1].
        tokens, targets: [edges] int32, the token of an edge, and the node that it leads to.
        final: [nodes] bool, True where a text may end.
        long: [nodes] int32, the row of `bits` of a node with many edges, 0 for one with few; the
            root's is 1.
        bits: [rows V/32] uint32, the tokens of such nodes; row 0 has none.
        before: [rows V/32] int32, how many edges come before each word.
        short: most edges of a node that has no row of bits.
    """

    offsets: Array
    tokens: Array
    targets: Array
    final: Array
    long: Array
    bits: Array
    before: Array
    short: int = dataclasses.field(metadata={"static": True})

    @property
    def off(self) -> int:
        """The node of rows that have left the automaton."""
        return self.final.size - 1

    @property
    def nbytes(self) -> int:
        """Memory on the device."""
        return sum(array.nbytes for array in jax.tree.leaves(self))

    def masked(self, node: Array, logits: Array, more: Array | None = None) -> Array:
        """Logits [R V] of what may follow nodes [R]; -inf elsewhere.

        Args:
            node: [R].
            logits: [R V].
            more: [R n] further tokens; V = none.
        """
        places, vocab = jnp.arange(self.short)[None], logits.shape[1]
        first, count = self.offsets[node], self.offsets[node + 1] - self.offsets[node]
        row = self.long[node]
        few = (places < count[:, None]) & (row == 0)[:, None]
        listed = jnp.where(few, self.tokens[first[:, None] + places], vocab)
        if more is not None:
            listed = jnp.concatenate([listed, more], axis=1)
        bit = jnp.arange(32, dtype=jnp.uint32)[None, None]
        bits = (self.bits[row][:, :, None] >> bit) & 1 > 0
        out = jnp.where(bits.reshape(len(node), -1)[:, :vocab], logits, -jnp.inf)
        listed_logits = jnp.take_along_axis(logits, jnp.minimum(listed, vocab - 1), axis=1)
        return out.at[jnp.arange(len(node))[:, None], listed].set(listed_logits, mode="drop")

    def child(self, node: Array, tokens: Array) -> Array:
        """The nodes [R] that tokens [R] lead to from nodes [R]; -1 = none."""
        row, places = self.long[node], jnp.arange(self.short)[None]
        in_bits, place = self._dense(row, tokens)
        first, count = self.offsets[node], self.offsets[node + 1] - self.offsets[node]
        same = self.tokens[first[:, None] + places] == tokens[:, None]
        same &= places < count[:, None]
        listed = jnp.where(same, places, 0).sum(axis=1)  # one at most
        exists = jnp.where(row > 0, in_bits, same.any(axis=1))
        place = first + jnp.where(row > 0, place, listed)
        return jnp.where(exists, self.targets[place], -1)

    def begin(self, tokens: Array) -> Array:
        """The nodes [R] that tokens [R] lead to from the root; -1 = none."""
        exists, place = self._dense(jnp.ones_like(tokens), tokens)
        return jnp.where(exists, self.targets[self.offsets[0] + place], -1)

    def _dense(self, row: Array, tokens: Array) -> tuple[Array, Array]:
        """Whether rows of bits have tokens [R], and how many edges come before."""
        word, bit = tokens >> 5, (tokens & 31).astype(jnp.uint32)
        bits = self.bits[row, word]
        lower = bits & ((jnp.uint32(1) << bit) - 1)
        before = self.before[row, word] + jax.lax.population_count(lower).astype(jnp.int32)
        return (bits >> bit) & 1 > 0, before


def on_device(automaton: Automaton, vocab: int) -> DeviceTrie:
    """An automaton on the device.

    Args:
        automaton: of a `Trie` or a template.
        vocab: V; a token above V - 1 is for the caller to refuse.
    """
    offsets, tokens = automaton.offsets, automaton.tokens
    count, words = np.diff(offsets), -(-vocab // 32)
    short = _SHORT
    while (count > short).sum() * words * 4 > _BITS:
        short *= 2
    many = np.union1d([0], np.flatnonzero(count > short))
    rows, nodes = _padded(len(many) + 1), _padded(len(count) + 1)
    edges = _padded(len(tokens) + short)
    long = np.zeros(nodes, np.int32)
    long[many] = 1 + np.arange(len(many))
    row = np.repeat(long[: len(count)], count)
    listed = np.flatnonzero(row)
    word = row[listed].astype(np.int64) * words + (tokens[listed] >> 5)
    bits = np.zeros(rows * words, np.uint32)
    np.bitwise_or.at(bits, word, np.uint32(1) << (tokens[listed] & 31).astype(np.uint32))
    held = np.bincount(word, minlength=rows * words).reshape(rows, words)
    before = (np.cumsum(held, axis=1) - held).astype(np.int32)

    def filled(array: np.ndarray, size: int, value: int | bool) -> Array:
        out = np.full(size, value, array.dtype)
        out[: len(array)] = array
        return jnp.asarray(out)

    return DeviceTrie(
        filled(offsets, nodes + 1, int(offsets[-1])),
        filled(tokens, edges, -1),
        filled(automaton.targets, edges, 0),
        filled(automaton.final, nodes, True),
        jnp.asarray(long),
        jnp.asarray(bits.reshape(rows, words)),
        jnp.asarray(before),
        short=short,
    )


def _padded(size: int) -> int:
    """`size`, rounded up to one of 64 80 96 112 128 160 ..."""
    power = max(64, 1 << (size - 1).bit_length() - 1)
    return -(-max(size, 64) * 4 // power) * power // 4
