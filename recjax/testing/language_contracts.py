"""The language-model contract as assertions: every family passes them, in every config.

Rows have prompts of 5 tokens, and 6 tokens that are written after them.
"""

import collections
import functools
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recjax.convert.forms import FORMS
from recjax.convert.language_model import language_model, read_language_model
from recjax.convert.writing import write_language_model
from recjax.errors import InputError
from recjax.llm import LanguageModel
from recjax.models.definition import ModelDef, define, params_of
from recjax.models.language import LanguageConfig, LanguageModule, family_for
from recjax.training.parallel import make_mesh, param_shardings
from recjax.training.plan import make_plan
from recjax.typing import Array

PROMPT, LENGTH = 5, 11
STD = 0.4  # of the arrays
WRITTEN: Any = np.arange(LENGTH) >= PROMPT


@functools.cache
def build(config: LanguageConfig) -> LanguageModule:
    """The model, at random: drawn by numpy, which compiles no program for each array."""
    rng, definition = np.random.default_rng(0), _definition(config)
    return definition.merge({
        path: jnp.asarray(path.endswith("scale") + STD * rng.standard_normal(a.shape), a.dtype)
        for path, a in definition.shapes.items()
    })  # fmt: skip


def _tokens(
    config: LanguageConfig, rows: int = 3, length: int = LENGTH
) -> Any:  # an array of numpy
    rng = np.random.default_rng(1)
    return rng.integers(0, config.vocab_size, (rows, length), dtype=np.int32)


@functools.cache
def _definition(config: LanguageConfig, dtype: Any = jnp.float32) -> ModelDef[LanguageModule]:
    return define(lambda rngs: family_for(config).build(config, rngs=rngs, dtype=dtype))


@functools.cache
def _forward(config: LanguageConfig) -> Any:
    """`(inputs, segments, written, within) -> logits`, without a cache."""

    @jax.jit
    def forward(
        params: Any, inputs: Array, segments: Array, written: Array, within: Any = None
    ) -> Array:
        model = _definition(config).merge(params)
        return model(inputs, **model.reading(segments, written, within))[0]

    return functools.partial(forward, params_of(build(config)))


@functools.cache
def _step(config: LanguageConfig) -> Any:
    """`(tokens, mask, cache) -> logits, cache`, and how often each shape was traced.

    Without a cache it makes one for the tokens, which then grows to `LENGTH`.
    """
    traces: collections.Counter = collections.Counter()

    @jax.jit
    def step(params: Any, tokens: Array, mask: Array, cache: Any | None) -> Any:
        traces[tokens.shape, *(a.shape for a in jax.tree.leaves(cache))] += 1
        model = _definition(config).merge(params)
        before = cache or model.empty_cache(*tokens.shape)
        logits, after = model(tokens, mask=mask, cache=before)
        return logits, after if cache else after.grow(LENGTH)

    return functools.partial(step, params_of(build(config))), traces


def _uncached(config: LanguageConfig, tokens: Array, real: Any = None) -> np.ndarray:
    real = np.ones(tokens.shape[:2], bool) if real is None else real
    written = np.broadcast_to(np.arange(tokens.shape[1]) >= PROMPT, real.shape)
    return np.asarray(_forward(config)(tokens, real, written))


def _cached(config: LanguageConfig, tokens: Array, parts: tuple[int, ...], real: Any = None) -> Any:
    """Logits at every place, read part by part, and the cache; it grows once, to `LENGTH`."""
    step, start, out = _step(config)[0], 0, []
    cache = None
    real = np.ones(tokens.shape, bool) if real is None else real
    for length in parts:
        stop = start + length
        logits, cache = step(tokens[:, start:stop], real[:, start:stop], cache)
        out.append(logits)
        start = stop
    return np.concatenate(out, axis=1), cache


PARTS = (PROMPT, 1, 1, 4)  # a prompt at once, then written tokens


def assert_cached_equals_uncached_at_every_place(config: LanguageConfig) -> None:
    """Prompts at once, then written tokens; prompts in several calls, where prefixes are shared."""
    tokens, expected = _tokens(config), _uncached(config, _tokens(config))
    parts: list[tuple[int, ...]] = [PARTS]
    if build(config).shares_prefix:
        parts += [(1, 1, 4, 4, 1), (LENGTH,)]
    for some in parts:
        np.testing.assert_allclose(_cached(config, tokens, some)[0], expected, atol=2e-5)


def assert_rows_of_a_cache_can_be_taken(config: LanguageConfig) -> None:
    """Beam search takes rows of a cache."""
    tokens, rows = _tokens(config), np.array([2, 2, 0])
    expected = _uncached(config, tokens[rows])
    _, cache = _cached(config, tokens[:, :6], PARTS[:2])
    cache = cache.take(rows)
    for t in (6, 7):
        place = slice(t, t + 1)
        got, cache = _step(config)[0](tokens[rows, place], np.ones((3, 1), bool), cache)
        np.testing.assert_allclose(got, expected[:, place], atol=2e-5)


