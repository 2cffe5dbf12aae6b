"""The recommender contract as assertions: every sequential recommender passes them.

CASES = [("sasrec", {...})]      # a new model joins by one line in tests/unit/models
"""

import collections
import dataclasses
import functools
import json
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from recjax.data.pipeline import EvalBatches, TrainBatches
from recjax.data.sequences import pack, pad_left, window_tokens
from recjax.data.splits import Spans
from recjax.models.definition import ModelDef, define
from recjax.models.recommender import SequentialRecommender, make_recommender, model_module
from recjax.training.parallel import make_mesh, param_shardings
from recjax.typing import Array, Params

N_ITEMS = 23


def _make(section: dict, rngs: nnx.Rngs) -> SequentialRecommender:
    return make_recommender(section, N_ITEMS, rngs, n_users=4, n_attributes=5)


def build(section: dict, seed: int = 0) -> SequentialRecommender:
    """The model with weights large enough that every part of it shows in its output."""
    return _Case.of(section, seed).model


@dataclasses.dataclass
class _Case:
    """A model of one section and its programs, for all assertions.

    Attributes:
        definition, params: without a seed in it; arrays by path.
        model: of `params`.
        traces: how often `encode` was traced, by the shape of the items.
        encode: `(ids, **options) -> h`, compiled.
    """

    definition: ModelDef
    params: Params
    model: SequentialRecommender
    traces: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    encode: Any = None

    def __post_init__(self):
        def encode(model: Any, ids: Array, **options: Any) -> Array:
            self.traces[ids.shape, *options] += 1
            return model.encode(ids, **options)

        self.encode = self.program(encode)

    @classmethod
    def of(cls, section: dict, seed: int = 0) -> Self:
        """The case of a section, made once."""
        return cls._made(json.dumps(section, sort_keys=True), seed)

    @classmethod
    @functools.cache
    def _made(cls, section: str, seed: int) -> Self:
        fields = json.loads(section)
        definition, rng = define(lambda rngs: _make(fields, rngs)), np.random.default_rng(seed)
        params = {
            path: jnp.asarray(path.endswith("scale") + 0.4 * rng.standard_normal(a.shape), a.dtype)
            for path, a in definition.shapes.items()
        }
        return cls(definition, params, definition.merge(params))

    def program(self, f: Any) -> Any:
        """`f(model, *args, **kwargs)`, compiled; the model's arrays are no constants of it."""

        @jax.jit
        def call(params: Params, *args: Any, **kwargs: Any) -> Any:
            return f(self.definition.merge(params), *args, **kwargs)

        return functools.partial(call, self.params)

    @functools.cached_property
    def learn(self) -> Any:
        """`(batch, seed of the dropout) -> pairs to learn`."""
        return self.program(
            lambda model, batch, seed: model.learn(
                batch, nnx.Rngs(dropout=jax.random.key(seed), noise=2)
            )
        )


def _ids(section: dict, lengths: list[int]) -> tuple[np.ndarray, list[np.ndarray]]:
    rng = np.random.default_rng(0)
    length = section["max_length"]
    histories = [rng.integers(1, N_ITEMS, n).astype(np.int32) for n in lengths]
    rows = np.zeros((len(lengths), length), np.int32)
    for row, history in zip(rows, histories, strict=True):
        row[length - len(history) :] = history
    return rows, histories


