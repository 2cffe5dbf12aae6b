"""Logits processors: they forbid tokens, or make them less likely, than the model has them.

A processor is a pytree, so that its numbers may change without a new compilation, and carries a
state a row. `decode` and `beam_search` apply processors in their order, before the sampler:
`decode` to logits, `beam_search` to log-probabilities, as transformers does (a repetition penalty
therefore acts differently in the two).
"""

import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from recjax.typing import Array


class Processor(Protocol):
    """The contract. States are pytrees of arrays whose first axis is the row."""

    def init(self, rows: int) -> Any:
        """The state before the first new token; beam search has B times beams rows."""

    def __call__(self, state: Any, logits: Array, step: Array) -> Array:
        """Logits [B V] of the next token; -inf forbids one.

        Args:
            state: of `init` or `update`.
            logits: [B V] float32.
            step: [] number of new tokens so far.
        """

    def update(self, state: Any, tokens: Array, active: Array) -> Any:
        """The state after `tokens` [B], of which only those of `active` rows [B] count."""


class Stateless:
    """The part of the contract about states, for processors without any."""

    def init(self, rows: int) -> tuple:
        """See `Processor.init`."""
        return ()

    def update(self, state: tuple, tokens: Array, active: Array) -> tuple:
        """See `Processor.update`."""
        return state


def token_mask(tokens: Array, vocab: int) -> Array:
    """[V] bool, True at `tokens` [n]; negative ones are none."""
    tokens = jnp.where(tokens < 0, vocab, tokens)
    return jnp.zeros(vocab, bool).at[tokens].set(True, mode="drop")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ForbiddenTokens(Stateless):
    """Forbids tokens.

    Attributes:
        tokens: [n]; negative ones are none.
    """

    tokens: Array

    def __call__(self, state: tuple, logits: Array, step: Array) -> Array:
        return jnp.where(token_mask(self.tokens, logits.shape[1]), -jnp.inf, logits)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KnownTokens(Stateless):
    """Forbids ids beyond the tokenizer's: the rows that pad an embedding stand for nothing.

    Attributes:
        size: [] number of ids.
    """

    size: Array | int

    def __call__(self, state: tuple, logits: Array, step: Array) -> Array:
        return jnp.where(jnp.arange(logits.shape[1]) < self.size, logits, -jnp.inf)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MinNewTokens(Stateless):
    """Forbids stop tokens among the first `count` new tokens.

    Attributes:
        count: [] new tokens before the first that may be a stop token.
        stop: [n] the stop tokens.
    """

    count: Array | int
    stop: Array

    def __call__(self, state: tuple, logits: Array, step: Array) -> Array:
        early = token_mask(self.stop, logits.shape[1]) & (step < self.count)
        return jnp.where(early, -jnp.inf, logits)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RepetitionPenalty:
    """Tokens of the prompt and of the answer so far become less likely (Keskar et al. 2019, CTRL).

    Positive logits are divided by the penalty, negative ones multiplied, as in transformers; the
    paper divides both. Unlike in transformers, the padding of a prompt is not part of it.

    Attributes:
        penalty: [], above 1 discourages, 1 changes nothing.
        prompt: [B V] bool, the tokens of each prompt (`seen_tokens`).
    """

    penalty: Array | float
    prompt: Array

    def init(self, rows: int) -> Array:
        """See `Processor.init`."""
        return jnp.repeat(self.prompt, rows // self.prompt.shape[0], axis=0)

    def __call__(self, state: Array, logits: Array, step: Array) -> Array:
        lower = jnp.where(logits > 0, logits / self.penalty, logits * self.penalty)
        return jnp.where(state, lower, logits)

    def update(self, state: Array, tokens: Array, active: Array) -> Array:
        """See `Processor.update`."""
        return state.at[jnp.arange(tokens.size), tokens].max(active)


def seen_tokens(tokens: Array, mask: Array, vocab: int) -> Array:
    """[B V] bool, True at the tokens that a row holds.

    Args:
        tokens: [B T].
        mask: [B T], True = real.
        vocab: V.
    """
    rows = jnp.arange(tokens.shape[0])[:, None]
    return jnp.zeros((tokens.shape[0], vocab), bool).at[rows, tokens].max(mask)
