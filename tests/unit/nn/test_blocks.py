import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from recjax.nn.attention import MultiHeadAttention
from recjax.nn.dropout import dropout
from recjax.nn.masks import make_mask
from recjax.nn.mlp import gated_silu, gelu
from recjax.nn.recurrent import GRU


def slopes(function, d_out, *given):
    """`(value, derivatives with respect to what is given)`, compiled."""

    @jax.jit
    def program(d_out, *given):
        out, back = jax.vjp(function, *given)
        return out, back(d_out)

    return program(d_out, *given)


def test_the_derivative_of_a_gate():
    gate, up, d_out = np.random.default_rng(0).standard_normal((3, 4, 9)).astype(np.float32) * 3
    expected, plain = slopes(lambda a, b: jax.nn.silu(a) * b, d_out, gate, up)
    out, by_hand = slopes(gated_silu, d_out, gate, up)
    np.testing.assert_array_equal(out, expected)
    for one, other in zip(by_hand, plain, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("approximate", [True, False])
def test_the_derivative_of_gelu(approximate):
    x, d_out = np.random.default_rng(0).standard_normal((2, 4, 9)).astype(np.float32) * 3
    expected, plain = slopes(lambda x: jax.nn.gelu(x, approximate=approximate), d_out, x)
    out, own = slopes(lambda x: gelu(x, approximate), d_out, x)
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_allclose(own[0], plain[0], atol=1e-6)
    kept = jax.eval_shape(lambda x: jax.vjp(lambda x: gelu(x, approximate), x)[1], x)
    assert [leaf.shape for leaf in jax.tree.leaves(kept)] == [x.shape]  # nothing but x


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_expectation(rate):
    x = np.ones((400, 400), np.float32)

    @jax.jit
    def dropped(x):
        rngs = nnx.Rngs(dropout=jax.random.key(0))
        return dropout(x, rate, deterministic=False, rngs=rngs)

    out = np.asarray(dropped(x))
    assert float((out == 0).mean()) == pytest.approx(rate, abs=0.01)
    assert float(out.mean()) == pytest.approx(1.0, abs=0.03)
    kept = np.unique(out[out > 0])
    assert len(kept) == 1 and kept[0] == pytest.approx(1 / (1 - rate), rel=0.02)


def test_dropout_off():
    x = jnp.arange(6.0)
    assert dropout(x, 0.5, deterministic=True, rngs=None) is x
    assert dropout(x, 0.0, deterministic=False, rngs=None) is x
    rngs = nnx.Rngs(dropout=0)
    most = dropout(jnp.ones(5000), 0.999, deterministic=False, rngs=rngs)  # one in 256 at least
    assert np.unique(most).tolist() == [0, 256]
    with pytest.raises(ValueError, match="dropout in training needs rngs"):
        dropout(x, 0.5, deterministic=False, rngs=None)


def test_attention_against_numpy():
    rng = np.random.default_rng(0)
    attention = MultiHeadAttention(
        6, 2, 0.0, kernel_init=nnx.initializers.normal(0.5), rngs=nnx.Rngs(0)
    )
    x = rng.standard_normal((1, 4, 6)).astype(np.float32)
    mask = np.tril(np.ones((1, 4, 4), bool))
    call = jax.jit(lambda x, mask: attention(x, x, mask, deterministic=True))
    out = np.asarray(call(x, mask))

    def linear(layer):
        return x[0] @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...])

    q, k, v = (linear(getattr(attention, n)) for n in ("query", "key", "value"))
    heads = []
    for head in (slice(0, 3), slice(3, 6)):
        logits = q[:, head] @ k[:, head].T / np.sqrt(3)
        weights = np.exp(np.where(mask[0], logits, -np.inf))
        heads.append(weights / weights.sum(-1, keepdims=True) @ v[:, head])
    expected = np.concatenate(heads, -1) @ np.asarray(attention.out.kernel[...])
    np.testing.assert_allclose(out[0], expected + np.asarray(attention.out.bias[...]), atol=1e-5)


def test_gru_restarts_with_every_segment():
    gru = GRU(5, 4, kernel_init=nnx.initializers.normal(0.5), rngs=nnx.Rngs(0))
    x = np.random.default_rng(0).standard_normal((1, 6, 5)).astype(np.float32)
    call = jax.jit(lambda *given: gru(*given))
    both = np.asarray(call(x, np.array([[0, 1, 1, 2, 2, 2]])))
    first = call(x[:, 1:3], np.ones((1, 2), np.int32))
    second = call(x[:, 3:], np.ones((1, 3), np.int32))
    np.testing.assert_allclose(both[:, 1:3], first, atol=1e-6)
    np.testing.assert_allclose(both[:, 3:], second, atol=1e-6)


def test_a_repeated_vector_is_that_many_rows_of_memory():
    attention = MultiHeadAttention(
        6, 2, 0.0, kernel_init=nnx.initializers.normal(0.5), rngs=nnx.Rngs(0)
    )
    call = jax.jit(functools.partial(attention, deterministic=True))
    x = np.random.default_rng(0).standard_normal((2, 4, 6)).astype(np.float32)
    vector, count = np.arange(6, dtype=np.float32), np.array([[3, 3, 3, 3], [0, 0, 1, 2]])
    mask = np.asarray(jax.jit(make_mask)(np.ones((2, 4), bool)))
    out = np.asarray(call(x, x, mask, repeated=(vector, count)))
    memory = np.concatenate([x, np.broadcast_to(vector, (2, 3, 6))], axis=1)
    mask = np.concatenate([mask, count[..., None] > np.arange(3)], axis=-1)
    np.testing.assert_allclose(out, call(x, memory, mask), atol=1e-5)
    assert np.abs(out[0] - np.asarray(call(x, x, mask[..., :4]))[0]).max() > 0.1


def test_a_softmax_of_half_precision_tells_large_scores_apart():
    """64 and 64.125 are one number in bfloat16."""
    eye = np.eye(2, dtype=np.float32)
    kernels = iter([eye, eye, np.array([[0, 0], [64, 0]], np.float32), eye])  # query, key, value

    def given(key, shape, dtype):
        return jnp.asarray(next(kernels), jnp.bfloat16)

    module = MultiHeadAttention(2, 1, 0.0, kernel_init=given, rngs=nnx.Rngs(0))
    graph, state = nnx.split(module)
    state = jax.tree.map(lambda a: a.astype(jnp.bfloat16), state)
    memory = jnp.array([[[8, 0], [8, 1 / 64]]], jnp.bfloat16)
    queries, mask = jnp.full((1, 1, 2), 8, jnp.bfloat16), np.ones((1, 1, 2), bool)

    @jax.jit
    def attended(state):
        return nnx.merge(graph, state)(queries, memory, mask, deterministic=True)

    wanted = 1 / (1 + np.exp(-0.125 / np.sqrt(2)))  # the second one's weight
    assert float(attended(state)[0, 0, 0]) == pytest.approx(wanted, abs=2e-3)
