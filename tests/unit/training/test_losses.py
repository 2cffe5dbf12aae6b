"""Losses of negatives against plain numpy, position by position."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.training import losses

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


def weighted(values):
    return float((np.array(values) * WEIGHTS).sum()), float(WEIGHTS.sum())


def check(found, values):
    np.testing.assert_allclose([float(found[0]), float(found[1])], weighted(values), rtol=2e-5)


def test_bce_and_gbce():
    negatives = RNG.integers(1, I, (T, M))
    for beta in (1.0, 0.3):
        values = []
        for t in range(T):
            p = sigmoid(H[t] @ TABLE[TARGETS[t]])
            q = sigmoid(TABLE[negatives[t]] @ H[t])
            values.append(-np.log(p**beta) - np.log(1 - q).sum())
        found = called(
            losses.binary_cross_entropy, H, TABLE, TARGETS, WEIGHTS, negatives, beta=beta
        )
        check(found, values)


def test_gbce_beta():
    # t = 0 is plain BCE; t = 1 gives the sampling rate.
    assert losses.gbce_beta(102, 1, 0.0) == pytest.approx(1.0)
    assert losses.gbce_beta(102, 1, 1.0) == pytest.approx(0.01)
    assert losses.gbce_beta(102, 4, 0.75) == pytest.approx(0.04 * (0.75 * (1 - 25) + 25))


def test_sampled_softmax_ignores_the_target_among_the_negatives():
    log_q = RNG.standard_normal(M).astype(np.float32)
    values = []
    for t in range(T):
        positive = H[t] @ TABLE[TARGETS[t]]
        others = [
            H[t] @ TABLE[n] - q for n, q in zip(SHARED, log_q, strict=True) if n != TARGETS[t]
        ]
        values.append(np.log(np.exp([positive, *others]).sum()) - positive)
    check(called(losses.sampled_softmax, H, TABLE, TARGETS, WEIGHTS, SHARED, log_q), values)


def test_bpr_and_top1_are_means_over_the_other_items():
    for function, formula in (
        (losses.bpr, lambda p, r: -np.log(sigmoid(p - r))),
        (losses.top1, lambda p, r: sigmoid(r - p) + sigmoid(r**2)),
    ):
        check(
            called(function, H, TABLE, TARGETS, WEIGHTS, SHARED),
            max_losses(lambda p, r, s, formula=formula: formula(p, r).mean()),
        )


def test_negatives_that_are_all_the_target():
    only = np.full(2, TARGETS[0])
    given = TABLE, TARGETS[:1], np.ones(1, np.float32), only

    def each(h):
        functions = losses.bpr, losses.top1, losses.bpr_max, losses.top1_max
        found = [*(f(h, *given) for f in functions)]
        found.append(losses.sampled_softmax(h, *given, np.zeros(2, np.float32)))
        return jnp.stack([jnp.stack(pair) for pair in found])

    values, gradients = jax.jit(lambda h: (each(h), jax.jacrev(each)(h)))(H[:1])
    assert np.asarray(values).tolist() == [[0, 1]] * 5
    assert not np.asarray(gradients).any()


@pytest.mark.parametrize("name", ["binary_cross_entropy", "bpr", "top1_max"])
def test_scores_of_half_precision_are_compared_in_float32(name):
    h, table = (jnp.asarray(8 * a, jnp.bfloat16) for a in (H, TABLE))
    negatives = RNG.integers(1, I, (T, M)) if name == "binary_cross_entropy" else SHARED
    half, single = (
        float(called(getattr(losses, name), *pair, TARGETS, WEIGHTS, negatives)[0])
        for pair in ((h, table), (h.astype(jnp.float32), table.astype(jnp.float32)))
    )
    assert half == pytest.approx(single, rel=1e-5)


def test_squared_error():
    values = [((H[t] - TABLE[TARGETS[t]]) ** 2).mean() for t in range(T)]
    check(called(losses.squared_error, H, TABLE, TARGETS, WEIGHTS), values)


def max_losses(loss):
    out = []
    for t in range(T):
        positive = H[t] @ TABLE[TARGETS[t]]
        r = np.array([H[t] @ TABLE[n] for n in SHARED if n != TARGETS[t]])
        s = np.exp(r) / np.exp(r).sum()
        out.append(loss(positive, r, s))
    return out


def test_bpr_max():
    values = max_losses(
        lambda p, r, s: -np.log((s * sigmoid(p - r)).sum()) + 0.7 * (s * r**2).sum()
    )
    check(called(losses.bpr_max, H, TABLE, TARGETS, WEIGHTS, SHARED, 0.7), values)


def test_top1_max():
    values = max_losses(lambda p, r, s: (s * (sigmoid(r - p) + sigmoid(r**2))).sum())
    check(called(losses.top1_max, H, TABLE, TARGETS, WEIGHTS, SHARED), values)


def test_cosine_contrastive_is_simplex_loss():
    h, table = np.array([[1.0, 0.0], [0.6, 0.8]]), np.array([[0, 0], [1.0, 0], [0, 1], [0.8, 0.6]])
    targets, weights, negatives = np.array([1, 3]), np.ones(2), np.array([2, 3])
    given = h, table, targets, weights, negatives
    total, weight = called(losses.cosine_contrastive, *given, 0.5, 10.0)
    # Row 0: r+ = 1, negatives 0 and 0.8; row 1: r+ = 0.96, its own target does not count.
    expected = (0 + 10 * (0 + 0.3) / 2) + (1 - 0.96 + 10 * (0.8 - 0.5))
    np.testing.assert_allclose(total, expected, rtol=1e-6)
    assert weight == 2
