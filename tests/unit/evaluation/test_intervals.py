"""Wilson's interval: against its definition, published values and drawn samples."""

import math

import numpy as np
import pytest

from recjax.evaluation.intervals import wilson

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
