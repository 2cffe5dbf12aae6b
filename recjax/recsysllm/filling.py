"""The program that fills blanks: texts are read once, then one loop writes all their blanks.

`<sop>` begins the text of each blank. It also leads from one blank to the next: until a row's last
blank, the logit of an end stands in its place. So what is written is what the model reads, an end
is never read (as in training), and the rows of a step may stand in different blanks.

A blank that is cut off by its limit ends after its last token, which is never read, as in GLM's own
sampler.
"""

import dataclasses
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from recjax.generate.beam import beam_search
from recjax.generate.loop import decode
from recjax.generate.processors import Processor
from recjax.generate.sampling import Sampler
from recjax.models.definition import ModelDef
from recjax.nn.backend import platform
from recjax.nn.masks import make_mask
from recjax.recsysllm.dynamic import InnerState
from recjax.typing import Array, Params


class InnerRule(Protocol):
    """Inner positions of what is written: `dynamic.DynamicPositions` or `.CountedPositions`."""

    def init(self, rows: int) -> InnerState:
        """The state before `<sop>`."""

    def update(self, state: InnerState, tokens: Array) -> InnerState:
        """The state after tokens [R]."""


class _BlankState(NamedTuple):
    """The blanks that the rows are writing.

    Attributes:
        blank: [R] the blank that it writes.
        size: [R] tokens of that blank's text so far, without `<sop>`.
        blanks: [R] how many it has.
    """

    blank: Array
    size: Array
    blanks: Array

    def has_next(self) -> Array:
        """[R] bool, whether another blank follows."""
        return self.blank + 1 < self.blanks

    def step(self, tokens: Array, sop: Array, limit: Array) -> tuple["_BlankState", Array]:
        """The state after tokens [R], and [R] bool, whether the token cut its blank off."""
        next_one = tokens == sop
        size = jnp.where(next_one, 0, self.size + 1)
        cut = self.has_next() & (size >= limit)
        blank = self.blank + (next_one | cut)
        return _BlankState(blank, jnp.where(cut, 0, size), self.blanks), cut


