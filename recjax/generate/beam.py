"""Beam search: the sequences of high total probability, several a row.

The rules are those of transformers' `generate` (5.x), so that scores and sequences agree with it:
- Each step ranks all continuations of a row's beams by summed log-probability and looks at the
  best `beams * max(2, 1 + stop tokens)`: of the first `beams` those that end are candidates for
  the result, and the best `beams` that do not end go on.
- A result's score is its summed log-probability / length ** length_penalty; the length counts the
  new tokens, the stop token among them. At the limit every beam ends.
- A row is done when its results are full and (`early_stopping` True) at once; (False) when the
  best beam, scored at its present length, is no better than the worst result; ("never") when it
  is no better even at the length that favours it most, which is the search of the textbooks.

Deviations: a row that is done is left alone, in transformers too it cannot change any more. A
sequence of probability 0 is no result (transformers may return it with a score of about -1e9).
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from recjax.generate.loop import Last, Step, is_stop, no_stop
from recjax.generate.processors import Processor
from recjax.generate.sampling import top_k
from recjax.typing import Array, check_shapes

# `(cache, rows [n]) -> cache` with n rows, of which row b is the old row `rows[b]`.
Reorder = Callable[[Any, Array], Any]


class Beams(NamedTuple):
    """The result of `beam_search`, the best first.

    Attributes:
        tokens: [B beams max_new_tokens] int32, the pad id after the end.
        lengths: [B beams] new tokens, the stop token among them; 0 where nothing was found.
        scores: [B beams] summed log-probability / length ** length_penalty; -inf where there
            were fewer sequences than beams.
    """

    tokens: Array
    lengths: Array
    scores: Array


class _Search(NamedTuple):
    length: Array  # [] tokens so far
    tokens: Array  # [B beams max_new_tokens] of the beams that go on
    sums: Array  # [B beams] their log-probabilities, falling; -inf = no beam
    results: Beams
    done: Array  # [B]
    states: Any  # of the processors, B * beams rows


def beam_search(
    step: Step,
    logits: Array,
    cache: Any,
    reorder: Reorder,
    *,
    max_new_tokens: int,
    beams: int,
    limit: Array | int | None = None,
    stop: Array | None = None,
    pad_id: Array | int = 0,
    length_penalty: Array | float = 1.0,
    early_stopping: Literal[True, False, "never"] = False,
    processors: Sequence[Processor] = (),
    last: Last | None = None,
) -> Beams:
    """The best `beams` continuations of each prompt; ends when every row is done.

    To be called inside a jitted function. Static are `max_new_tokens`, `beams`, `early_stopping`,
    `step`, `reorder` and the number of stop tokens.

    Args:
        step: the model after its prefill, on B * beams rows: row b * beams + k is beam k of row b.
        logits: [B V] after each prompt's last token.
        cache: after the B prompts; `reorder` makes the rows of the beams.
        reorder: picks rows of the cache, first B * beams of its B rows.
        max_new_tokens: length of the buffers, at least 1.
        beams: how many sequences a row keeps and returns.
        limit: [] or [B] tokens to write, at most `max_new_tokens`, which is the default; from 1.
        stop: [n] tokens that end a sequence, -1 = none; by default nothing but the limit does.
        pad_id: what follows a sequence's end; a token that `step` accepts.
        length_penalty: 0 compares sums, 1 means, more favours longer sequences.
        early_stopping: when a row is done; see above.
        processors: applied to log-probabilities in their order, and not normalised after.
        last: ends beams before the limit.
    """
    if max_new_tokens < 1 or beams < 1:
        raise ValueError(f"max_new_tokens {max_new_tokens}, beams {beams}; expected 1 or more")
    check_shapes("BV", logits=logits)
    rows = len(logits)
    limit = jnp.broadcast_to(max_new_tokens if limit is None else limit, (rows,))
    advance = _Step(
        beams,
        jnp.minimum(limit, max_new_tokens),
        no_stop() if stop is None else jnp.asarray(stop),
        pad_id,
        length_penalty,
        early_stopping,
        processors,
        last,
    )

    def body(carry: tuple[Array, Any, _Search]) -> tuple[Array, Any, _Search]:
        tokens, cache, search = carry
        logits, cache = step(tokens, cache)
        tokens, rows_before, search = advance(search, logits)
        return tokens, reorder(cache, rows_before), search

    empty = jnp.full((rows, beams, max_new_tokens), pad_id, jnp.int32)
    no_scores = jnp.full((rows, beams), -jnp.inf, jnp.float32)
    search = _Search(
        jnp.int32(0),
        empty,
        no_scores.at[:, 0].set(0.0),  # the beams begin alike: one of them counts
        Beams(empty, jnp.zeros((rows, beams), jnp.int32), no_scores),
        jnp.zeros(rows, bool),
        tuple(processor.init(rows * beams) for processor in processors),
    )
    tokens, rows_before, search = advance(search, jnp.repeat(logits, beams, axis=0))
    cache = reorder(cache, rows_before // beams)
    carry = tokens, cache, search
    return lax.while_loop(lambda carry: ~carry[2].done.all(), body, carry)[2].results


@dataclasses.dataclass(frozen=True, eq=False)
class _Step:
    """A step of `beam_search` with its options; it considers C continuations of each row."""

    beams: int
    limit: Array  # [B]
    stop: Array  # [n]
    pad_id: Array | int
    length_penalty: Array | float
    early_stopping: Literal[True, False, "never"]
    processors: Sequence[Processor]
    last: Last | None

    def __call__(self, search: _Search, logits: Array) -> tuple[Array, Array, _Search]:
        """Tokens [B * beams], the rows that they follow [B * beams], and the search after them."""
        sums, tokens, parents = self._continuations(search, logits)
        sequences = _take(search.tokens, parents).at[..., search.length].set(tokens)
        length = search.length + 1
        ends = is_stop(tokens, self.stop) | (length >= self.limit)[:, None]
        if self.last is not None:
            ends |= _take(self.last(search.states).reshape(search.sums.shape), parents)
        results = self._results(search, sums, sequences, ends)

        sums, chosen = top_k(jnp.where(ends, -jnp.inf, sums), self.beams)
        parents, tokens, sequences = (_take(a, chosen) for a in (parents, tokens, sequences))
        rows_before = (jnp.arange(len(sums))[:, None] * self.beams + parents).reshape(-1)
        alive = (sums > -jnp.inf).reshape(-1)
        tokens = jnp.where(alive, tokens.reshape(-1), self.pad_id).astype(jnp.int32)
        states = tuple(
            processor.update(jax.tree.map(lambda a: a[rows_before], state), tokens, alive)
            for processor, state in zip(self.processors, search.states, strict=True)
        )
        done = search.done | self._done(results.scores, sums[:, 0], length)
        return tokens, rows_before, _Search(length, sequences, sums, results, done, states)

    def _continuations(self, search: _Search, logits: Array) -> tuple[Array, Array, Array]:
        """The best continuations [B C]: their sums, their tokens and the beams that they go on."""
        rows, vocab = len(search.sums), logits.shape[1]
        logits = logits.astype(jnp.float32)
        norm = jax.nn.logsumexp(logits, -1, keepdims=True)
        if self.processors:
            logits, norm = logits - norm, jnp.zeros_like(norm)
        for processor, state in zip(self.processors, search.states, strict=True):
            logits = processor(state, logits, search.length)
        considered = min(self.beams * max(2, 1 + self.stop.size), self.beams * vocab)
        # The best of each beam first: they are few, and only they need the norm and the sums.
        steps, tokens = top_k(logits, min(considered, vocab))
        sums = (steps - norm).reshape(rows, self.beams, -1) + search.sums[..., None]
        sums, places = top_k(sums.reshape(rows, -1), considered)
        return sums, _take(tokens.reshape(rows, -1), places), places // steps.shape[1]

    def _results(self, search: _Search, sums: Array, sequences: Array, ends: Array) -> Beams:
        """The results so far and those of the first `beams` continuations that end: the best."""
        first = slice(None), slice(self.beams)
        length = search.length + 1
        scores = sums[first] / length.astype(jnp.float32) ** self.length_penalty
        scores = jnp.where(ends[first] & ~search.done[:, None], scores, -jnp.inf)
        lengths = jnp.where(scores > -jnp.inf, length, 0)
        tokens = jnp.where(lengths[..., None] > 0, sequences[first], self.pad_id)
        ended = Beams(tokens, lengths, scores)
        joined = jax.tree.map(lambda *pair: jnp.concatenate(pair, axis=1), search.results, ended)
        order = top_k(joined.scores, self.beams)[1]  # of equals the earlier ones
        return jax.tree.map(lambda a: _take(a, order), joined)

    def _done(self, scores: Array, best: Array, length: Array) -> Array:
        """[B] bool, whether the best sum [B] can no longer lead to a better result."""
        full = scores[:, -1] > -jnp.inf
        lengths = jnp.broadcast_to(length, self.limit.shape).astype(jnp.float32)
        if self.early_stopping == "never":
            lengths = jnp.where(self.length_penalty > 0, self.limit, lengths)
        hopeless = full & (best / lengths**self.length_penalty <= scores[:, -1])
        return hopeless | (best == -jnp.inf) | (full if self.early_stopping is True else False)


def _take(array: Array, index: Array) -> Array:
    """Rows [B k ...] of an array [B n ...], chosen for each b by an index [B k]."""
    return jnp.take_along_axis(array, index.reshape(index.shape + (1,) * (array.ndim - 2)), 1)
