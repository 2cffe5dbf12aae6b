"""Decoding one sequence a row: the loop around a model's step."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from recjax.generate.processors import Processor
from recjax.generate.sampling import Sampler, greedy, log_prob
from recjax.typing import Array

# `(tokens [B] int32, cache) -> (logits [B V] of the token after them, cache)`. The cache is any
# pytree that knows its own positions; a finished row is fed the pad id, and what comes is dropped.
Step = Callable[[Array, Any], tuple[Array, Any]]


class Generated(NamedTuple):
    """What `decode` wrote.

    Attributes:
        tokens: [B max_new_tokens] int32, the pad id after a row's end.
        lengths: [B] tokens written, the stop token among them.
        log_probs: [B max_new_tokens] of each token, after the processors and before the sampler's
            temperature, top-k and top-p; 0 after the end. XLA
            leaves them out of a jitted function that does not return them.
        stopped: [B] True if a stop token ended the row, False if the limit did.
    """

    tokens: Array
    lengths: Array
    log_probs: Array
    stopped: Array


class _Run(NamedTuple):
    length: Array  # [] tokens so far
    written: Generated
    done: Array  # [B]
    states: tuple  # of the processors


def is_stop(tokens: Array, stop: Array) -> Array:
    """Which of `tokens` [...] are among `stop` [n]; negative stop ids match none."""
    return (tokens[..., None] == stop).any(-1)


def no_stop() -> Array:
    """The empty set of stop tokens."""
    return jnp.zeros(0, jnp.int32)


def _greedy(logits: Array, length: Array) -> Array:
    return greedy(logits)


def _sample(sampler: Sampler, keys: Array, logits: Array, length: Array) -> Array:
    return sampler(logits, jax.vmap(jax.random.fold_in, (0, None))(keys, length))


def decode(
    step: Step,
    logits: Array,
    cache: Any,
    *,
    max_new_tokens: int,
    limit: Array | int | None = None,
    stop: Array | None = None,
    pad_id: Array | int = 0,
    sampler: Sampler | None = None,
    keys: Array | None = None,
    processors: Sequence[Processor] = (),
) -> Generated:
    """Writes up to `max_new_tokens` after a prompt; ends when every row has ended.

    To be called inside a jitted function. `max_new_tokens`, `step`, whether there is a sampler,
    and the number of stop tokens are static; everything else may change without a compilation.

    Args:
        step: the model after its prefill.
        logits: [B V] after each prompt's last token.
        cache: after the prompts; has room for `max_new_tokens` more.
        max_new_tokens: length of the buffers, at least 1.
        limit: [] or [B] number of tokens to write, at most `max_new_tokens`, which is the default.
        stop: [n] tokens that end a row, -1 = none; by default nothing but the limit does.
        pad_id: what follows a row's end; a token that `step` accepts.
        sampler: draws the tokens; by default the most likely ones are taken.
        keys: [B] random keys for the sampler (`row_keys`); token t of a row is drawn by its key
            folded with t, so neither the batch nor `max_new_tokens` changes it.
        processors: applied in their order.
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens {max_new_tokens}; expected 1 or more")
    if sampler is None:
        pick: Callable[[Array, Array], Array] = _greedy
    elif keys is None:
        raise ValueError("a sampler needs keys, one a row; see row_keys")
    else:
        pick = functools.partial(_sample, sampler, keys)
    rows = logits.shape[0]
    stop = no_stop() if stop is None else stop
    limit = jnp.broadcast_to(max_new_tokens if limit is None else limit, (rows,))
    limit = jnp.minimum(limit, max_new_tokens)

    def choose(run: _Run, logits: Array) -> tuple[Array, _Run]:
        """Tokens [B] from the logits before them, written into the run."""
        logits = logits.astype(jnp.float32)
        for processor, state in zip(processors, run.states, strict=True):
            logits = processor(state, logits, run.length)
        picked = pick(logits, run.length)
        active = ~run.done
        tokens = jnp.where(active, picked, pad_id).astype(jnp.int32)
        stopped = active & is_stop(tokens, stop)
        out = run.written
        out = Generated(
            out.tokens.at[:, run.length].set(tokens),
            out.lengths + active,
            out.log_probs.at[:, run.length].set(jnp.where(active, log_prob(logits, picked), 0.0)),
            out.stopped | stopped,
        )
        states = tuple(
            processor.update(state, tokens, active)
            for processor, state in zip(processors, run.states, strict=True)
        )
        length = run.length + 1
        return tokens, _Run(length, out, run.done | stopped | (length >= limit), states)

    def body(carry: tuple[Array, Any, _Run]) -> tuple[Array, Any, _Run]:
        tokens, cache, run = carry
        logits, cache = step(tokens, cache)
        tokens, run = choose(run, logits)
        return tokens, cache, run

    shape = (rows, max_new_tokens)
    empty = Generated(
        jnp.full(shape, pad_id, jnp.int32),
        jnp.zeros(rows, jnp.int32),
        jnp.zeros(shape),
        jnp.zeros(rows, bool),
    )
    states = tuple(processor.init(rows) for processor in processors)
    run = _Run(jnp.int32(0), empty, limit <= 0, states)
    tokens, run = choose(run, logits)  # before the loop, so that no step is for nothing
    return lax.while_loop(lambda carry: ~carry[2].done.all(), body, (tokens, cache, run))[2].written
