"""Cached calls of stacked layers: other devices than a CPU scan what a CPU takes layer by layer."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from recjax.models import chatglm, glm, llama
from recjax.nn import backend

SIZES = {"vocab_size": 50, "dim": 16, "layers": 3, "heads": 2, "head_dim": 8}
MODELS = {
    "llama": llama.Llama(llama.Config(**SIZES, mlp_dim=24, kv_heads=1), rngs=nnx.Rngs(0)),
    "glm": glm.GLM(glm.Config(**SIZES, mlp_dim=64, kv_heads=2), rngs=nnx.Rngs(0)),
    "chatglm": chatglm.ChatGLM(chatglm.Config(**SIZES, mlp_dim=64, kv_heads=2), rngs=nnx.Rngs(0)),
}


@pytest.mark.parametrize(
    ("name", "prefixed"), [("llama", False), ("llama", True), ("glm", False), ("chatglm", False)]
)
def test_a_scanned_prefill_is_that_of_each_layer(name, prefixed, monkeypatch):
    model = MODELS[name]
    tokens = np.random.default_rng(0).integers(1, 50, (3, 9))
    real = np.arange(9) >= np.array([[0], [2], [5]])
    scans, scan = [], jax.lax.scan
    monkeypatch.setattr(jax.lax, "scan", lambda *a, **k: scans.append(1) or scan(*a, **k))

    def call():
        cache = model.empty_cache(3, 12)
        if prefixed:
            prefix = model.hidden(tokens[:1, :4], cache=model.empty_cache(1, 4))[1].as_prefix()
            cache = prefix.start(3, 12)
        newest = np.full((3, 1), 8)
        h, cache = model.hidden(tokens, mask=real, cache=cache, places=newest)
        return h, *model.hidden(tokens[:, :1], cache=cache)

    # A new function a call: one is traced for a CPU, one for other devices.
    each = jax.jit(lambda: call())()
    assert not scans
    where, table = backend.platform, model.embedding[...]
    monkeypatch.setattr(backend, "platform", lambda *a: "gpu" if a and a[0] is table else where(*a))
    scanned = jax.jit(lambda: call())()
    assert len(scans) == 1 + prefixed
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), each, scanned)


@pytest.mark.parametrize("on", ["cpu", "gpu"])
def test_a_gradient_through_cached_calls_recomputes_layers(on, monkeypatch):
    """A policy's gradient: its memory follows `remat`, its values do not."""
    tokens = np.random.default_rng(1).integers(1, 50, (3, 9))
    where = backend.platform
    graph, params = nnx.split(MODELS["llama"])

    def gradient(remat):
        def loss(params):
            model = nnx.merge(graph, params)
            model.config = dataclasses.replace(model.config, remat=remat)
            table = model.embedding[...]
            monkeypatch.setattr(
                backend, "platform", lambda *a: on if a and a[0] is table else where(*a)
            )
            h, cache = model.hidden(tokens, cache=model.empty_cache(3, 12))
            return (h**2).sum() + (model.hidden(tokens[:, :2], cache=cache)[0] ** 3).sum()

        traced = jax.jit(jax.grad(loss)).trace(params)
        assert ("prevent_cse" in str(traced.jaxpr)) == (remat != "none")
        return traced.lower().compile()(params)

    expected = gradient("none")
    for remat in ("dots", "full"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-4),
            expected, gradient(remat),
        )  # fmt: skip
