"""The policy's gradient is the exact one on average, and finds a known optimum."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from recjax.guided.policy_loss import advantages, divergence, format_advantages, policy_loss
from recjax.guided.rewards import auc, match, reciprocal_rank

PLACES, RATINGS = 2, 3
REWARDS = np.random.default_rng(0).uniform(size=(RATINGS, RATINGS)).astype(np.float32)


def log_probs_of(params, chosen):
    """Of ratings [... 2]; the second one knows the first."""
    first = jax.nn.log_softmax(params["first"])
    second = jax.nn.log_softmax(params["second"], axis=-1)
    a, b = chosen[..., 0], chosen[..., 1]
    return jnp.stack([first[a], second[a, b]], axis=-1)


@jax.jit
def parameters():
    keys = jax.random.split(jax.random.key(1))
    return {
        "first": jax.random.normal(keys[0], (RATINGS,)),
        "second": jax.random.normal(keys[1], (RATINGS, RATINGS)),
    }


def draw(params, key, shape):
    one, two = jax.random.split(key)
    a = jax.random.categorical(one, jnp.broadcast_to(params["first"], (*shape, RATINGS)))
    b = jax.random.categorical(two, params["second"][a])
    return jnp.stack([a, b], axis=-1)


def test_the_gradients_mean_is_the_exact_one():
    params = parameters()
    every = np.array(list(itertools.product(range(RATINGS), repeat=PLACES)))

    def exact(params):
        return -(jnp.exp(log_probs_of(params, every).sum(-1)) * REWARDS[tuple(every.T)]).sum()

    chosen = np.asarray(jax.jit(lambda p: draw(p, jax.random.key(2), (40_000, 4)))(params))
    rewards = REWARDS[chosen[..., 0], chosen[..., 1]]

    def drawn(params):
        return policy_loss(log_probs_of(params, chosen), advantages(rewards), rewards) / len(chosen)

    value, found = jax.jit(jax.value_and_grad(drawn))(params)
    wanted, slopes = jax.jit(jax.value_and_grad(exact))(params)
    assert value == pytest.approx(float(1 + wanted), abs=5e-3)
    for name, expected in slopes.items():
        np.testing.assert_allclose(found[name], expected, atol=4e-3)
        assert np.abs(expected).max() > 0.02


@pytest.mark.parametrize(("scale", "updates"), [(False, 1), (True, 1), (False, 3)])
def test_a_bandits_best_answer_is_found(scale, updates):
    params, optimizer = parameters(), optax.adam(0.05)

    @jax.jit
    def step(params, state, key):
        chosen = draw(params, key, (16, 8))
        rewards = jnp.asarray(REWARDS)[chosen[..., 0], chosen[..., 1]]
        gain, before = advantages(rewards, scale=scale), log_probs_of(params, chosen)

        def loss(params):
            own = log_probs_of(params, chosen)
            return policy_loss(own, gain, rewards, before=before, clip=0.2) / 16

        for _ in range(updates):
            changes, state = optimizer.update(jax.grad(loss)(params), state)
            params = optax.apply_updates(params, changes)
        return params, state

    state = optimizer.init(params)
    for number in range(300 // updates):
        params, state = step(params, state, jax.random.key(number))
    best = np.array(np.unravel_index(REWARDS.argmax(), REWARDS.shape))
    assert float(jnp.exp(log_probs_of(params, best).sum())) > 0.9


def test_advantages_know_nothing_of_their_own_answer():
    rewards = np.array([[0.1, 0.5, 0.9], [1.0, 0.5, 0.9]], np.float32)
    one, other = np.asarray(jax.jit(advantages)(rewards))
    np.testing.assert_allclose(other - one, [0.9, -0.45, -0.45], atol=1e-6)
    np.testing.assert_allclose(one.sum(), 0, atol=1e-6)
    equal = np.full((2, 8), 0.9, np.float32)  # the mean of these is rounded
    scaled = jax.jit(functools.partial(advantages, scale=True))
    assert not np.asarray(scaled(equal)).any()


def test_auc_is_the_share_of_pairs_in_order():
    rng = np.random.default_rng(3)
    scores = rng.integers(0, 5, (50, 7)).astype(np.float32)
    liked, known = rng.random((50, 7)) < 0.4, rng.random((50, 7)) < 0.8
    found, some = map(np.asarray, jax.jit(auc)(scores, liked, known))
    for row in range(50):
        good, bad = (scores[row][known[row] & (liked[row] == side)] for side in (True, False))
        pairs = [(g > b) + 0.5 * (g == b) for g in good for b in bad]
        assert some[row] == bool(pairs)
        assert float(found[row]) == pytest.approx(np.mean(pairs) if pairs else 0.5)


def test_the_rank_is_among_all_items_but_the_history():
    rng = np.random.default_rng(4)
    users = rng.normal(size=(20, 3)).astype(np.float32)
    items = rng.integers(-2, 3, (30, 3)).astype(np.float32)
    targets = np.stack([rng.choice(np.arange(1, 30), 4, replace=False) for _ in range(20)])
    history = np.stack([rng.choice(np.arange(0, 30), 6, replace=False) for _ in range(20)])
    known = rng.random((20, 4)) < 0.8
    scores = np.asarray(jax.jit(match)(users, items))
    found = np.asarray(jax.jit(reciprocal_rank)(scores, targets, known, history))
    for row in range(20):
        out = []
        for target in targets[row][known[row]]:
            rest = set(range(1, 30)) - set(history[row].tolist()) - {int(target)}
            own = float(scores[row, target])
            out.append(1 / (1 + sum(float(scores[row, i]) >= own for i in rest)))
        assert float(found[row]) == pytest.approx(np.mean(out) if out else 0.0)
    none = reciprocal_rank(scores * np.nan, targets, known, 0 * history)  # no number is no reward
    np.testing.assert_allclose(none, known.any(1) / 29, rtol=1e-6)


clipped = jax.jit(jax.value_and_grad(functools.partial(policy_loss, clip=0.2)))


@pytest.mark.parametrize(
    ("change", "gain", "slope"),
    [
        (0.0, 1.0, -1.0), (0.0, -1.0, 1.0),
        (0.1, 1.0, -1.1), (0.1, -1.0, 1.1),  # inside: the gradient of ratio times gain
        (0.3, 1.0, 0.0), (-0.3, -1.0, 0.0),  # it has changed enough in the gain's direction
        (0.3, -1.0, 1.3), (-0.3, 1.0, -0.7),  # and against it: the way back is open
    ],
)  # fmt: skip
def test_a_clipped_decision_has_no_gradient(change, gain, slope):
    before = np.full((1, 2, 2), -1.0, np.float32)
    now, gains, real = before.copy(), np.zeros_like(before), np.ones(before.shape, bool)
    now[0, 0, 0] += np.log1p(change)
    gains[0, 0, 0], gains[0, 1, 1], real[0, 1, 1] = gain, 5.0, False
    rewards = np.array([[0.25, 0.5]], np.float32)
    value, found = clipped(now, gains, rewards, before=before, real=real)
    assert value == pytest.approx(0.625)
    expected = np.zeros((1, 2, 2))
    expected[0, 0, 0] = slope / 2  # of two answers
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_divergence_is_the_exact_one_and_so_is_its_gradient():
    params = parameters()
    start = {name: a + 0.5 * np.sin(7 * a) for name, a in jax.device_get(params).items()}
    every = np.array(list(itertools.product(range(RATINGS), repeat=PLACES)))
    of = jax.jit(log_probs_of)
    of_start, own = np.asarray(of(start, every)), np.asarray(of(params, every))
    mass = np.exp(own.sum(-1))

    def estimated(params):  # the mean over all answers, as the policy draws them
        log_probs = log_probs_of(params, every)[:, None, None]
        each = jax.vmap(divergence)(log_probs, of_start[:, None, None])
        return (mass * each).sum()

    def backward(params):  # of the start from the policy, at each place; prefixes are the policy's
        first = jax.nn.softmax(start["first"]) @ -jax.nn.log_softmax(params["first"])
        prefixes = jax.lax.stop_gradient(jax.nn.softmax(params["first"]))
        own = jax.nn.log_softmax(params["second"], axis=-1)
        second = (jax.nn.softmax(start["second"], axis=-1) * -own).sum(-1)
        return first + prefixes @ second

    value, found = jax.jit(jax.value_and_grad(estimated))(params)
    exact = (mass * (own - of_start).sum(-1)).sum()
    assert value == pytest.approx(float(exact), abs=1e-5) and exact > 0.01
    for name, expected in jax.jit(jax.grad(backward))(params).items():
        np.testing.assert_allclose(found[name], expected, atol=1e-5)
        assert np.abs(expected).max() > 0.01
    far = of_start[:, None] - np.array([0.0, 9.0], np.float32)
    real = np.broadcast_to([True, False], far.shape)  # a decision that there is not counts nothing
    same = jax.jit(divergence)(of_start[:, None], far, real)
    assert same == pytest.approx(0.0, abs=1e-6)


def test_a_group_says_how_usual_it_is_to_keep_to_the_form():
    at = np.array([[[0, 1, 2], [0, 1, 3], [0, 3, 3]]])
    kept = np.array([[[True, True, True], [True, False, False], [False, False, False]]])
    words = np.array([[[True, True, True], [True, True, False], [True, False, False]]])
    found = jax.jit(format_advantages, static_argnums=3)(at, kept, words, 3)
    np.testing.assert_allclose(found, [[[0.5, 1, 1], [0.5, -1, 0], [-1, 0, 0]]], atol=1e-6)
