"""Constrained decoding: a logits processor that runs an automaton over tokens.

What may follow a node is a list of tokens. Most lists are short, and a few are very long (the first
tokens of all titles), so short ones are scattered into the mask and long ones are kept as bits:
neither the vocabulary times the nodes nor the longest list is paid for at each step.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from recjax.errors import InputError
from recjax.generate.loop import is_stop
from recjax.generate.templates import Template
from recjax.typing import Array

_SHORT = 32  # longest list of tokens that is scattered, unless the bits would take more than
_BITS = 1 << 25  # so many bytes


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Constraint:
    """Only what a template can write, then a stop token; a `Processor`, made by `constrain`.

    Its state is the node [B] of each row. A row that is forced off the template (by a processor
    that forbids all of its tokens) may only stop.

    Attributes:
        offsets, tokens, targets: the automaton's edges; one more node, the last, is off it.
        final: [nodes] bool, True where a stop token may follow.
        long: [nodes] int32, the row of `bits` of a node with many edges, 0 for one with few.
        bits: [rows V/32] uint32, the tokens that may follow such nodes; row 0 has none.
        stop: [n] tokens that end a text, -1 = none.
        short: most edges of a node that has no row of bits.
        depth: steps of a binary search among the edges of a node.
    """

    offsets: Array
    tokens: Array
    targets: Array
    final: Array
    long: Array
    bits: Array
    stop: Array
    short: int = dataclasses.field(metadata={"static": True})
    depth: int = dataclasses.field(metadata={"static": True})

    def init(self, rows: int) -> Array:
        """See `Processor.init`."""
        return jnp.zeros(rows, jnp.int32)

    def __call__(self, state: Array, logits: Array, step: Array) -> Array:
        rows, vocab = logits.shape
        first, count = self.offsets[state], self.offsets[state + 1] - self.offsets[state]
        count = jnp.where(self.long[state] > 0, 0, count)
        places = jnp.arange(self.short)
        listed = self.tokens[first[:, None] + places]  # reads past the end give the last token
        listed = jnp.where(places < count[:, None], listed, vocab)
        ends = jnp.where(self.final[state][:, None] & (self.stop >= 0), self.stop, vocab)
        listed = jnp.concatenate([listed, ends], axis=1)
        words = self.bits[self.long[state]]
        mask = (words[:, :, None] >> jnp.arange(32, dtype=jnp.uint32)) & 1
        mask = mask.reshape(rows, -1)[:, :vocab].astype(bool)
        mask = mask.at[jnp.arange(rows)[:, None], listed].set(True, mode="drop")
        return jnp.where(mask, logits, -jnp.inf)

    def update(self, state: Array, tokens: Array, active: Array) -> Array:
        """See `Processor.update`."""
        low, end = self.offsets[state], self.offsets[state + 1]

        def halve(_, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = bounds
            middle = (low + high) // 2
            below = (middle < high) & (self.tokens[middle] < tokens)
            return jnp.where(below, middle + 1, low), jnp.where(below, high, middle)

        # The first edge whose token is not below. A loop: unrolled, XLA fuses the steps into one
        # another, twice each, and compiles for minutes (jax 0.12).
        low, _ = lax.fori_loop(0, self.depth, halve, (low, end))
        follows = (low < end) & (self.tokens[low] == tokens)
        after = jnp.where(follows, self.targets[low], self.final.size - 1)
        return jnp.where(active & ~is_stop(tokens, self.stop), after, state)


def constrain(template: Template, stop: Sequence[int], vocab: int) -> Constraint:
    """The processor of a template.

    Args:
        template: what may be written.
        stop: tokens that end a text, those of `decode` or `beam_search`; at least one.
        vocab: V, the number of logits.

    Raises:
        InputError: no stop token, one that the template writes itself, or a token above V - 1.
    """
    automaton = template.automaton
    ends = sorted({int(token) for token in stop if token >= 0})
    if not ends:
        raise InputError("constrained decoding: no stop token; expected one to end a text with")
    within = np.intersect1d(ends, automaton.tokens)
    if within.size:
        raise InputError(f"constrained decoding: stop token {within[0]} is part of the template")
    highest = max(ends[-1], int(automaton.tokens.max()))
    if highest >= vocab:
        raise InputError(f"constrained decoding: token {highest}; expected at most {vocab - 1}")
    count = np.diff(automaton.offsets)
    words = -(-vocab // 32)
    short = min(_SHORT, int(count.max()))
    while (count > short).sum() * words * 4 > _BITS:
        short *= 2
    many = np.flatnonzero(count > short)
    long = np.zeros(len(count) + 1, np.int32)
    long[many] = 1 + np.arange(len(many))
    allowed = np.zeros((len(many) + 1, words * 32), bool)
    for row, node in enumerate(many):
        edges = slice(automaton.offsets[node], automaton.offsets[node + 1])
        allowed[row + 1, automaton.tokens[edges]] = True
    bits = np.packbits(allowed, axis=1, bitorder="little").view("<u4").astype(np.uint32)
    return Constraint(
        jnp.asarray(np.append(automaton.offsets, automaton.offsets[-1])),
        jnp.asarray(automaton.tokens),
        jnp.asarray(automaton.targets),
        jnp.asarray(np.append(automaton.final, True)),
        jnp.asarray(long),
        jnp.asarray(bits),
        jnp.asarray(np.array(ends, np.int32)),
        short=short,
        depth=int(count.max()).bit_length(),
    )
