import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.evaluation.ranking import (
    EXACT,
    coverage,
    least_tie,
    marginal_relevance,
    rank_catalogue,
    rank_values,
    ranks_of,
    top_items,
)

NOTHING = (jnp.zeros(0, jnp.int32), jnp.zeros(0, jnp.int32))


def test_ties_and_nan_count_against_the_target():
    scores = jnp.array([[1.0, 2.0, 2.0, 0.0], [5.0, 5.0, 5.0, 5.0], [jnp.nan, 1.0, 0.0, 2.0]])
    assert ranks_of(scores, jnp.array([1, 0, 1])).tolist() == [2, 4, 3]
    # A target whose own score is no number comes last.
    assert ranks_of(scores, jnp.array([1, 0, 0])).tolist() == [2, 4, 4]


@pytest.mark.parametrize(("n_items", "chunk", "k"), [(101, 1000, 20), (101, 30, 20), (64, 16, 5)])
def test_streamed_ranks_against_brute_force(n_items, chunk, k):
    rng = np.random.default_rng(0)
    # Small integers: many exact ties, and sums that are exact in any order.
    h = rng.integers(-2, 3, (6, 4)).astype(np.float32)
    table = rng.integers(-2, 3, (n_items, 4)).astype(np.float32)
    targets = rng.integers(1, n_items, 6)
    seen = rng.integers(0, n_items, (6, 5))
    seen[0, 0] = targets[0]  # a repeated target takes part all the same
    pairs = (jnp.repeat(jnp.arange(6), 5), jnp.array(seen).reshape(-1))
    ranks, top = rank_catalogue(jnp.array(h), jnp.array(table), jnp.array(targets), pairs, k, chunk)
    scores = h @ table.T
    for b in range(6):
        part = np.ones(n_items, bool)
        part[0] = False
        part[seen[b]] = False
        part[targets[b]] = True
        others = part & (np.arange(n_items) != targets[b])
        assert ranks[b] == 1 + (others & (scores[b] >= scores[b, targets[b]])).sum()
        listed = np.asarray(top[b])
        assert len(set(listed)) == k and part[listed].all()
        np.testing.assert_array_equal(scores[b, listed], np.sort(scores[b, part])[::-1][:k])


def test_types_of_64_bits_change_no_type_and_no_rank_is_promoted():
    def both(h, table, targets, rows, items):
        listed = top_items(h, table, (rows, items), 5, 4, table[:, 0] > 0)
        ranked = rank_catalogue(h, table, targets, (rows, items), 5, 4)
        return listed, ranked, ranks_of(h @ table.T, targets)

    ids = jax.ShapeDtypeStruct((3,), "int64")
    with jax.enable_x64(True), jax.numpy_rank_promotion("raise"):
        found = jax.eval_shape(both, np.ones((3, 2), "f"), np.ones((9, 2), "f"), ids, ids, ids)
    assert [str(a.dtype) for a in jax.tree.leaves(found)] == ["int32", "float32"] + ["int32"] * 3


def test_arrays_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"targets: expected \[B\] with B = 3, which h has"):
        rank_catalogue(np.ones((3, 2)), np.ones((9, 2)), np.ones(2, int), NOTHING, 5)
    with pytest.raises(TypeError, match=r"seen_rows: expected \[P\], an array; got list"):
        top_items(np.ones((3, 2)), np.ones((9, 2)), ([0], [1]), 5)


def test_a_list_longer_than_what_takes_part():
    h, table = jnp.ones((1, 2)), jnp.arange(8.0).reshape(4, 2)
    pairs = (jnp.zeros(1, jnp.int32), jnp.array([2]))
    ranks, top = rank_catalogue(h, table, jnp.array([1]), pairs, 4)
    assert ranks.tolist() == [2] and top.tolist() == [[3, 1, 0, 0]]


def test_a_model_that_cannot_tell_items_apart_ranks_last():
    rng = np.random.default_rng(1)
    h = jnp.array(rng.standard_normal((40, 33)), jnp.float32)
    table = jnp.broadcast_to(jnp.array(rng.standard_normal(33), jnp.float32), (50, 33))
    ranks, _ = rank_catalogue(h, table, jnp.arange(1, 41), NOTHING, 10, 16)
    assert ranks.tolist() == [49] * 40
    half = h.astype(jnp.float16), table.astype(jnp.float16)  # sums of which differ by a thousandth
    assert rank_catalogue(*half, jnp.arange(1, 41), NOTHING, 10, 16)[0].tolist() == [49] * 40

    # GPUs and TPUs round factors unless they are told not to, and the target's own score is exact.
    def both(h, table, targets):
        top = rank_catalogue(h, table, targets, NOTHING, 10, 16)[1]
        return marginal_relevance(h, table, top, [10])

    _, *products = str(jax.make_jaxpr(both)(h, table, jnp.arange(1, 41))).split("dot_general")
    assert len(products) == 3 and all("HIGHEST" in product for product in products)
    ranks, _ = rank_catalogue(h * jnp.nan, table, jnp.arange(1, 41), NOTHING, 10, 16)
    assert ranks.tolist() == [49] * 40


