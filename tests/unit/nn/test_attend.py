"""`attend` against the plain formula: values, gradients, masks, grouped heads, prefix, types."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.nn.attention import _flash, attend

RNG = np.random.default_rng(0)
B, N, T, M, H, P = 2, 4, 5, 5, 6, 3


def arrays(kv_heads):
    shapes = (B, N, T, H), (B, kv_heads, M, H), (B, kv_heads, M, H)
    rng = np.random.default_rng(kv_heads)  # its own: the order of the tests is not fixed
    return [jnp.array(3 * rng.standard_normal(s), jnp.float32) for s in shapes]


def plain(q, k, v, mask, width=H):
    k, v = (jnp.repeat(x, q.shape[1] // x.shape[1], axis=1) for x in (k, v))
    logits = jnp.einsum("BNTH,BNMH->BNTM", q, k) / np.sqrt(width)
    if mask is not None:
        logits = jnp.where(mask[:, None], logits, -1e9)
    return jnp.einsum("BNTM,BNMH->BNTH", jax.nn.softmax(logits), v)


MASK = jnp.array(RNG.random((B, T, M)) < 0.6).at[:, :, 0].set(True)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("mask", [None, MASK])
def test_value_and_gradients(kv_heads, mask):
    weights = jnp.array(np.random.default_rng(9).standard_normal((B, N, T, H)), jnp.float32)

    def both(function):
        def loss(q, k, v):
            out = function(q, k, v, mask)
            return (out * weights).sum(), out

        (_, out), grads = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(*arrays_)
        return out, *grads

    arrays_ = arrays(kv_heads)
    for got, expected in zip(both(attend), both(plain), strict=True):
        np.testing.assert_allclose(got, expected, atol=3e-5)


@pytest.mark.parametrize("mask", [None, MASK])
def test_causal(mask):
    q, k, v = arrays(2)
    triangle = jnp.tril(jnp.ones((T, T), bool))[None]
    both = jnp.broadcast_to(triangle, (B, T, T)) if mask is None else mask & triangle
    np.testing.assert_allclose(attend(q, k, v, mask, causal=True), plain(q, k, v, both), atol=1e-5)


@pytest.mark.parametrize("version", [(0, 10, 2), (0, 12, 0)])
@pytest.mark.parametrize("kv_heads", [2, N])
def test_one_query(kv_heads, version, monkeypatch):
    """As in decoding, where each query head may have keys of its own: on a CPU a sum in newer jax,
    a product in older."""
    monkeypatch.setattr(jax, "__version_info__", version)
    q, k, v = arrays(kv_heads)
    q, mask = q[:, :, :1], MASK[:, :1]
    is_sum = "optimization_barrier" in str(jax.make_jaxpr(lambda *a: attend(*a))(q, k, v, mask))
    assert is_sum == (version >= (0, 12) and kv_heads == N)
    np.testing.assert_allclose(attend(q, k, v, mask), plain(q, k, v, mask), atol=1e-5)


@pytest.mark.parametrize("kv_heads", [2, N])
@pytest.mark.parametrize("queries", [1, T])
def test_a_prefix_is_more_keys(queries, kv_heads):
    q, k, v = arrays(kv_heads)
    q, some = q[:, :, :queries], MASK[:, :queries]
    before = [jnp.array(RNG.standard_normal((kv_heads, P, H)), jnp.float32) for _ in range(2)]
    got = attend(q, k, v, some, prefix=tuple(before))
    k, v = (
        jnp.concatenate([jnp.tile(a[None], (B, 1, 1, 1)), b], axis=2)
        for a, b in zip(before, (k, v), strict=True)
    )
    mask = jnp.concatenate([jnp.ones((B, queries, P), bool), some], axis=-1)
    np.testing.assert_allclose(got, plain(q, k, v, mask), atol=1e-5)


def test_what_is_masked_may_be_huge():
    """A masked logit far above all others neither shows nor drowns them."""
    q, k, v = arrays(4)
    mask = MASK.at[:, :, 2].set(False)
    expected = attend(q, k, v, mask)
    np.testing.assert_allclose(attend(q, k.at[:, :, 2].multiply(1e4), v, mask), expected, atol=1e-6)


def test_a_query_that_may_attend_to_nothing_gets_the_mean():
    q, k, v = arrays(4)
    got = attend(q, k, v, MASK.at[0, 3].set(False))
    np.testing.assert_allclose(got[0, :, 3], v[0].mean(axis=1), atol=1e-5)


def test_half_precision_has_its_softmax_in_float32():
    """Logits of several hundred, which bfloat16 would round by more than 1."""
    rng = np.random.default_rng(1)
    shape = (1, 2, 32, 16)
    q, k, v = (jnp.array(3 * rng.standard_normal(shape), jnp.bfloat16) for _ in range(3))
    got = attend(10 * q, k, v, None)
    assert got.dtype == jnp.bfloat16
    wide = plain(*(x.astype(jnp.float32) for x in (10 * q, k, v)), None, 16)
    np.testing.assert_allclose(np.asarray(got, np.float32), wide, atol=0.05)


def test_flash_is_for_gpus_and_what_cudnn_takes(monkeypatch):
    half = jnp.zeros((1, 2, 4, 64), jnp.bfloat16)
    assert not _flash(half, half)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert _flash(half, half)
    assert not _flash(half.astype(jnp.float32), half)
    assert not _flash(half[:, :, :1], half)
    assert not _flash(half[..., :60], half)


def test_fast_path_traces_for_cudnn(monkeypatch):
    """The call that a GPU would make has the right shapes (it cannot run here)."""
    calls = []

    def recorded(q, k, v, **options):
        calls.append((q.shape, k.shape, options["mask"].shape, options["implementation"]))
        return q

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax.nn, "dot_product_attention", recorded)
    q, k = jnp.zeros((2, 4, 6, 8), jnp.bfloat16), jnp.zeros((2, 2, 6, 8), jnp.bfloat16)
    assert attend(q, k, k, jnp.ones((2, 6, 6), bool)).shape == q.shape
    assert calls == [((2, 6, 4, 8), (2, 6, 2, 8), (2, 1, 6, 6), "cudnn")]