def assert_padding_changes_nothing(section: dict) -> None:
    """A history alone in a short row, left-padded, and packed beside others: the same h."""
    length, encode = section["max_length"], _Case.of(section).encode
    lengths = [length, 3, 1, 3, 3]
    rows, histories = _ids(section, lengths)
    padded = np.asarray(encode(rows))
    for k, history in enumerate(histories):
        alone = np.asarray(encode(history[None]))
        np.testing.assert_allclose(padded[k, -len(history) :], alone[0], atol=2e-5)
    packing = pack(np.array(lengths), length)
    assert packing.rows < len(lengths), "nothing was packed: the test would show nothing"
    stops = np.cumsum(lengths)
    tokens = window_tokens(stops, np.array(lengths), packing, length)
    flat = {n: np.zeros(packing.rows * length, np.int32) for n in ("ids", "pos", "seg")}
    flat["ids"][tokens.slot] = np.concatenate(histories)[tokens.source]
    flat["pos"][tokens.slot] = tokens.position
    flat["seg"][tokens.slot] = tokens.segment
    ids, positions, segments = (v.reshape(-1, length) for v in flat.values())
    packed = np.asarray(encode(ids, positions=positions, segments=segments))
    for k, n in enumerate(lengths):
        row, column = packing.row[k], packing.column[k]
        np.testing.assert_allclose(
            packed[row, column : column + n], padded[k, length - n :], atol=2e-5
        )


