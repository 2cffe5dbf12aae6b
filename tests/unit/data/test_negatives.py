import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.data.negatives import nth_negative, popularity_cdf, sort_positives, uniform_negatives
from recjax.errors import InputError


def test_sorted_positives_are_distinct_in_each_run():
    items = np.array([5, 2, 5, 9, 1, 1])
    offsets, positives = sort_positives(items, np.array([0, 4, 6]), np.array([4, 6, 6]))
    assert offsets.tolist() == [0, 3, 4, 4]
    assert positives.tolist() == [2, 5, 9, 1]


@pytest.mark.parametrize("xp", [np, jnp])
def test_nth_negative_enumerates_the_complement(xp):
    function = nth_negative if xp is np else jax.jit(nth_negative, static_argnums=(4, 5))
    n_items = 12
    runs = [[2, 5, 9], [], [1, 2, 3], [11], list(range(1, 11))]
    positives = np.concatenate(runs).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum([len(r) for r in runs])])
    for k, run in enumerate(runs):
        expected = [i for i in range(1, n_items) if i not in run]
        ranks, longest = np.arange(len(expected)), max(map(len, runs))
        found = function(ranks, offsets[k], offsets[k + 1], positives, longest, xp)
        assert found.tolist() == expected


def test_uniform_negatives_are_uniform_and_never_positive():
    offsets, positives = np.array([0, 2, 3]), np.array([1, 3, 2])
    rng = np.random.default_rng(0)
    drawn = uniform_negatives(rng, 20000, offsets, positives, 7, distinct=False)
    counts = [np.bincount(row, minlength=7) / 20000 for row in drawn]
    np.testing.assert_allclose(counts[0], [0, 0, 0.25, 0, 0.25, 0.25, 0.25], atol=0.02)
    np.testing.assert_allclose(counts[1], [0, 0.2, 0, 0.2, 0.2, 0.2, 0.2], atol=0.02)


def test_distinct_negatives():
    runs = 4000
    offsets, positives = np.arange(0, 3 * runs + 1, 3), np.tile([2, 4, 9], runs)
    drawn = uniform_negatives(np.random.default_rng(0), 4, offsets, positives, 12, distinct=True)
    assert (np.diff(np.sort(drawn, axis=1)) > 0).all()
    seen = np.bincount(drawn.reshape(-1), minlength=12)
    assert seen[[0, 2, 4, 9]].sum() == 0
    # Every one of the 8 free items in half of the draws of 4.
    np.testing.assert_allclose(np.delete(seen, [0, 2, 4, 9]) / runs, 0.5, atol=0.03)


def test_too_few_negatives_left():
    with pytest.raises(InputError, match="cannot draw 4 negatives: a user leaves 3 of 5 items"):
        uniform_negatives(
            np.random.default_rng(0), 4, np.array([0, 2]), np.array([1, 2]), 6, distinct=True
        )


def test_popularity_cdf():
    cdf = popularity_cdf(np.array([5, 1, 0, 4]), 0.5)
    assert cdf.dtype == np.uint32
    np.testing.assert_allclose(cdf / 2**32, [0, 1 / 3, 1 / 3, 1], rtol=1e-6)
    alike = popularity_cdf(np.array([5, 1, 0, 4]), 0.0)  # an item of count 0 is never drawn
    np.testing.assert_allclose(alike / 2**32, [0, 0.5, 0.5, 1], rtol=1e-6)
    # No item of a large catalogue vanishes.
    counts = np.ones(2_000_000)
    counts[1] = 1e6
    assert np.diff(popularity_cdf(counts, 1.0).astype(np.int64)).min() > 0


def test_nothing_that_was_chosen_has_no_popularity():
    with pytest.raises(InputError, match="counts: all are 0; expected an item that was chosen"):
        popularity_cdf(np.array([7, 0, 0]), 1.0)
