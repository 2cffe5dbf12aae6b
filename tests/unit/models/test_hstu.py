"""HSTU beside the formulas of its authors' code; the rest stands in `test_contract.py`."""

import jax
import numpy as np

from recjax.models.definition import define
from recjax.models.recommender import make_recommender

SECTION = {
    "name": "hstu", "dim": 4, "heads": 2, "layers": 1, "max_length": 3, "cosine": True,
    "scale_embedding": True,
}  # fmt: skip


def _silu(x):
    return x / (1 + np.exp(-x))


def _normed(x):
    x = x - x.mean(axis=-1, keepdims=True)
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6)


def test_states_are_those_of_the_authors_code():
    definition = define(lambda rngs: make_recommender(SECTION, 9, rngs))
    rng = np.random.default_rng(0)
    params = {k: rng.normal(size=a.shape).astype(a.dtype) for k, a in definition.shapes.items()}
    ids = np.array([[3, 8, 5]], np.int32)
    h = jax.jit(lambda params, ids: definition.merge(params).encode(ids))(params, ids)

    x = params["items/embedding"][ids[0]] * 2 + params["positions/embedding"]  # sqrt(D) is 2
    made = {
        name: _silu(_normed(x) @ params[f"blocks/0/{name}/kernel"])
        for name in ("gate", "value", "query", "key")
    }
    q, k, v = (made[name].reshape(3, 2, 2) for name in ("query", "key", "value"))
    places = np.arange(3)
    bias = params["blocks/0/bias/table"][np.maximum(places[:, None] - places, 0)]
    weights = _silu(np.einsum("LNH,MNH->LMN", q, k) + bias) / 3
    weights *= (places[:, None] >= places)[..., None]
    mixed = np.einsum("LMN,MNH->LNH", weights, v).reshape(3, 4)
    out = (made["gate"] * _normed(mixed)) @ params["blocks/0/out/kernel"]
    out = x + out + params["blocks/0/out/bias"]
    expected = out / np.linalg.norm(out, axis=-1, keepdims=True)
    np.testing.assert_allclose(h[0], expected, atol=1e-5)
    assert not any("norm" in path for path in params)
