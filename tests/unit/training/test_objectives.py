"""Objectives against plain numpy, position by position."""

import functools
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.data.splits import Spans
from recjax.errors import InputError
from recjax.training import objectives
from recjax.training.cross_entropy import softmax_cross_entropy
from recjax.training.objectives import Objective, ObjectiveConfig

RNG = np.random.default_rng(0)
T, I, D, M = 11, 17, 5, 4  # noqa: E741 - the letters of design.md
H = RNG.standard_normal((T, D)).astype(np.float32)
TABLE = RNG.standard_normal((I, D)).astype(np.float32)
TARGETS = RNG.integers(1, I, T)
WEIGHTS = (RNG.random(T) < 0.7).astype(np.float32)
SHARED = np.array([3, 3, int(TARGETS[0]), 9])


def called(function, *arrays, **static):
    """`function(*arrays, **static)`, compiled."""
    return jax.jit(functools.partial(function, **static))(*arrays)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def weighted(losses):
    return float((np.array(losses) * WEIGHTS).sum()), float(WEIGHTS.sum())


def check(found, losses):
    np.testing.assert_allclose([float(found[0]), float(found[1])], weighted(losses), rtol=2e-5)


def test_bce_and_gbce():
    negatives = RNG.integers(1, I, (T, M))
    for beta in (1.0, 0.3):
        losses = []
        for t in range(T):
            p = sigmoid(H[t] @ TABLE[TARGETS[t]])
            q = sigmoid(TABLE[negatives[t]] @ H[t])
            losses.append(-np.log(p**beta) - np.log(1 - q).sum())
        found = called(
            objectives.binary_cross_entropy, H, TABLE, TARGETS, WEIGHTS, negatives, beta=beta
        )
        check(found, losses)


def test_gbce_beta():
    # t = 0 is plain BCE; t = 1 gives the sampling rate.
    assert objectives.gbce_beta(102, 1, 0.0) == pytest.approx(1.0)
    assert objectives.gbce_beta(102, 1, 1.0) == pytest.approx(0.01)
    assert objectives.gbce_beta(102, 4, 0.75) == pytest.approx(0.04 * (0.75 * (1 - 25) + 25))


@pytest.mark.parametrize("chunk", [None, 1, 3, 11, 64])
def test_softmax(chunk):
    logits = H @ TABLE.T
    logits[:, 0] = -np.inf
    losses = np.log(np.exp(logits).sum(-1)) - logits[np.arange(T), TARGETS]
    check(called(softmax_cross_entropy, H, TABLE, TARGETS, WEIGHTS, chunk=chunk), losses)


@pytest.mark.parametrize(("chunk", "shape"), [(10, (2, 6, D)), (4, (3, 4, D)), (64, (1, T, D))])
def test_chunks_are_alike_so_that_little_is_padded(chunk, shape):
    def loss(h):
        return softmax_cross_entropy(h, TABLE, TARGETS, WEIGHTS, chunk)[0]

    assert f"f32[{','.join(map(str, shape))}]" in str(jax.make_jaxpr(loss)(H))


@pytest.mark.parametrize("chunk", [None, 4])
def test_softmax_gradient_is_that_of_the_plain_formula(chunk):
    def plain(h, table):
        logits = (h @ table.T).at[:, 0].set(-jnp.inf)
        chosen = jax.nn.log_softmax(logits)[jnp.arange(T), TARGETS]
        return 3.0 * -(chosen * WEIGHTS).sum()

    def ours(h, table):
        return 3.0 * softmax_cross_entropy(h, table, TARGETS, WEIGHTS, chunk)[0]

    expected, found = (jax.jit(jax.grad(f, (0, 1)))(H, TABLE) for f in (plain, ours))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_softmax_without_padding_takes_row_0_for_a_candidate():
    targets = np.where(np.arange(T) % 2, TARGETS, 0)

    def plain(h, table):
        chosen = jax.nn.log_softmax(h @ table.T)[jnp.arange(T), targets]
        return -(chosen * WEIGHTS).sum()

    def ours(h, table):
        return softmax_cross_entropy(h, table, targets, WEIGHTS, 4, False)[0]

    expected, found = (jax.jit(jax.value_and_grad(f, (0, 1)))(H, TABLE) for f in (plain, ours))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected
    )


@pytest.mark.parametrize("argnums", [0, 1])
def test_softmax_makes_only_the_gradient_that_is_asked_for(argnums):
    """Three matrix products for both gradients, two for one; and it is the same one."""
    h, table = np.ones((64, 32), np.float32), np.ones((128, 32), np.float32)
    targets, weights = np.ones(64, int), np.ones(64, np.float32)

    def loss(h, table):
        return softmax_cross_entropy(h, table, targets, weights)[0]

    def products(wrt):
        cost = jax.jit(jax.grad(loss, wrt)).lower(h, table).compile().cost_analysis()
        return cost["flops"] / (2 * h.size * len(table))

    assert 2 < products(argnums) < 2.5 < 3 < products((0, 1)) < 3.5
    one, both = (jax.jit(jax.grad(loss, wrt))(h, table) for wrt in (argnums, (0, 1)))
    np.testing.assert_array_equal(one, both[argnums])