def assert_causal(section: dict) -> None:
    """Changing item t changes h from t on, and nothing before (`masked` models see both sides)."""
    length = section["max_length"]
    model = build(section)
    rows, _ = _ids(section, [length])
    encode = _Case.of(section).encode
    before = np.asarray(encode(rows))
    if not model.reads_history:
        np.testing.assert_array_equal(before, encode(rows % (N_ITEMS - 1) + 1))
        return
    for place in (0, length // 2, length - 1):
        changed = rows.copy()
        changed[0, place] = changed[0, place] % (N_ITEMS - 1) + 1
        after = np.asarray(encode(changed))
        if not model.masked:
            np.testing.assert_array_equal(after[0, :place], before[0, :place])
        elif place:
            assert np.abs(after[0, :place] - before[0, :place]).max(axis=-1).min() > 1e-6
        assert np.abs(after[0, place] - before[0, place]).max() > 1e-4
        if place >= length - section.get("window", length):
            assert np.abs(after[0, -1] - before[0, -1]).max() > 1e-6, "the newest h must see item t"


def assert_keeps_types(section: dict) -> None:
    """Parameters begin in float32, vectors have the parameters' type, also where JAX has types of
    64 bits; no axis is added without being written."""
    names = ("ids", "targets", "positions", "segments", "sequences", "users", "times")
    places = jax.ShapeDtypeStruct((2, section["max_length"]), jnp.int32)

    def learned(params: Params, batch: dict[str, Array]) -> Any:
        model, rngs = definition.merge(params), nnx.Rngs(dropout=1, noise=2)
        found = model.loss(batch, rngs) or model.learn(batch, rngs)
        return found, model.scores(batch["ids"], rngs=nnx.Rngs(noise=3))

    with jax.enable_x64(True), jax.numpy_rank_promotion("raise"):
        definition = define(lambda rngs: _make(section, rngs))
        assert {a.dtype for a in definition.shapes.values()} == {np.dtype(np.float32)}
        params = {
            path: jax.ShapeDtypeStruct(a.shape, jnp.bfloat16)
            for path, a in definition.shapes.items()
        }
        found, scores = jax.eval_shape(learned, params, dict.fromkeys(names, places))
    wanted = jnp.bfloat16 if hasattr(found, "vectors") else jnp.float32  # a loss is wide
    assert found[0].dtype == wanted
    assert scores.dtype == jnp.bfloat16


def assert_scores(section: dict) -> None:
    """`score` over candidates is `score` over the catalogue, gathered."""
    case = _Case.of(section)
    table = jax.eval_shape(lambda: case.model.item_table())
    h = np.random.default_rng(0).standard_normal((4, table.shape[1]), np.float32)
    shared, own = np.array([3, 1, 22]), np.array([[1, 2], [3, 4], [5, 6], [22, 7]])
    score = case.program(
        lambda model, h, *some: [model.score(h), *(model.score(h, c) for c in some)]
    )
    every, of_shared, of_own = map(np.asarray, score(h, shared, own))
    assert every.shape == (4, N_ITEMS)
    np.testing.assert_allclose(of_shared, every[:, shared], rtol=1e-5, atol=1e-5)
    gathered = np.take_along_axis(every, own, axis=1)
    np.testing.assert_allclose(of_own, gathered, rtol=1e-5, atol=1e-5)


def assert_deterministic_and_random(section: dict) -> None:
    """Without dropout the same twice; with dropout another result, and the same for one key."""
    case, ids = _Case.of(section), _ids(section, [section["max_length"]])[0]
    np.testing.assert_array_equal(case.encode(ids), case.encode(ids))
    batch = _learnable(section)  # the noise has one seed in all
    first, again, other = (np.asarray(case.learn(batch, seed)[0]) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


def assert_traces_once(section: dict) -> None:
    """Other items, other padding: no new trace."""
    case = _Case.of(section)
    for lengths in ([1], [section["max_length"]], [3]):
        case.encode(_ids(section, lengths)[0])
    assert case.traces and set(case.traces.values()) == {1}


def assert_every_parameter_has_a_sharding(section: dict) -> None:
    """`PARAM_AXES` covers every parameter, with as many axes as it has."""
    definition = _Case.of(section).definition
    axes = model_module(section["name"]).PARAM_AXES
    shardings = param_shardings(definition.shapes, axes, make_mesh((-1, 1, 1)))
    assert set(shardings) == set(definition.shapes)


def assert_every_parameter_is_used(section: dict) -> None:
    """The gradient of the predictions' scores reaches every parameter."""
    case = _Case.of(section)
    ids = _ids(section, [section["max_length"]] * 3)[0]
    places = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
    batch = {"ids": ids, "positions": places, "segments": np.ones_like(ids)}
    timed = {"times": places**2} if case.model.timed else {}

    def total(params, ids, batch):
        module = case.definition.merge(params)
        scores = (module.scores(ids, **timed) ** 2).sum()
        own = module.loss(batch, nnx.Rngs(dropout=1, noise=2))
        return scores if own is None else scores + own[0].sum()

    for path, gradient in jax.jit(jax.grad(total))(case.params, ids, batch).items():
        assert np.abs(gradient).max() > 0, f"{path} takes no part"


def assert_predictions_are_those_of_an_evaluation_batch(section: dict) -> None:
    """`predict` of plain histories equals that of the packed rows that evaluation makes."""
    length = section["max_length"]
    model = build(section)
    lengths = np.array([length + 2, 3, 1, 4, 2])
    items = np.random.default_rng(0).integers(1, N_ITEMS, lengths.sum() + 5).astype(np.int32)
    stops = np.cumsum(lengths + 1) - 1  # a target follows each history
    spans = Spans(np.arange(5, dtype=np.int32), stops - lengths, stops)
    closing = N_ITEMS if model.masked else 0
    batch = EvalBatches(items, spans, length, 5, closing=closing)(0)
    assert batch["segments"].max() > 1, "nothing was packed: the test would show nothing"

    predict = _Case.of(section).program(
        lambda model, ids, **places: model.predict(ids, **places, rngs=nnx.Rngs(noise=0))
    )
    names = ("positions", "segments", "last")
    packed = predict(batch["ids"], **{name: batch[name] for name in names})
    plain = predict(pad_left(items, spans.starts, stops, length))
    np.testing.assert_allclose(packed, plain, atol=5e-5)


def assert_repeated_items_have_their_own_scores(section: dict) -> None:
    """With `repeats`, the scores of the history's items are moved by one number, once each."""
    model = build(section)
    if not model.repeats:
        return
    rows, _ = _ids(section, [4, 2])
    rows[0, -4:-2] = rows[0, -2:]  # met twice
    batch = {
        "ids": rows,
        "targets": rows,
        "positions": np.broadcast_to(np.arange(rows.shape[1]), rows.shape),
        "segments": (rows > 0).astype(np.int32),
        "sequences": np.zeros_like(rows),
    }

    def found(model, batch):
        scores = model.scores(batch["ids"]), model.score(model.predict(batch["ids"]))
        return scores[0] - scores[1], model.learn(batch, nnx.Rngs(dropout=0, noise=0)).seen

    moved, seen = _Case.of(section).program(found)(batch)
    for row, history in zip(np.asarray(moved), rows, strict=True):
        met = np.unique(history[history > 0])
        assert np.abs(row[met] - row[met[0]]).max() < 1e-5 < np.abs(row[met[0]])
        np.testing.assert_array_equal(np.delete(row, met), 0)
    last = np.asarray(seen[0]).reshape(*rows.shape, -1)[0, -1]
    assert sorted(last[last > 0]) == sorted(set(rows[0][rows[0] > 0]))


def assert_users_have_their_own_states(section: dict) -> None:
    """A `personal` model's states are the user's; somebody unknown has those of nobody."""
    model = build(section)
    if not model.personal:
        return
    ids, encode = _ids(section, [3])[0], _Case.of(section).encode
    one, other, nobody = (
        np.asarray(encode(ids, users=np.full(ids.shape, n)))[:, -1] for n in (1, 2, 0)
    )
    assert np.abs(one - other).max() > 1e-3 and np.abs(one - nobody).max() > 1e-3
    np.testing.assert_allclose(nobody, encode(ids)[:, -1], atol=1e-5)


def assert_times_between_items_count(section: dict) -> None:
    """A `timed` model reads the times between items up to each, and no others."""
    model, case, length = build(section), _Case.of(section), section["max_length"]
    if not model.timed:
        return
    lengths = np.array([length, 3, length - 3])
    ends = np.cumsum(lengths)
    items = np.random.default_rng(0).integers(1, N_ITEMS, ends[-1]).astype(np.int32)
    times = np.cumsum(np.random.default_rng(1).integers(1, 10**6, len(items)))
    spans = Spans(np.arange(3, dtype=np.int32), ends - lengths, ends, times)
    batch = EvalBatches(items, spans, length, 3, targeted=False)(0)
    assert batch["segments"].max() > 1, "nothing was packed: the test would show nothing"
    names = ("positions", "segments", "times")
    packed = np.asarray(case.encode(batch["ids"], **{name: batch[name] for name in names}))
    rows = pad_left(items, spans.starts, spans.stops, length)
    clock = pad_left(times.astype(np.int32), spans.starts, spans.stops, length)
    plain = np.asarray(case.encode(rows, times=clock))
    newest = packed.reshape(-1, packed.shape[-1])[batch["last"]]
    np.testing.assert_allclose(newest[:3], plain[:, -1], atol=2e-5)
    later = clock.copy()
    later[0, 4:] += 10**7
    after = np.asarray(case.encode(rows, times=later))
    np.testing.assert_array_equal(after[0, :4], plain[0, :4])
    assert np.abs(after[0, 4:] - plain[0, 4:]).max(axis=-1).min() > 1e-4
    assert np.abs(np.asarray(case.encode(rows)) - plain).max() > 1e-4, "unknown times are others"


def _learnable(section: dict) -> dict[str, np.ndarray]:
    """A batch of four sequences of 5, 3, 6 and 2 items: 1, 2, 3 ..."""
    model = build(section)
    spans = Spans(np.arange(4, dtype=np.int32), np.array([0, 5, 8, 14]), np.array([5, 8, 14, 16]))
    items = np.arange(1, 17, dtype=np.int32)
    batches = TrainBatches(
        items,
        spans,
        section["max_length"],
        4,
        seed=0,
        shifted=model.shifted(model.config),
        users=True,
    )
    return {name: value[0] for name, value in batches(0).items()}


def assert_learns_targets_of_its_own_sequence(section: dict) -> None:
    """The pairs of `learn`: vectors that depend on the parameters, targets of the same sequence."""
    model = build(section)
    vectors, targets, sequences, *_ = _Case.of(section).learn(_learnable(section), 1)
    assert vectors.shape[0] == targets.shape[0] == sequences.shape[0]
    assert vectors.shape[1] == jax.eval_shape(lambda: model.item_table()).shape[1]
    real = np.asarray(targets) > 0
    assert real.any() and np.isfinite(vectors).all()
    owner = np.repeat(np.arange(4), [5, 3, 6, 2])
    np.testing.assert_array_equal(owner[np.asarray(targets)[real] - 1], np.asarray(sequences)[real])