def assert_padding_changes_nothing(config: LanguageConfig) -> None:
    """Prompts of 5, 3 and 1 tokens, padded on the left, cached or not: as each alone."""
    tokens, lost = _tokens(config), np.array([0, 2, 4])
    real = np.arange(LENGTH) >= lost[:, None]
    padded = _uncached(config, tokens, real)
    cached, _ = _cached(config, tokens, PARTS, real)
    for row, start in enumerate(lost):
        every = np.ones((3, LENGTH - start), bool)
        written = np.tile(WRITTEN[start:], (3, 1))
        alone = np.asarray(_forward(config)(tokens[:, start:], every, written))[row]
        np.testing.assert_allclose(padded[row, start:], alone, atol=2e-5)
        np.testing.assert_allclose(cached[row, start:], alone, atol=2e-5)


def assert_packed_equals_alone(config: LanguageConfig) -> None:
    """Two sequences in a row; tokens and their embeddings."""
    tokens, first = _tokens(config), 4
    segments = np.array([1] * first + [2] * (LENGTH - first))
    within = np.concatenate([np.arange(first), np.arange(LENGTH - first)])
    written = within >= np.where(segments == 1, 2, 5)
    rows = [np.tile(a, (3, 1)) for a in (segments, written, within)]
    packed = np.asarray(_forward(config)(tokens, *rows))
    for part in (slice(0, first), slice(first, LENGTH)):
        own = [a[:, part] for a in rows]
        alone = _forward(config)(tokens[:, part], own[0] > 0, own[1])
        np.testing.assert_allclose(packed[:, part], alone, atol=2e-5)
    embedded = _forward(config)(build(config).embed(tokens), *rows)
    np.testing.assert_allclose(embedded, packed, atol=1e-6)


def assert_what_is_read_both_ways_is_told(config: LanguageConfig) -> None:
    """A written token changes no state before it; a prompt's does, unless prefixes are shared."""
    tokens = _tokens(config)
    before = _uncached(config, tokens)

    def moved(place: int) -> np.ndarray:
        changed = tokens.copy()
        changed[:, place] = (tokens[:, place] + 1) % config.vocab_size
        after = _uncached(config, changed)
        return np.abs(after - before).max(axis=(0, 2))

    written, asked = moved(7), moved(PROMPT - 1)
    assert (written[:7] == 0).all() and (written[7:] > 1e-4).all()
    if build(config).shares_prefix:
        assert (asked[: PROMPT - 1] == 0).all()
    else:
        assert (asked > 1e-4).all()


def assert_states_of_some_places(config: LanguageConfig) -> None:
    """`places` chooses among the states of all."""
    tokens = _tokens(config)[:, :PROMPT]
    places: Any = np.array([[4, 2, 0], [1, 3, 3], [0, 1, 4]])

    @jax.jit
    def read(params: Any) -> Any:
        model = _definition(config).merge(params)
        some, every = (
            [model.hidden(tokens, cache=c, places=p)[0] for c in (None, model.empty_cache(3, 5))]
            for p in (places, None)
        )
        return some, every, model.logits(some[0]), some[0] @ model.head_table().T

    some, every, logits, expected = jax.tree.map(np.asarray, read(params_of(build(config))))
    for one, whole in zip(some, every, strict=True):
        np.testing.assert_allclose(
            one, np.take_along_axis(whole, places[..., None], axis=1), atol=2e-5
        )
    np.testing.assert_allclose(logits, expected, atol=2e-5)


def assert_saved_and_loaded_is_the_same(config: LanguageConfig) -> None:
    """In recjax's form and Hugging Face's; a form that cannot hold the family is refused."""
    family, params = family_for(config), params_of(build(config))
    model = language_model(config, params)
    with tempfile.TemporaryDirectory() as place:
        for form in ("recjax", "hf"):
            folder = write_language_model(Path(place) / form, model, form=form)
            again = read_language_model(folder, remat=config.remat, unroll=config.unroll)
            assert (again.family, again.config) == (family, config)
            assert again.params.keys() == params.keys()
            for path, array in params.items():
                np.testing.assert_array_equal(again.params[path], array)
        for form in FORMS.keys() - family.forms:
            folder = Path(place) / "none"
            try:
                write_language_model(folder, model, form=form)
            except InputError as error:
                assert f"the form {form} has no models of the family {family.name}" in str(error)
                assert not folder.exists()
            else:
                raise AssertionError(f"{family.name} was written as {form}")


def assert_one_trace_a_shape(config: LanguageConfig) -> None:
    """Other tokens, other padding, later steps: no new trace."""
    tokens, (step, traces) = _tokens(config), _step(config)
    for lost in (0, 2):
        real = np.arange(PROMPT) >= np.full((3, 1), lost)
        _, cache = step(tokens[:, lost : PROMPT + lost], real, None)
        for t in range(PROMPT, PROMPT + 3):
            _, cache = step(tokens[:, t : t + 1], real[:, -1:], cache)
    assert len(traces) >= 2 and set(traces.values()) == {1}