def test_softmax_in_half_precision_sums_in_float32():
    def gradients(dtype, chunk):
        def loss(h, table):
            return softmax_cross_entropy(h, table, TARGETS, WEIGHTS, chunk)[0]

        return jax.jit(jax.grad(loss, (0, 1)))(H.astype(dtype), TABLE.astype(dtype))

    for found, expected in zip(
        gradients(jnp.bfloat16, 1), gradients(jnp.float32, None), strict=True
    ):
        assert found.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.asarray(found, np.float32), expected, atol=0.04)


def test_softmax_survives_huge_scores():
    loss, _ = called(softmax_cross_entropy, 1e4 * H, TABLE, TARGETS, WEIGHTS)
    assert np.isfinite(loss)


def test_sampled_softmax_ignores_the_target_among_the_negatives():
    log_q = RNG.standard_normal(M).astype(np.float32)
    losses = []
    for t in range(T):
        positive = H[t] @ TABLE[TARGETS[t]]
        others = [
            H[t] @ TABLE[n] - q for n, q in zip(SHARED, log_q, strict=True) if n != TARGETS[t]
        ]
        losses.append(np.log(np.exp([positive, *others]).sum()) - positive)
    check(called(objectives.sampled_softmax, H, TABLE, TARGETS, WEIGHTS, SHARED, log_q), losses)


def test_bpr_and_top1_are_means_over_the_other_items():
    for function, formula in (
        (objectives.bpr, lambda p, r: -np.log(sigmoid(p - r))),
        (objectives.top1, lambda p, r: sigmoid(r - p) + sigmoid(r**2)),
    ):
        check(
            called(function, H, TABLE, TARGETS, WEIGHTS, SHARED),
            max_losses(lambda p, r, s, formula=formula: formula(p, r).mean()),
        )


def test_negatives_that_are_all_the_target():
    only = np.full(2, TARGETS[0])
    given = TABLE, TARGETS[:1], np.ones(1, np.float32), only

    def losses(h):
        functions = objectives.bpr, objectives.top1, objectives.bpr_max, objectives.top1_max
        found = [*(f(h, *given) for f in functions)]
        found.append(objectives.sampled_softmax(h, *given, np.zeros(2, np.float32)))
        return jnp.stack([jnp.stack(pair) for pair in found])

    values, gradients = jax.jit(lambda h: (losses(h), jax.jacrev(losses)(h)))(H[:1])
    assert np.asarray(values).tolist() == [[0, 1]] * 5
    assert not np.asarray(gradients).any()


@pytest.mark.parametrize("name", ["binary_cross_entropy", "bpr", "top1_max"])
def test_scores_of_half_precision_are_compared_in_float32(name):
    h, table = (jnp.asarray(8 * a, jnp.bfloat16) for a in (H, TABLE))
    negatives = RNG.integers(1, I, (T, M)) if name == "binary_cross_entropy" else SHARED
    half, single = (
        float(called(getattr(objectives, name), *pair, TARGETS, WEIGHTS, negatives)[0])
        for pair in ((h, table), (h.astype(jnp.float32), table.astype(jnp.float32)))
    )
    assert half == pytest.approx(single, rel=1e-5)


def test_squared_error():
    losses = [((H[t] - TABLE[TARGETS[t]]) ** 2).mean() for t in range(T)]
    check(called(objectives.squared_error, H, TABLE, TARGETS, WEIGHTS), losses)


def max_losses(loss):
    out = []
    for t in range(T):
        positive = H[t] @ TABLE[TARGETS[t]]
        r = np.array([H[t] @ TABLE[n] for n in SHARED if n != TARGETS[t]])
        s = np.exp(r) / np.exp(r).sum()
        out.append(loss(positive, r, s))
    return out


def test_bpr_max():
    losses = max_losses(
        lambda p, r, s: -np.log((s * sigmoid(p - r)).sum()) + 0.7 * (s * r**2).sum()
    )
    check(called(objectives.bpr_max, H, TABLE, TARGETS, WEIGHTS, SHARED, 0.7), losses)


def test_top1_max():
    losses = max_losses(lambda p, r, s: (s * (sigmoid(r - p) + sigmoid(r**2))).sum())
    check(called(objectives.top1_max, H, TABLE, TARGETS, WEIGHTS, SHARED), losses)


