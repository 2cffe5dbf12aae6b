"""The full softmax against the plain formula, its chunks and its gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.training.cross_entropy import softmax_cross_entropy

RNG = np.random.default_rng(0)
T, I, D = 11, 17, 5  # noqa: E741 - the letters of design.md
H = RNG.standard_normal((T, D)).astype(np.float32)
TABLE = RNG.standard_normal((I, D)).astype(np.float32)
TARGETS = RNG.integers(1, I, T)
WEIGHTS = (RNG.random(T) < 0.7).astype(np.float32)


def called(function, *arrays, **static):
    """`function(*arrays, **static)`, compiled."""
    return jax.jit(functools.partial(function, **static))(*arrays)


@pytest.mark.parametrize("chunk", [None, 1, 3, 11, 64])
def test_softmax(chunk):
    logits = H @ TABLE.T
    logits[:, 0] = -np.inf
    losses = np.log(np.exp(logits).sum(-1)) - logits[np.arange(T), TARGETS]
    found = called(softmax_cross_entropy, H, TABLE, TARGETS, WEIGHTS, chunk=chunk)
    np.testing.assert_allclose(found, (np.sum(losses * WEIGHTS), WEIGHTS.sum()), rtol=2e-5)


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


def plain(h, table, weights, seen, bias, padded):
    logits = jnp.asarray(h @ table.T)
    for place, ids in enumerate(seen):
        for one in {*ids.tolist()} - {0}:
            logits = logits.at[place, one].add(bias)
    logits = logits.at[:, 0].set(-jnp.inf) if padded else logits
    chosen = jax.nn.log_softmax(logits)[jnp.arange(T), TARGETS]
    return -(jnp.where(weights != 0, chosen, 0.0) * weights).sum()


@pytest.mark.parametrize("padded", [True, False])
def test_the_bias_of_seen_items_alone(padded):
    """Its gradient does not hang on those of the vectors, and a filler is no row 0."""
    seen = np.array([[t % 5 + 1, 0, 0] for t in range(T)])

    def ours(bias):
        given = {"padded": padded, "seen": (jnp.array(seen), bias)}
        return softmax_cross_entropy(H, TABLE, TARGETS, WEIGHTS, 4, **given)[0]

    found = jax.value_and_grad(ours)(np.float32(0.7))
    wanted = jax.value_and_grad(lambda b: plain(H, TABLE, WEIGHTS, seen, b, padded))(0.7)
    np.testing.assert_allclose(found, wanted, rtol=2e-5)


@pytest.mark.parametrize("budget", [None, T])
def test_weights_may_be_negative(budget):
    weights, none = np.where(np.arange(T) % 3 == 0, -0.5, WEIGHTS), np.zeros((T, 1), int)
    found = jax.value_and_grad(
        lambda h: softmax_cross_entropy(h, TABLE, TARGETS, weights, 4, budget=budget)[0]
    )(H)
    wanted = jax.value_and_grad(lambda h: plain(h, TABLE, weights, none, 0.0, True))(H)
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-5)
    np.testing.assert_allclose(found[1], wanted[1], atol=2e-5)


def test_no_position_has_an_empty_gradient():
    grad = jax.grad(lambda h: softmax_cross_entropy(h, TABLE, TARGETS[:0], WEIGHTS[:0])[0])
    assert grad(H[:0]).shape == (0, D)


def test_weights_of_64_bits():
    with jax.enable_x64(True):
        weights = jnp.asarray(WEIGHTS, jnp.float64)
        loss, _ = softmax_cross_entropy(H, TABLE, TARGETS, weights, 4)
    np.testing.assert_allclose(loss, called(softmax_cross_entropy, H, TABLE, TARGETS, WEIGHTS)[0])
