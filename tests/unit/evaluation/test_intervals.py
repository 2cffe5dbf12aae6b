"""Intervals: against their definitions, published values and drawn samples."""

import math

import numpy as np
import pytest

from recjax.evaluation import intervals
from recjax.evaluation.intervals import paired_bootstrap, wilson

Z = 1.959963984540054


def test_published_values():
    """Newcombe (1998, Statistics in Medicine 17, 857-872), Table I, method 3."""
    for (successes, n), expected in {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0.0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }.items():
        assert wilson(successes, n) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize(("successes", "n"), [(1, 3), (0.5, 4), (93, 95), (7.5, 10)])
def test_ends_are_the_shares_that_the_score_test_just_accepts(successes, n):
    for end in wilson(successes, n):
        score = abs(successes / n - end) / math.sqrt(end * (1 - end) / n)
        assert score == pytest.approx(Z)


def test_all_none_and_no_trials():
    assert wilson(0, 0) == (0.0, 1.0)
    low, high = wilson(10, 10)
    assert high == pytest.approx(1) and 0.6 < low < 0.8
    assert wilson(0, 10) == pytest.approx((0.0, 1 - low))


def test_a_higher_level_is_wider():
    narrow, wide = wilson(30, 95), wilson(30, 95, level=0.99)
    assert wide[0] < narrow[0] < 30 / 95 < narrow[1] < wide[1]


def test_it_holds_the_true_share_as_often_as_it_says():
    draws = np.random.default_rng(0).binomial(95, 0.9, 4000)
    ends = np.array([wilson(int(k), 95) for k in draws])
    assert 0.93 < ((ends[:, 0] <= 0.9) & (ends[:, 1] >= 0.9)).mean() < 0.97


@pytest.mark.parametrize("wrong", [(3, 2), (-1, 2), (float("nan"), 2), (1, -1)])
def test_impossible_counts_are_refused(wrong):
    with pytest.raises(ValueError, match="expected 0 <= successes <= n"):
        wilson(*wrong)
    with pytest.raises(ValueError, match="at level 95"):
        wilson(1, 2, level=95)


def columns(*values):
    return np.stack([np.asarray(v, float) for v in values], axis=1)


def test_no_difference_is_no_difference():
    a = np.random.default_rng(0).random((50, 3))
    found = paired_bootstrap(a, a, np.arange(50))
    assert not found.low.any() and not found.high.any()
    np.testing.assert_allclose(found.a, a.mean(0))


def test_the_interval_of_a_mean_difference():
    """Of 400 users it is near the normal one: mean +- 1.96 deviations / sqrt(n); what both runs
    share does not widen it, and its sign is that of a - b."""
    rng = np.random.default_rng(1)
    base, gain = 10 * rng.random(400), 0.1 + 0.5 * rng.standard_normal(400)
    found = paired_bootstrap(columns(base + gain, base), columns(base, base + gain), np.arange(400))
    half = Z * gain.std() / math.sqrt(400)
    assert found.low[0] == pytest.approx(gain.mean() - half, abs=0.05 * half)
    assert found.high[0] == pytest.approx(gain.mean() + half, abs=0.05 * half)
    assert (found.low[1], found.high[1]) == pytest.approx((-found.high[0], -found.low[0]))
    assert found.a - found.b == pytest.approx([gain.mean(), -gain.mean()])
    narrow = paired_bootstrap(
        columns(base + gain), columns(base), np.arange(400), level=0.5, resamples=2000
    )
    assert found.low[0] < narrow.low[0] < narrow.high[0] < found.high[0]


def test_it_holds_the_true_difference_as_often_as_it_says():
    rng, held = np.random.default_rng(2), 0
    for seed in range(300):
        a, b = rng.random((2, 80, 1)) < np.array([0.4, 0.3])[:, None, None]
        found = paired_bootstrap(a, b, np.arange(80), resamples=300, seed=seed)
        held += found.low[0] <= 0.1 <= found.high[0]
    assert 0.90 < held / 300 < 0.98


def test_all_examples_of_a_user_are_drawn_together():
    """Ten alike of each user say no more than one."""
    rng = np.random.default_rng(3)
    a, b = rng.random((2, 40, 1))
    once = paired_bootstrap(a, b, np.arange(40))
    often = paired_bootstrap(np.repeat(a, 10, 0), np.repeat(b, 10, 0), np.repeat(np.arange(40), 10))
    assert often.units == 40
    np.testing.assert_allclose([often.low, often.high], [once.low, once.high])
    # A user with more examples weighs more, in the means and in the resamples.
    found = paired_bootstrap(columns([1, 1, 1, 0]), columns([0, 0, 0, 0]), np.array([0, 0, 0, 1]))
    assert found.a == [0.75] and (found.low, found.high) == ([0.0], [1.0])


def test_the_same_seed_gives_the_same_interval_in_any_parts(monkeypatch):
    a, b = np.random.default_rng(4).random((2, 30, 2))
    whole = paired_bootstrap(a, b, np.arange(30), resamples=100)
    monkeypatch.setattr(intervals, "_DRAWS", 7 * 30)
    parts = paired_bootstrap(a, b, np.arange(30), resamples=100)
    np.testing.assert_allclose(parts.low, whole.low, rtol=1e-12)
    other = paired_bootstrap(a, b, np.arange(30), resamples=100, seed=1)
    assert (other.low != whole.low).all()
    monkeypatch.setattr(intervals, "_DRAWS", 1)  # more users than that: one resample at a time
    one = paired_bootstrap(a, b, np.arange(30), resamples=100)
    np.testing.assert_allclose(one.high, whole.high, rtol=1e-12)


def test_one_user_has_no_interval():
    found = paired_bootstrap(columns([1, 0]), columns([0, 0]), np.array([5, 5]))
    assert found.a == [0.5] and np.isnan([found.low, found.high]).all()
    with pytest.raises(ValueError, match="of 3 units"):
        paired_bootstrap(columns([1, 0]), columns([0, 0]), np.arange(3))
    with pytest.raises(ValueError, match=r"values \(2,\) and \(2,\) of 2 units; expected \[n M\]"):
        paired_bootstrap([1, 0], [0, 0], [5, 6])