@pytest.mark.parametrize("budget", [None, T])
def test_seen_items_have_a_bias_and_it_has_a_gradient(budget):
    seen = np.array([[t % 5 + 1, t % 3 + 7, 0] for t in range(T)])

    def plain(h, table, bias):
        logits = (h @ table.T).at[:, 0].set(-jnp.inf)
        logits = logits.at[jnp.arange(T)[:, None], seen[:, :2]].add(bias)
        chosen = jax.nn.log_softmax(logits)[jnp.arange(T), TARGETS]
        return 3.0 * -(chosen * WEIGHTS).sum()

    def ours(h, table, bias):
        return (
            3.0
            * softmax_cross_entropy(
                h, table, TARGETS, WEIGHTS, 4, budget=budget, seen=(jnp.array(seen), bias)
            )[0]
        )

    at = H, TABLE, np.float32(-1.5)
    (value, found), (wanted, expected) = (
        jax.jit(jax.value_and_grad(f, (0, 1, 2)))(*at) for f in (ours, plain)
    )
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
    half = [jax.ShapeDtypeStruct(np.shape(a), jnp.bfloat16) for a in at]
    narrow = jax.eval_shape(jax.grad(ours, (0, 1, 2)), *half)
    assert {a.dtype for a in narrow} == {jnp.dtype("bfloat16")}


def test_a_softmax_of_a_temperature_with_smoothed_targets():
    config = ObjectiveConfig("softmax", temperature=0.5, smoothing=0.2)
    objective = Objective(config, ITEMS, SPANS, I)
    logits = H @ TABLE.T
    met = np.array([[TARGETS[t] if t % 2 else 1, t % 3 + 8, 0] for t in range(T)])
    logits[np.arange(T)[:, None], met] += 1.5  # items of the history
    logits = logits[:, 1:] / 0.5
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    losses = -0.8 * log_p[np.arange(T), TARGETS - 1] - 0.2 * log_p.mean(-1)
    targets = np.where(WEIGHTS > 0, TARGETS, 0)

    def loss(h, data, ids):
        return objective(h, TABLE, targets, None, data, None, seen=(ids, jnp.float32(1.5)))

    check(called(loss, H, objective.data, met), losses)
    with pytest.raises(InputError, match=r"temperature: 'bce' has none; expected 1.0, or 'soft"):
        ObjectiveConfig("bce", temperature=0.5)


# --- with negatives drawn inside

ITEMS = np.array([1, 2, 3, 4, 2, 5], np.int32)
SPANS = Spans(np.arange(2, dtype=np.int32), np.array([0, 4]), np.array([4, 6]))
NEXT, OWNER = jnp.array([0, 2, 3, 5]), jnp.array([0, 0, 0, 1])


@pytest.mark.parametrize("name", typing.get_args(typing.get_type_hints(ObjectiveConfig)["name"]))
def test_every_objective_has_finite_gradients_and_counts_its_targets(name):
    objective = Objective(ObjectiveConfig(name, negatives=3), ITEMS, SPANS, I)
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
        objectives,
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
        objectives,
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
        objectives,
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
    error, _ = called(objectives.squared_error, h, TABLE, NEXT, real)
    guided, _ = called(softmax_cross_entropy, states, TABLE, NEXT, real)
    assert float(total) == pytest.approx(float(error + 0.5 * guided), rel=1e-5) and weight == 3
    with pytest.raises(InputError, match="only a generative model has such states"):
        objective(h, TABLE, NEXT, OWNER, objective.data, key)


def test_settings_that_cannot_work():
    for name in ("bce", "softmax", "sampled_softmax"):
        with pytest.raises(InputError, match=f"batch_negatives: '{name}' takes none"):
            Objective(ObjectiveConfig(name, batch_negatives=2), ITEMS, SPANS, 8)
    with pytest.raises(InputError, match="negatives: 'bpr' needs at least 1"):
        Objective(ObjectiveConfig("bpr", negatives=0), ITEMS, SPANS, 8)
    with pytest.raises(InputError, match="negatives: 'bce' needs at least 1"):
        Objective(ObjectiveConfig("bce", negatives=0), ITEMS, SPANS, 8)
    with pytest.raises(InputError, match="user 0 has all 4 items: no negative is left"):
        Objective(ObjectiveConfig("bce"), ITEMS[:4], SPANS[:1], 5)


def test_cosine_contrastive_is_simplex_loss():
    h, table = np.array([[1.0, 0.0], [0.6, 0.8]]), np.array([[0, 0], [1.0, 0], [0, 1], [0.8, 0.6]])
    targets, weights, negatives = np.array([1, 3]), np.ones(2), np.array([2, 3])
    given = h, table, targets, weights, negatives
    total, weight = called(objectives.cosine_contrastive, *given, 0.5, 10.0)
    # Row 0: r+ = 1, negatives 0 and 0.8; row 1: r+ = 0.96, its own target does not count.
    expected = (0 + 10 * (0 + 0.3) / 2) + (1 - 0.96 + 10 * (0.8 - 0.5))
    np.testing.assert_allclose(total, expected, rtol=1e-6)
    assert weight == 2
