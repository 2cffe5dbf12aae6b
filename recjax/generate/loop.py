"""Decoding one sequence a row: the loop around a model's step."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from recjax.generate.processors import Processor
from recjax.generate.sampling import Sampler, greedy, log_prob
from recjax.typing import Array, check_shapes

# `(tokens [B] int32, cache) -> (logits [B V] of the token after them, cache)`. The cache is any
# pytree that knows its own positions; a finished row is fed the pad id, and what comes is dropped.
Step = Callable[[Array, Any], tuple[Array, Any]]
# `(cache, rows [R] or None, n) -> cache` of those rows (None: of all), with room for n tokens after
# the prompts.
Fit = Callable[[Any, Array | None, int], Any]
# `(states of the processors) -> [R] bool`: rows whose next token is their last, whatever it is.
Last = Callable[[tuple], Array]

_MANY = 256  # rows that are worth stages


class Generated(NamedTuple):
    """The result of `decode`.

    Attributes:
        tokens: [B max_new_tokens] int32, the pad id after a row's end.
        lengths: [B] tokens written, the stop token among them.
        log_probs: [B max_new_tokens] of each token, after the processors and before the sampler's
            temperature, top-k and top-p; 0 after the end. XLA leaves them out of a jitted function
            that does not return them.
        stopped: [B] True if a stop token ended the row, False if the limit did.
    """

    tokens: Array
    lengths: Array
    log_probs: Array
    stopped: Array


class _Run(NamedTuple):
    length: Array  # [] tokens so far
    rows: "_Rows"


class _Rows(NamedTuple):
    """The state of each row that is being written; `take` leaves some of them."""

    number: Array  # [R] which of the B rows it is
    written: Generated
    done: Array  # [R]
    limit: Array  # [R]
    keys: Array | None  # [R]
    states: tuple  # of the processors

    def take(self, rows: Array) -> "_Rows":
        return jax.tree.map(lambda a: a[rows], self)


def is_stop(tokens: Array, stop: Array) -> Array:
    """Which of `tokens` [...] are among `stop` [n]; negative stop ids match none."""
    return (tokens[..., None] == stop.reshape((1,) * tokens.ndim + (-1,))).any(-1)


def no_stop() -> Array:
    """The empty set of stop tokens."""
    return jnp.zeros(0, jnp.int32)


def _stages(rows: int, tokens: int) -> list[tuple[int, int]]:
    """The stages of `decode` as `(rows, tokens with room)`: half of the tokens, all of them, then
    a half, a quarter and an eighth of the rows."""
    if rows < _MANY:
        return [(rows, tokens)]
    return [(rows, -(-tokens // 2)), *((rows // part, tokens) for part in (1, 2, 4, 8))]


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
    last: Last | None = None,
    fit: Fit | None = None,
) -> Generated:
    """Writes up to `max_new_tokens` after a prompt; ends when every row has ended.

    With `fit`, 256 rows or more are written in stages: the cache gets room for the second half of
    the tokens when the first is written, and when half of the rows have ended the others go on
    alone, and so twice more. The tokens are the same. Each stage is a copy of the loop in the
    program, which takes its time to compile.

    To be called inside a jitted function. `max_new_tokens`, `step`, whether there is a sampler,
    and the number of stop tokens are static; everything else may change without a compilation.

    Args:
        step: the model after its prefill.
        logits: [B V] after each prompt's last token.
        cache: after the prompts; has room for `max_new_tokens` more, or `fit` makes it.
        max_new_tokens: length of the buffers, at least 1.
        limit: [] or [B] number of tokens to write, at most `max_new_tokens`, which is the default.
        stop: [n] tokens that end a row, -1 = none; by default nothing but the limit does.
        pad_id: what follows a row's end; a token that `step` accepts.
        sampler: draws the tokens; by default the most likely ones are taken.
        keys: [B] random keys for the sampler (`row_keys`); token t of a row is drawn by its key
            folded with t, so neither the batch nor `max_new_tokens` changes it.
        processors: applied in their order.
        last: ends rows before their limit.
        fit: where arithmetic and the size of the cache take the time (a CPU), not reading the
            weights.
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens {max_new_tokens}; expected 1 or more")
    if sampler is not None and keys is None:
        raise ValueError("a sampler needs keys, one a row; see row_keys")
    check_shapes("BV, B", logits=logits, keys=keys)
    count = logits.shape[0]
    stop = no_stop() if stop is None else jnp.asarray(stop)
    limit = jnp.broadcast_to(max_new_tokens if limit is None else limit, (count,))
    limit = jnp.minimum(limit, max_new_tokens)

    def choose(run: _Run, logits: Array) -> tuple[Array, _Run]:
        """Tokens [R] from the logits before them, written into the run."""
        length, rows = run
        logits = logits.astype(jnp.float32)
        for processor, state in zip(processors, rows.states, strict=True):
            logits = processor(state, logits, length)
        if sampler is None:
            picked = greedy(logits)
        else:
            assert rows.keys is not None
            picked = sampler(logits, jax.vmap(jax.random.fold_in, (0, None))(rows.keys, length))
        active = ~rows.done
        tokens = jnp.where(active, picked, pad_id).astype(jnp.int32)
        stopped = active & is_stop(tokens, stop)
        out = rows.written
        out = Generated(
            out.tokens.at[:, length].set(tokens),
            out.lengths + active,
            out.log_probs.at[:, length].set(jnp.where(active, log_prob(logits, picked), 0.0)),
            out.stopped | stopped,
        )
        done = rows.done | stopped | (length + 1 >= rows.limit)
        if last is not None:
            done |= last(rows.states)
        states = tuple(
            processor.update(state, tokens, active)
            for processor, state in zip(processors, rows.states, strict=True)
        )
        length += 1
        return tokens, _Run(length, rows._replace(written=out, done=done, states=states))

    def body(carry: tuple[Array, Any, _Run]) -> tuple[Array, Any, _Run]:
        tokens, cache, run = carry
        logits, cache = step(tokens, cache)
        tokens, run = choose(run, logits)
        return tokens, cache, run

    shape = (count, max_new_tokens)
    result = Generated(
        jnp.full(shape, pad_id, jnp.int32),
        jnp.zeros(count, jnp.int32),
        jnp.zeros(shape, jnp.float32),
        jnp.zeros(count, bool),
    )
    states = tuple(processor.init(count) for processor in processors)
    rows = _Rows(jnp.arange(count), result, limit <= 0, limit, keys, states)
    # Before the loop, so that no step is for nothing.
    tokens, run = choose(_Run(jnp.int32(0), rows), logits)
    stages = [(count, max_new_tokens)] if fit is None else _stages(count, max_new_tokens)
    for stage, (size, room) in enumerate(stages):
        chosen = None
        if size < len(tokens):  # those that go on, and some that have ended to make up the number
            result = _put(result, run.rows)
            chosen = jnp.argsort(run.rows.done, stable=True)[:size]
            tokens, run = tokens[chosen], _Run(run.length, run.rows.take(chosen))
        if fit is not None:
            cache = fit(cache, chosen, room)
        fewer = max((n for n, _ in stages[stage + 1 :] if n < size), default=0)

        def goes_on(carry: tuple[Array, Any, _Run], room: int = room, fewer: int = fewer) -> Array:
            length, rows = carry[2]
            return (length < room) & ((~rows.done).sum() > fewer)

        tokens, cache, run = lax.while_loop(goes_on, body, (tokens, cache, run))
    return _put(result, run.rows)


def _put(result: Generated, rows: _Rows) -> Generated:
    """The result of all rows, with the rows of `rows` replaced."""
    return jax.tree.map(lambda a, b: a.at[rows.number].set(b), result, rows.written)