def assert_every_parameter_takes_part_and_has_a_sharding(config: LanguageConfig) -> None:
    """Gradients reach all; `PARAM_AXES` covers all; the plan counts all."""
    family, model, tokens = family_for(config), build(config), _tokens(config)
    definition = _definition(config)
    encoder = {"encoder": tokens[:, ::-1]} if model.reads_encoder else {}

    def loss(params: Any) -> Array:
        model = definition.merge(params)
        reading = model.reading(jnp.ones(tokens.shape, bool), jnp.tile(WRITTEN, (3, 1)))
        return (model(tokens, **reading, **encoder)[0] ** 2).sum()

    gradients = jax.jit(jax.grad(loss))(params_of(model))
    for path, gradient in gradients.items():
        assert np.abs(gradient).max() > 0, f"{path} takes no part"
    shardings = param_shardings(definition.shapes, family.axes, make_mesh((-1, 1, 1)))
    assert shardings.keys() == gradients.keys()
    plan = make_plan(config, batch=2, length=16, train="full")
    assert plan.parameters == plan.trained == sum(g.size for g in gradients.values())


def assert_half_precision_stays(config: LanguageConfig) -> None:
    """Parameters, states and cache in bfloat16, also where JAX has types of 64 bits; logits near
    those in float32. No axis is added without being written."""
    definition = _definition(config, jnp.bfloat16)
    assert all(a.dtype == jnp.bfloat16 for a in definition.shapes.values())
    params = {p: np.asarray(a, jnp.bfloat16) for p, a in params_of(build(config)).items()}
    wide = {path: a.astype(np.float32) for path, a in params.items()}
    tokens = _tokens(config)

    def half(params: Any) -> Any:
        model = definition.merge(params)
        return model(tokens, cache=model.empty_cache(3, LENGTH))

    @jax.jit
    def both(params: Any, wide: Any) -> Any:
        return half(params), _definition(config).merge(wide)(tokens)[0]

    with jax.enable_x64(True), jax.numpy_rank_promotion("raise"):
        types = {a.dtype for a in jax.tree.leaves(jax.eval_shape(half, params))}
    (logits, cache), expected = both(params, wide)
    assert types == {a.dtype for a in jax.tree.leaves((logits, cache))}
    assert types == {np.dtype(t) for t in (jnp.bfloat16, np.int32, bool)}
    error = np.abs(np.asarray(logits, np.float32) - expected)
    assert error.mean() < 0.05 * np.abs(expected).mean()


def assert_generation_equals_reading_all_again(config: LanguageConfig) -> None:
    """Prompts of three lengths with a long common beginning; without cache, prefix and buckets.

    A beginning is reused only where the family says that it may be.
    """
    lm = LanguageModel(_definition(config), params_of(build(config)), config)
    tokens, new = _tokens(config, 3, 30), 4
    tokens[:, :20] = tokens[0, :20]
    lengths = np.array([30, 21, 24])
    prompts = [row[:n].tolist() for row, n in zip(tokens, lengths, strict=True)]
    got = lm.generate(prompts, max_new_tokens=new)
    assert len(lm._prefixes) == int(build(config).shares_prefix)
    whole = np.zeros((3, 30 + new), np.int32)
    for row, prompt in enumerate(prompts):
        whole[row, : len(prompt)] = prompt
    places = np.arange(30 + new)
    for k in range(new):
        real = places < lengths[:, None] + k
        logits = _forward(config)(whole, real, real & (places >= lengths[:, None]))
        whole[range(3), lengths + k] = np.argmax(logits[np.arange(3), lengths + k - 1], axis=-1)
    for row, n in enumerate(lengths):
        np.testing.assert_array_equal(got.tokens[row], whole[row, n : n + new])


def assert_a_prefix_is_shared_or_refused(config: LanguageConfig) -> None:
    """As if it were repeated in each row; or `prefix_cache` says that it cannot be."""
    model, tokens = build(config), _tokens(config)
    if not model.shares_prefix:
        try:
            LanguageModel(_definition(config), params_of(model), config).prefix_cache([1, 2, 3])
        except InputError as error:
            assert f"the family {family_for(config).name} reads prompts both ways" in str(error)
            return
        raise AssertionError("a prefix was cached")
    tokens[:, :PROMPT] = tokens[0, :PROMPT]
    lost = np.array([0, 2, 5])[:, None] + PROMPT
    real: Any = (np.arange(LENGTH) < PROMPT) | (np.arange(LENGTH) >= lost)
    expected = _uncached(config, tokens, real)[:, PROMPT:]
    rest, seen = tokens[:, PROMPT:], real[:, PROMPT:]

    @jax.jit
    def read(params: Any) -> Any:
        model = _definition(config).merge(params)
        cache = model(tokens[:1, :PROMPT], cache=model.empty_cache(1, PROMPT))[1].as_prefix()
        first, filled = model(rest[:, :4], mask=seen[:, :4], cache=cache.start(3, 6))
        return first, model(rest[:, 4:], mask=seen[:, 4:], cache=filled)[0]

    got = np.concatenate(read(params_of(model)), axis=1)
    np.testing.assert_allclose(got[seen], expected[seen], atol=2e-5)
