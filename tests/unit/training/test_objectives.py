"""Objectives: their settings, their draws, and the loss that follows."""

import functools
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.data.splits import Spans
from recjax.errors import InputError
from recjax.training import losses
from recjax.training.cross_entropy import softmax_cross_entropy
from recjax.training.objectives import Objective, ObjectiveConfig

RNG = np.random.default_rng(0)
T, I, D = 11, 17, 5  # noqa: E741 - the letters of design.md
H = RNG.standard_normal((T, D)).astype(np.float32)
TABLE = RNG.standard_normal((I, D)).astype(np.float32)
TARGETS = RNG.integers(1, I, T)
WEIGHTS = (RNG.random(T) < 0.7).astype(np.float32)

ITEMS = np.array([1, 2, 3, 4, 2, 5], np.int32)
SPANS = Spans(np.arange(2, dtype=np.int32), np.array([0, 4]), np.array([4, 6]))
NEXT, OWNER = jnp.array([0, 2, 3, 5]), jnp.array([0, 0, 0, 1])


def called(function, *arrays, **static):
    """`function(*arrays, **static)`, compiled."""
    return jax.jit(functools.partial(function, **static))(*arrays)


def test_a_softmax_of_a_temperature_with_smoothed_targets():
    config = ObjectiveConfig("softmax", temperature=0.5, smoothing=0.2)
    objective = Objective(config, ITEMS, SPANS, I)
    logits = H @ TABLE.T
    met = np.array([[TARGETS[t] if t % 2 else 1, t % 3 + 8, 0] for t in range(T)])
    logits[np.arange(T)[:, None], met] += 1.5  # items of the history
    logits = logits[:, 1:] / 0.5
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    values = -0.8 * log_p[np.arange(T), TARGETS - 1] - 0.2 * log_p.mean(-1)
    targets = np.where(WEIGHTS > 0, TARGETS, 0)

    def loss(h, data, ids):
        return objective(h, TABLE, targets, None, data, None, seen=(ids, jnp.float32(1.5)))

    found = called(loss, H, objective.data, met)
    np.testing.assert_allclose(found, (np.sum(values * WEIGHTS), WEIGHTS.sum()), rtol=2e-5)
    with pytest.raises(InputError, match=r"temperature: 'bce' has none; expected 1.0, or softmax"):
        ObjectiveConfig("bce", temperature=0.5)


@pytest.mark.parametrize("name", typing.get_args(typing.get_type_hints(ObjectiveConfig)["name"]))
def test_every_objective_has_finite_gradients_and_counts_its_targets(name):
    drawn = {} if name in ("softmax", "mse") else {"negatives": 3}
    objective = Objective(ObjectiveConfig(name, **drawn), ITEMS, SPANS, I)
    h = jax.random.normal(jax.random.key(1), (4, D))

    def loss(h, table, data):
        total, weight = objective(h, table, NEXT, OWNER, data, jax.random.key(0))
        return total / weight, weight

    gradients = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
    with jax.enable_x64(True), jax.numpy_rank_promotion("raise"):
        types = jax.eval_shape(gradients, h, TABLE, objective.data)
    assert {a.dtype for a in jax.tree.leaves(types)} == {np.dtype(np.float32)}
    (_, weight), (d_h, d_table) = gradients(h, TABLE, objective.data)
    assert weight == 3
    assert np.isfinite(d_h).all() and np.isfinite(d_table).all()
    assert np.abs(d_h[0]).max() == 0, "a position without target takes no part"
    assert np.abs(d_h[1:]).min() > 0


def test_negatives_are_never_positives(monkeypatch):
    drawn = []
    monkeypatch.setattr(
        losses,
        "binary_cross_entropy",
        lambda h, table, targets, weights, negatives, *_: drawn.append(negatives) or (0.0, 1.0),
    )
    objective = Objective(ObjectiveConfig("bce", negatives=200), ITEMS, SPANS, 8)
    objective(jnp.zeros((4, D)), TABLE, NEXT, OWNER, objective.data, jax.random.key(0))
    negatives = np.asarray(drawn[0])
    assert set(np.unique(negatives[:3])) == {5, 6, 7}  # user 0 has 1, 2, 3, 4
    assert set(np.unique(negatives[3])) == {1, 3, 4, 6, 7}  # user 1 has 2, 5
    # Of a large catalogue all items are drawn, not every 128th.
    objective = Objective(ObjectiveConfig("bce", negatives=500), ITEMS, SPANS, 1 << 30)
    objective(jnp.zeros((4, D)), TABLE, NEXT, OWNER, objective.data, jax.random.key(0))
    negatives = np.asarray(drawn[1])
    assert negatives.min() >= 1 and negatives.max() < 1 << 30
    assert set(np.unique(negatives % 16)) == set(range(16))