@pytest.mark.parametrize("dim", [7, 50, 64, 100])
def test_equal_vectors_among_candidates_are_ties(dim):
    """Sums of the same products in another order differ in their last digits."""
    rng = np.random.default_rng(2)
    h = jnp.array(rng.standard_normal((64, dim)), jnp.float32)
    vector = jnp.array(rng.standard_normal(dim), jnp.float32)

    @jax.jit
    def ranks(h, vectors):
        scores = jnp.einsum("BD,BCD->BC", h, vectors, precision=EXACT)
        return ranks_of(scores, jnp.zeros(64, jnp.int32), least_tie(h * vectors[:, 0]))

    vectors = jnp.broadcast_to(vector, (64, 101, dim))
    assert ranks(h, vectors).tolist() == [101] * 64
    apart = vectors.at[:, 1:51].add(-1e-3 * h[:, None])  # 50 of them score less
    assert ranks(h, apart).tolist() == [51] * 64
    assert ranks(h * jnp.nan, vectors).tolist() == [101] * 64


def test_metrics_by_hand():
    values = rank_values(np.array([1, 2, 4, 11]), (1, 5, 10))
    metrics = {name: value.mean() for name, value in values.items()}
    assert metrics["hr@1"] == 0.25 and metrics["hr@5"] == 0.75 and metrics["hr@10"] == 0.75
    assert [metrics[f"recall@{k}"] for k in (1, 5, 10)] == [0.25, 0.75, 0.75]
    assert metrics["ndcg@5"] == pytest.approx((1 + 1 / np.log2(3) + 1 / np.log2(5)) / 4)
    assert metrics["mrr@10"] == pytest.approx((1 + 0.5 + 0.25) / 4)
    assert metrics["mrr"] == pytest.approx((1 + 0.5 + 0.25 + 1 / 11) / 4)  # however far down
    assert values["mrr@5"].tolist() == [1, 0.5, 0.25, 0]


def test_coverage():
    top = np.array([[1, 2], [1, 3], [4, 0]])
    assert coverage(top, 6, (1, 2)) == {"coverage@1": 2 / 5, "coverage@2": 4 / 5}


def test_marginal_relevance_by_hand():
    table = jnp.array([[0.0, 0.0], [2.0, 0.0], [3.0, 3.0], [0.0, 1.0]])
    values = marginal_relevance(jnp.array([[1.0, 0.0]]), table, jnp.array([[1, 2, 3]]), (1, 2, 3))
    half = np.sqrt(0.5)
    gains = [0.5, 0.5 * half - 0.5 * half, 0.0 - 0.5 * half]
    np.testing.assert_allclose(values[0], [gains[0], np.mean(gains[:2]), np.mean(gains)], atol=1e-6)
    spread = marginal_relevance(jnp.array([[1.0, 0.0]]), table, jnp.array([[1, 3]]), (2,), 0.9)
    assert spread[0, 0] == pytest.approx((0.9 + 0.0) / 2)
    table, top = table.at[0].set(9.0), jnp.array([[1, 2, 0], [0, 0, 0]])  # 0 is no item
    short = marginal_relevance(jnp.ones((2, 1)) * jnp.array([1.0, 0.0]), table, top, (1, 3))
    np.testing.assert_allclose(short, [[gains[0], np.mean(gains[:2])], [0, 0]], atol=1e-6)


NOTHING_SEEN = (jnp.zeros(0, jnp.int32), jnp.zeros(0, jnp.int32))


def test_given_scores_may_be_infinite_or_counts():
    scores = jnp.array([[0.0, jnp.inf, 1, 2], [0, -jnp.inf, 1, 2]])
    ranks, _ = rank_catalogue(scores, None, jnp.array([1, 1]), NOTHING_SEEN, 3)
    np.testing.assert_array_equal(ranks, [1, 3])
    ranks, top = rank_catalogue(jnp.array([[0, 3, 1, 2]]), None, jnp.array([2]), NOTHING_SEEN, 3)
    assert ranks[0] == 3 and top[0].tolist() == [1, 3, 2]


def test_a_target_that_is_no_item_ranks_last():
    scores = jnp.array([[0.0, 3, 1, 2]] * 2)
    ranks, _ = rank_catalogue(scores, None, jnp.array([0, 7]), NOTHING_SEEN, 3)
    np.testing.assert_array_equal(ranks, [3, 3])
