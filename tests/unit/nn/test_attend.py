"""`attend` against the plain formula: values, gradients, masks, grouped heads, prefix, types."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from recjax.nn import attention, backend
from recjax.nn.backend import attention_backend
from recjax.nn.masks import make_mask

attend = jax.jit(attention.attend, static_argnames=("causal", "backend"))
RNG = np.random.default_rng(0)
B, N, T, M, H, P = 2, 4, 5, 5, 6, 3


def arrays(kv_heads):
    shapes = (B, N, T, H), (B, kv_heads, M, H), (B, kv_heads, M, H)
    rng = np.random.default_rng(kv_heads)  # its own: the order of the tests is not fixed
    return [np.asarray(3 * rng.standard_normal(s), np.float32) for s in shapes]


@functools.partial(jax.jit, static_argnames="width")
def plain(q, k, v, mask, width=H):
    k, v = (jnp.repeat(x, q.shape[1] // x.shape[1], axis=1) for x in (k, v))
    logits = jnp.einsum("BNTH,BNMH->BNTM", q, k) / np.sqrt(width)
    if mask is not None:
        logits = jnp.where(mask[:, None], logits, -1e9)
    return jnp.einsum("BNTM,BNMH->BNTH", jax.nn.softmax(logits), v)


MASK = RNG.random((B, T, M)) < 0.6
MASK[:, :, 0] = True


def after(prefix, own):
    """Keys or values that begin with a prefix of all rows, [N P H]."""
    return np.concatenate([np.tile(prefix, (len(own), 1, 1, 1)), own], axis=2)


def seen(mask):
    """All of a prefix is seen, and of the rest what `mask` says."""
    return np.concatenate([np.ones((*mask.shape[:2], P), bool), mask], axis=-1)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("mask", [None, MASK])
def test_value_and_gradients(kv_heads, mask):
    weights = np.asarray(np.random.default_rng(9).standard_normal((B, N, T, H)), np.float32)

    def both(function):
        def loss(q, k, v):
            out = function(q, k, v, mask)
            return (out * weights).sum(), out

        (_, out), grads = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(*arrays_)
        return out, *grads

    arrays_ = arrays(kv_heads)
    for got, expected in zip(both(attention.attend), both(plain), strict=True):
        np.testing.assert_allclose(got, expected, atol=3e-5)


@pytest.mark.parametrize("mask", [None, MASK])
def test_causal(mask):
    q, k, v = arrays(2)
    triangle = np.tril(np.ones((1, T, T), bool))
    both = np.broadcast_to(triangle, (B, T, T)) if mask is None else mask & triangle
    np.testing.assert_allclose(attend(q, k, v, mask, causal=True), plain(q, k, v, both), atol=1e-5)


@pytest.mark.parametrize("version", [(0, 10, 2), (0, 12, 0)])
@pytest.mark.parametrize("kv_heads", [2, N])
def test_one_query(kv_heads, version, monkeypatch):
    """As in decoding, where each query head may have keys of its own: on a CPU a sum in newer jax,
    a product in older."""
    monkeypatch.setattr(jax, "__version_info__", version)
    q, k, v = arrays(kv_heads)
    q, mask = q[:, :, :1], MASK[:, :1]
    program = jax.jit(lambda *a: attention.attend(*a)).trace(q, k, v, mask)
    assert ("optimization_barrier" in str(program.jaxpr)) == (version >= (0, 12) and kv_heads == N)
    got = program.lower().compile()(q, k, v, mask)
    np.testing.assert_allclose(got, plain(q, k, v, mask), atol=1e-5)


@pytest.mark.parametrize("kv_heads", [2, N])
@pytest.mark.parametrize("queries", [1, T])
def test_a_prefix_is_more_keys(queries, kv_heads):
    q, k, v = arrays(kv_heads)
    q, some = q[:, :, :queries], MASK[:, :queries]
    before = [np.asarray(RNG.standard_normal((kv_heads, P, H)), np.float32) for _ in range(2)]
    got = attend(q, k, v, some, prefix=tuple(before))
    k, v = (after(a, b) for a, b in zip(before, (k, v), strict=True))
    np.testing.assert_allclose(got, plain(q, k, v, seen(some)), atol=1e-5)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("kv_heads", [2, N])
@pytest.mark.parametrize("queries", [1, T])
def test_a_prefix_of_each_group_of_rows(queries, kv_heads, backend):
    """Three rows for each of two groups; slots of padding in their prefixes."""
    rng, rows, groups = np.random.default_rng(queries), 6, 2
    q, k, v, *before = (
        np.asarray(rng.standard_normal(shape), np.float32)
        for shape in (
            (rows, N, queries, H),
            *[(rows, kv_heads, M, H)] * 2,
            *[(groups, kv_heads, P, H)] * 2,
        )
    )
    valid = np.array([[True] * P, [False, True, True]])
    some = np.tile(MASK[:, :queries], (3, 1, 1))
    got = attend(q, k, v, some, prefix=(*before, valid), backend=backend)
    k, v = (
        np.concatenate([np.repeat(a, 3, axis=0), b], axis=2)
        for a, b in zip(before, (k, v), strict=True)
    )
    first = np.broadcast_to(np.repeat(valid, 3, axis=0)[:, None], (rows, queries, P))
    mask = np.concatenate([first, some], axis=-1)
    np.testing.assert_allclose(got, plain(q, k, v, mask), atol=1e-5)


def test_what_is_masked_may_be_huge():
    """A masked logit far above all others neither shows nor drowns them."""
    q, k, v = arrays(4)
    mask, huge = MASK.copy(), k.copy()
    mask[:, :, 2] = False
    huge[:, :, 2] *= 1e4
    expected = attend(q, k, v, mask)
    np.testing.assert_allclose(attend(q, huge, v, mask), expected, atol=1e-6)


def test_a_query_that_may_attend_to_nothing_gets_the_mean():
    q, k, v = arrays(4)
    mask = MASK.copy()
    mask[0, 3] = False
    got = np.asarray(attend(q, k, v, mask))
    np.testing.assert_allclose(got[0, :, 3], v[0].mean(axis=1), atol=1e-5)


def test_half_precision_has_its_softmax_in_float32():
    """Logits of several hundred, which bfloat16 would round by more than 1."""
    rng = np.random.default_rng(1)
    shape = (1, 2, 32, 16)
    q, k, v = (np.asarray(3 * rng.standard_normal(shape), jnp.bfloat16) for _ in range(3))
    q = (10 * q).astype(jnp.bfloat16)
    got = attend(q, k, v, None)
    assert got.dtype == jnp.bfloat16
    wide = plain(*(x.astype(np.float32) for x in (q, k, v)), None, 16)
    np.testing.assert_allclose(np.asarray(got, np.float32), wide, atol=0.05)


@pytest.mark.parametrize("name", ["cpu", "reference"])
@pytest.mark.parametrize("options", ["", "mask", "causal", "prefix", "one query"])
def test_backends_agree(name, options):
    """Values and gradients, in all uses."""
    q, k, v = arrays(2)
    given = {"mask": None, "backend": name}
    mask = None
    if options == "mask":
        given["mask"] = mask = MASK
    elif options == "causal":
        given["causal"], mask = True, np.tril(np.ones((B, T, T), bool))
    elif options:
        q, mask = (q, MASK) if options == "prefix" else (q[:, :, :1], MASK[:, :1])
        given["mask"] = mask
        given["prefix"] = k[0, :, :P], v[0, :, :P]

    def expected(q, k, v):
        if "prefix" not in given:
            return plain(q, k, v, mask)
        k, v = (
            jnp.concatenate([jnp.tile(a, (B, 1, 1, 1)), b], axis=2)
            for a, b in zip(given["prefix"], (k, v), strict=True)
        )
        return plain(q, k, v, seen(mask))

    def both(function):
        slopes = np.cos(np.arange(q.size, dtype=np.float32)).reshape(q.shape)

        @jax.jit
        def program(q, k, v):
            out, vjp = jax.vjp(function, q, k, v)
            return out, *vjp(slopes)

        return program(q, k, v)

    ours = both(lambda *a: attention.attend(*a, **given))
    for got, wanted in zip(ours, both(expected), strict=True):
        np.testing.assert_allclose(got, wanted, atol=3e-5)


@pytest.mark.parametrize("options", [{"causal": True}, {"mask": True}])
def test_the_tpu_kernel(options):
    """In Pallas' interpreter: values and gradients, with grouped heads."""
    rng = np.random.default_rng(3)
    shapes = (1, 2, 128, 8), (1, 1, 128, 8), (1, 1, 128, 8)
    x = [np.asarray(rng.standard_normal(s), np.float32) for s in shapes]
    given = {"mask": None} | options
    if given["mask"]:
        given["mask"] = make_mask(jnp.arange(128)[None] >= 40)

    def both(name):
        def loss(*x):
            out = attention.attend(*x, backend=name, **given)
            return (out**2).sum(), out

        (_, out), slopes = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(*x)
        return out, *slopes

    with pltpu.force_tpu_interpret_mode():
        got = both("tpu")
    for one, other in zip(got, both("reference"), strict=True):
        np.testing.assert_allclose(one, other, atol=3e-5)


