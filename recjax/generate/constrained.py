"""Constrained decoding: a logits processor that runs an automaton over tokens (`trie`)."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from recjax.errors import InputError
from recjax.generate.loop import is_stop
from recjax.generate.templates import Template, Trie
from recjax.generate.trie import DeviceTrie, on_device
from recjax.typing import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Constraint:
    """Allows the texts of a template, each with a stop token behind it; made by `constrain`.

    Of several stop tokens the likeliest ends a text, with the probability of all of them.
    Its state is the node [B] of each row. A row that is forced off the template (by a processor
    that forbids all of its tokens) may only stop.

    Attributes:
        trie: what may be written.
        stop: [n] tokens that end a text, n >= 1.
    """

    trie: DeviceTrie
    stop: Array

    def init(self, rows: int) -> Array:
        """See `Processor.init`."""
        return jnp.zeros(rows, jnp.int32)

    def __call__(self, state: Array, logits: Array, step: Array) -> Array:
        rows, vocab = logits.shape
        end = self.stop[:1]
        if self.stop.size > 1:  # one text ends with any of them: beams must not hold it twice
            each = logits[:, self.stop]
            end = self.stop[each.argmax(axis=1)]
            logits = logits.at[jnp.arange(rows), end].set(jax.nn.logsumexp(each, axis=1))
        end = jnp.where(self.trie.final[state], end, vocab)
        return self.trie.masked(state, logits, end[:, None])

    def update(self, state: Array, tokens: Array, active: Array) -> Array:
        """See `Processor.update`."""
        after = self.trie.child(state, tokens)
        after = jnp.where(after < 0, self.trie.off, after)
        return jnp.where(active & ~is_stop(tokens, self.stop), after, state)


def constrain(
    template: Template | Trie, stop: Sequence[int], vocab: int, trie: DeviceTrie | None = None
) -> Constraint:
    """The processor of a template, or of titles alone.

    Args:
        template: what may be written.
        stop: tokens that end a text, those of `decode` or `beam_search`; at least one.
        vocab: V, the number of logits.
        trie: the template's automaton on the device, where it is there already.

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
    trie = on_device(automaton, vocab) if trie is None else trie
    return Constraint(trie, jnp.asarray(np.array(ends, np.int32)))
