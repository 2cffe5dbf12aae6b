"""Choosing a token: against sorting, against the distribution, and at the edges."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from recjax.generate.sampling import Sampler, greedy, log_prob, row_keys, top_k

KEY = jax.random.key(0)


@functools.cache
def keys(n):
    return jax.jit(lambda: row_keys(KEY, jnp.arange(n)))()


@jax.jit
def draw(sampler, logits, keys):
    return sampler(logits, keys)


def draws(sampler, logits, n=4000):
    """n tokens from one row of logits."""
    rows = np.broadcast_to(np.asarray(logits, np.float32), (n, len(logits)))
    return np.asarray(draw(sampler, rows, keys(n)))


def kept(logits, temperature=1.0, k=None, p=None):
    """Probabilities [V] after the filters, by sorting: the definition."""
    x = np.asarray(logits, np.float64) / temperature
    order = np.argsort(-x, kind="stable")
    if k is not None:
        x[order[k:]] = -np.inf
    q = np.exp(x - x.max())
    q /= q.sum()
    if p is not None:
        above = np.array([q[q > one].sum() for one in q])
        q = np.where((above < p) | (above == 0), q, 0)
    return q / q.sum()


@settings(deadline=None, max_examples=60)
@given(
    hnp.arrays(np.float32, (3, 37), elements=st.sampled_from([-np.inf, -2.0, 0.0, 0.5, 1.0, 3.0])),
    st.integers(1, 37),
)
def test_top_k_is_a_stable_sort(x, k):
    values, places = jax.jit(top_k, static_argnums=1)(x, k)
    expected = np.argsort(-x, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(places, expected)
    np.testing.assert_array_equal(values, np.take_along_axis(x, expected, 1))


@pytest.mark.parametrize("vocab", [1, 2, 63, 64, 65, 1000])
def test_greedy_takes_the_largest_and_the_first_of_ties(vocab):
    x = np.random.default_rng(vocab).integers(0, 4, (5, vocab)).astype(np.float32)
    np.testing.assert_array_equal(jax.jit(greedy)(x), x.argmax(-1))


def test_log_prob():
    x = jax.random.normal(KEY, (3, 5))
    expected = jax.nn.log_softmax(x)[jnp.arange(3), jnp.array([0, 4, 2])]
    np.testing.assert_allclose(log_prob(x, jnp.array([0, 4, 2])), expected, rtol=1e-5)


@pytest.mark.parametrize(
    "filters",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 3.0},
        {"k": 1},
        {"k": 5},
        {"k": 1000},
        {"p": 0.01},
        {"p": 0.5},
        {"p": 0.9},
        {"p": 1.0},
        {"p": 0.0},
        {"k": 6, "p": 0.8},
        {"temperature": 2.0, "k": 9, "p": 0.7},
    ],
    ids=str,
)
def test_draws_follow_the_filtered_distribution(filters):
    logits = np.random.default_rng(1).normal(0, 1.5, 23)
    logits[4] = logits[5] = np.sort(logits)[-4]  # a tie near the edges
    sampler = Sampler(filters.get("temperature", 1.0), filters.get("p"), filters.get("k"))
    expected = kept(logits, **filters)
    found = np.bincount(draws(sampler, logits), minlength=23)
    assert not found[expected == 0].any()
    # Four standard deviations of each count; a wrong filter moves counts by dozens of them.
    spread = np.sqrt(4000 * expected * (1 - expected))
    assert (np.abs(found - 4000 * expected) <= 4 * spread + 1e-9).all()


def test_top_p_of_a_flat_distribution():
    """All tied: the most likely token is every token, so all stay, whatever the share."""
    assert len(set(draws(Sampler(top_p=0.3), np.zeros(16)))) == 16
    assert len(set(draws(Sampler(top_p=0.3, top_k=4), np.zeros(16)))) == 4


@pytest.mark.parametrize("filters", [{}, {"top_k": 5}, {"top_p": 0.9}, {"top_k": 5, "top_p": 0.9}])
def test_temperature_zero_is_greedy_row_by_row(filters):
    logits = jax.random.normal(KEY, (64, 50))
    temperature = jnp.where(jnp.arange(64) % 2 == 0, 0.0, 5.0)
    tokens = np.asarray(draw(Sampler(temperature, **filters), logits, keys(64)))
    same = tokens == np.asarray(greedy(logits))
    assert same[::2].all() and not same[1::2].all()
    cold = draw(Sampler(1e-30, **filters), logits, keys(64))
    np.testing.assert_array_equal(cold, greedy(logits))


@pytest.mark.parametrize("filters", [{}, {"top_k": 3}, {"top_p": 0.5}])
def test_forbidden_tokens_are_never_drawn(filters):
    logits = np.full(300, -np.inf)
    logits[[7, 250]] = [0.0, 30.0]
    assert set(draws(Sampler(1.0, **filters), logits)) == {250}
    logits[:] = -np.inf
    tokens = draws(Sampler(1.0, **filters), logits, 8)
    assert (tokens >= 0).all() and (tokens < 300).all()


def test_unlikely_tokens_are_drawn_as_often_as_they_should():
    """100,000 tokens of one probability: the draw is not confined to a few of them."""
    x = jnp.zeros((256, 100_000))
    tokens = np.asarray(draw(Sampler(), x, keys(256)))
    assert len(set(tokens)) > 250
    assert np.abs(tokens.mean() / 50_000 - 1) < 0.15


def test_a_row_is_drawn_alone():
    """Neither the neighbours nor the place in the batch change a row's draw, nor its retries."""
    logits = jax.random.normal(KEY, (32, 200))
    for sampler in (Sampler(), Sampler(top_p=0.2), Sampler(top_k=9, top_p=0.9)):
        whole = np.asarray(draw(sampler, logits, keys(32)))
        backwards = np.asarray(draw(sampler, logits[::-1], keys(32)[::-1]))
        np.testing.assert_array_equal(whole, backwards[::-1])
        np.testing.assert_array_equal(whole[5:6], draw(sampler, logits[5:6], keys(32)[5:6]))


def test_numbers_do_not_compile_again():
    traces = []

    @jax.jit
    def draw(sampler, logits, keys):
        traces.append(1)
        return sampler(logits, keys)

    logits = jax.random.normal(KEY, (4, 50))
    for temperature, share in ((1.0, 0.9), (0.0, 0.5), (2.0, 1.0)):
        draw(Sampler(temperature, share, 7), logits, keys(4))
    assert len(traces) == 1
    draw(Sampler(1.0, 0.9, 8), logits, keys(4))
    assert len(traces) == 2


def test_top_k_must_be_positive():
    with pytest.raises(ValueError, match="top_k 0"):
        Sampler(top_k=0)