def test_the_backend_is_what_suits_arrays_and_device(monkeypatch):
    half = jnp.zeros((1, 2, 128, 64), jnp.bfloat16)
    assert attention_backend(half, half) == "cpu"
    assert jax.eval_shape(lambda q: [attention_backend(q, q)] and q, half).shape == half.shape
    monkeypatch.setattr(backend, "platform", lambda *_: "gpu")
    assert attention_backend(half, half) == "cudnn"
    assert attention_backend(half, half, (half, half)) == "reference"
    assert attention_backend(half.astype(jnp.float32), half) == "reference"
    assert attention_backend(half[:, :, :1], half) == "reference"
    assert attention_backend(half[..., :60], half) == "reference"
    monkeypatch.setattr(backend, "platform", lambda *_: "tpu")
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert attention_backend(half, half) == "tpu"
    assert attention_backend(half[:, :, :1], half) == "reference"
    monkeypatch.setattr(jax, "device_count", lambda: 4)
    assert attention_backend(half, half) == "reference"


def test_where_arrays_lie_is_asked_first(monkeypatch):
    """Then the default device, by whichever of its names."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert backend.platform() == "gpu"
    assert backend.platform(jnp.zeros(2)) == "cpu"
    seen = []
    jax.eval_shape(lambda x: seen.append(backend.platform(x)), jnp.zeros(2))
    for device in ("cpu", jax.devices("cpu")[0]):
        with jax.default_device(device):
            seen.append(backend.platform())
    assert seen == ["gpu", "cpu", "cpu"]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_the_call_of_cudnn(monkeypatch, causal, masked):
    """It has the right shapes (it cannot run here), and no triangle where cuDNN knows it."""
    calls = []

    def recorded(q, k, v, *, mask, is_causal, implementation):
        assert implementation == "cudnn"
        calls.append((q.shape, k.shape, is_causal, None if mask is None else mask.shape))
        return q

    monkeypatch.setattr(backend, "platform", lambda *_: "gpu")
    monkeypatch.setattr(jax.nn, "dot_product_attention", recorded)
    q, k = jnp.zeros((2, 4, 6, 8), jnp.bfloat16), jnp.zeros((2, 2, 6, 8), jnp.bfloat16)
    mask = jnp.ones((2, 6, 6), bool) if masked else None
    assert attention.attend(q, k, k, mask, causal=causal).shape == q.shape
    shape = (2, 1, 6, 6) if masked else None
    assert calls == [((2, 6, 4, 8), (2, 6, 2, 8), causal and not masked, shape)]