@dataclasses.dataclass(frozen=True)
class BlankEnds:
    """Turns the end of a blank into `<sop>` where another follows; a `Processor`, the last one.

    `<sop>` is written nowhere else. Where several tokens may end a text, the likeliest counts.

    Attributes:
        blanks: [B] of each row.
        limit: [] most tokens of a blank.
        sop: [] the token that begins a blank's text.
        ends: [n] those that end one.
        constraint: what may be written in each blank, or None.
    """

    blanks: Array
    limit: Array
    sop: Array
    ends: Array
    constraint: Processor | None

    def init(self, rows: int) -> Any:
        """See `Processor.init`."""
        zeros = jnp.zeros(rows, jnp.int32)
        at = _BlankState(zeros, zeros, jnp.repeat(self.blanks, rows // len(self.blanks)))
        return at, None if self.constraint is None else self.constraint.init(rows)

    def __call__(self, state: Any, logits: Array, step: Array) -> Array:
        at, inner = state
        if self.constraint is not None:
            logits = self.constraint(inner, logits, step)
        more, ends = at.has_next(), logits[:, self.ends]
        logits = logits.at[:, self.ends].set(jnp.where(more[:, None], -jnp.inf, ends))
        return logits.at[:, self.sop].set(jnp.where(more, ends.max(axis=1), -jnp.inf))

    def update(self, state: Any, tokens: Array, active: Array) -> Any:
        """See `Processor.update`."""
        at, inner = state
        after, _ = at.step(tokens, self.sop, self.limit)
        begins = after.blank != at.blank
        if self.constraint is not None:
            first = self.constraint.init(len(tokens))
            inner = self.constraint.update(inner, tokens, active & ~begins)
            inner = jnp.where(active & begins, first, inner)
        return jax.tree.map(lambda new, old: jnp.where(active, new, old), after, at), inner

    def last(self, states: tuple) -> Array:
        """`loop.Last`, for processors of which this is the last one."""
        at = states[-1][0]
        return ~at.has_next() & (at.size + 1 >= self.limit)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Cache:
    """The model's cache, and the state that determines the next token's positions."""

    model_cache: Any
    at: _BlankState
    inner: InnerState
    places: Array  # [R K] outer positions of the blanks

    def take(self, rows: Array) -> "_Cache":
        """The cache of other rows."""
        at, inner, places = jax.tree.map(lambda a: a[rows], (self.at, self.inner, self.places))
        return _Cache(self.model_cache.take(rows), at, inner, places)

    def spread(self, each: int, slots: int) -> "_Cache":
        """See `KVCache.spread`."""
        at, inner, places = jax.tree.map(
            lambda a: jnp.repeat(a, each, axis=0), (self.at, self.inner, self.places)
        )
        return _Cache(self.model_cache.spread(each, slots), at, inner, places)

    def grow(self, slots: int) -> "_Cache":
        """The cache with room for so many tokens a row."""
        return dataclasses.replace(self, model_cache=self.model_cache.grow(slots))


def write_blanks(
    definition: ModelDef,
    *,
    params: Params,
    tokens: Array,
    real: Array,
    positions: Array | None,
    places: Array,
    blanks: Array,
    limit: Array,
    keys: Array,
    rule: InnerRule,
    most: Array,
    sop: Array,
    ends: Array,
    constraint: Processor | None,
    pad_id: int,
    sampler: Sampler | None,
    processors: tuple[Processor, ...],
    length_penalty: Array,
    early_stopping: bool | Literal["never"],
    max_new_tokens: int,
    beams: int,
    both_ways: bool,
) -> Any:
    """Reads texts and writes their blanks; to be jitted.

    Args:
        definition: of the model; static.
        params: its parameters.
        tokens: [B S] the texts, padded on the left, and `<sop>` at the end of each.
        real: [B S] bool, no padding.
        positions: [B 2 S], or None for a model with one row of positions.
        places: [B K] outer positions of the blanks.
        blanks: [B] how many there are.
        limit: [B] tokens to write, all blanks together.
        keys: [B].
        rule: of the inner positions of what is written.
        most, sop, ends, constraint: of each blank, see `BlankEnds`.
        pad_id, sampler, processors, length_penalty, early_stopping, max_new_tokens, beams: of
            `decode` and `beam_search`; the last three are static.
        both_ways: texts are read both ways, else from left to right; static.

    Returns:
        `Generated` for one beam, else `Beams`; the texts of a row's blanks follow each other.
    """
    model = definition.merge(params).for_decoding()
    blank_ends = BlankEnds(blanks, most, sop, ends, constraint)
    rows, length = tokens.shape
    written = jnp.arange(length) == length - 1
    newest = jnp.full((rows, 1), length - 1)
    h, model_cache = model.hidden(
        tokens, positions=positions, mask=make_mask(real, written) if both_ways else real,
        cache=model.empty_cache(rows, length), places=newest,
    )  # fmt: skip
    zeros = jnp.zeros(rows, jnp.int32)
    cache = _Cache(
        model_cache,
        _BlankState(zeros, zeros, blanks),
        rule.update(rule.init(rows), jnp.broadcast_to(sop, rows)),
        places,
    )

    def step(tokens: Array, cache: _Cache) -> tuple[Array, _Cache]:
        at, cut = cache.at.step(tokens, sop, most)
        read = jnp.where(cut, sop, tokens)
        inner, placed = rule.update(cache.inner, read), {}
        if positions is not None:
            outer = jnp.take_along_axis(cache.places, at.blank[:, None], axis=1, mode="clip")
            placed = {"positions": jnp.stack([outer, inner.inner[:, None]], axis=1)}
        logits, model_cache = model(read[:, None], cache=cache.model_cache, **placed)
        return logits[:, 0], _Cache(model_cache, at, inner, cache.places)

    options: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "limit": limit,
        "stop": ends,
        "pad_id": pad_id,
        "processors": (*processors, blank_ends),
        "last": blank_ends.last,
    }

    def fit(cache: _Cache, rows: Array | None, new: int) -> _Cache:
        return (cache if rows is None else cache.take(rows)).grow(length + new)

    logits = model.logits(h[:, 0])
    if beams == 1:
        in_stages = platform() == "cpu"
        cache = cache if in_stages else fit(cache, None, max_new_tokens)
        return decode(
            step, logits, cache, sampler=sampler, keys=keys, fit=fit if in_stages else None,
            **options,
        )  # fmt: skip

    def reorder(cache: _Cache, chosen: Array) -> _Cache:
        """At first a row's beams share what the row has read; then as `chosen` says."""
        first = len(cache.places) == rows
        return cache.spread(beams, max_new_tokens) if first else cache.take(chosen)

    return beam_search(
        step, logits, cache, reorder, beams=beams, length_penalty=length_penalty,
        early_stopping=early_stopping, **options,
    )  # fmt: skip