def test_the_correction_of_drawn_negatives_is_not_rounded(monkeypatch):
    drawn = []
    monkeypatch.setattr(
        losses,
        "sampled_softmax",
        lambda h, table, targets, weights, negatives, log_q: (
            drawn.append((negatives, log_q)) or (0.0, 1.0)
        ),
    )
    config = ObjectiveConfig("sampled_softmax", negatives=9, popularity_power=0.5)
    objective = Objective(config, ITEMS, SPANS, I)
    data = {  # as a step in bfloat16 has it
        name: a.astype(jnp.bfloat16) if a.dtype == np.float32 else a
        for name, a in objective.data.items()
    }
    objective(H[:4], TABLE, NEXT, OWNER, data, jax.random.key(0))
    negatives, log_q = map(np.asarray, drawn[0])
    shares = np.maximum(np.bincount(ITEMS, minlength=I), 1) ** 0.5
    expected = np.log(9 * shares / shares[1:].sum())[negatives]
    np.testing.assert_allclose(log_q, expected, atol=1e-6)


def test_negatives_of_the_batch_are_its_targets(monkeypatch):
    drawn = []
    monkeypatch.setattr(
        losses,
        "bpr",
        lambda h, table, targets, weights, negatives: drawn.append(negatives) or (0.0, 1.0),
    )
    config = ObjectiveConfig("bpr", negatives=500, batch_negatives=300, popularity_power=1.0)
    objective = Objective(config, ITEMS, SPANS, I)
    targets = jnp.array([0, 2, 0, 2, 3, 0])
    objective(jnp.zeros((6, D)), TABLE, targets, OWNER[:1], objective.data, jax.random.key(0))
    catalogue, batch = np.split(np.asarray(drawn[0]), [500])
    assert set(batch) == {2, 3}
    assert np.mean(batch == 2) == pytest.approx(2 / 3, abs=0.1), "as often as they are targets"
    assert set(catalogue) == set(range(1, I)), "items never met can be drawn too"
    assert np.mean(catalogue == 2) == pytest.approx(2 / 17, abs=0.04), "by popularity"


def test_states_of_a_generative_model_add_their_cross_entropy():
    objective = Objective(ObjectiveConfig("mse", states_weight=0.5), ITEMS, SPANS, I)
    h, states = H[:4], H[4:8]
    key = jax.random.key(0)
    total, weight = called(objective.__call__, h, TABLE, NEXT, OWNER, objective.data, key, states)
    real = (np.asarray(NEXT) > 0).astype(np.float32)
    error, _ = called(losses.squared_error, h, TABLE, NEXT, real)
    guided, _ = called(softmax_cross_entropy, states, TABLE, NEXT, real)
    assert float(total) == pytest.approx(float(error + 0.5 * guided), rel=1e-5) and weight == 3
    with pytest.raises(InputError, match="only a generative model has such states"):
        objective(h, TABLE, NEXT, OWNER, objective.data, key)


def test_a_sampled_softmax_of_a_temperature():
    config = ObjectiveConfig("sampled_softmax", negatives=3, temperature=0.25)
    sharp = Objective(config, ITEMS, SPANS, I)
    plain = Objective(ObjectiveConfig("sampled_softmax", negatives=3), ITEMS, SPANS, I)
    key = jax.random.key(3)

    def loss(objective, h):
        return called(objective.__call__, h, TABLE, NEXT, OWNER, objective.data, key)

    np.testing.assert_allclose(loss(sharp, H[:4]), loss(plain, 4 * H[:4]), rtol=1e-5)


def test_settings_that_cannot_work():
    for name, unread in (
        ("bce", {"batch_negatives": 2}), ("bce", {"popularity_power": 1.0}),
        ("bce", {"margin": 0.5}), ("gbce", {"regularization": 0.5}),
        ("bpr", {"calibration": 0.5}), ("bpr", {"negative_weight": 2.0}),
        ("softmax", {"negatives": 7}), ("sampled_softmax", {"smoothing": 0.1}),
    ):  # fmt: skip
        with pytest.raises(InputError, match=f"{next(iter(unread))}: '{name}' has none"):
            ObjectiveConfig(name, **unread)
    with pytest.raises(InputError, match="negatives: 'bpr' needs at least 1"):
        Objective(ObjectiveConfig("bpr", negatives=0), ITEMS, SPANS, 8)
    with pytest.raises(InputError, match="negatives: 'bce' needs at least 1"):
        Objective(ObjectiveConfig("bce", negatives=0), ITEMS, SPANS, 8)
    with pytest.raises(InputError, match="user 0 has all 4 items: no negative is left"):
        Objective(ObjectiveConfig("bce"), ITEMS[:4], SPANS[:1], 5)
