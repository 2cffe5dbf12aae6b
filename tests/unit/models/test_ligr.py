"""LiGR beside its formula in numpy; the rest stands in `test_contract.py`."""

import jax
import numpy as np

from recjax.testing import contracts

SECTION = {
    "name": "ligr", "max_length": 4, "dim": 4, "mlp_dim": 6, "heads": 2, "layers": 1,
    "relative": True,
}  # fmt: skip


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_residuals_go_through_gates_of_what_they_are_added_to():
    model, ids = contracts.build(SECTION), np.array([3, 9, 1, 22])
    found = jax.jit(model.encode)(ids[None])[0]

    def linear(layer, x):
        bias = 0.0 if layer.bias is None else np.asarray(layer.bias[...])
        return x @ np.asarray(layer.kernel[...]) + bias

    def norm(layer, x):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * np.asarray(layer.scale[...]) + np.asarray(layer.bias[...])

    (block,), table = model.blocks, np.asarray(model.items.embedding[...])
    x = table[ids] + np.asarray(model.positions.embedding[...])
    normed, at = norm(block.attention_norm, x), block.attention
    q, k, v = (linear(part, normed).reshape(4, 2, 2) for part in (at.query, at.key, at.value))
    places = np.arange(4)
    distance = np.maximum(places[:, None] - places, 0)
    logits = (
        np.einsum("LNH,MNH->LMN", q, k) / np.sqrt(2) + np.asarray(block.bias.table[...])[distance]
    )
    weights = np.where((places[:, None] >= places)[..., None], np.exp(logits), 0)
    mixed = np.einsum("LMN,MNH->LNH", weights / weights.sum(1, keepdims=True), v).reshape(4, 4)
    x = x + _sigmoid(linear(block.attention_gate, x)) * linear(at.out, mixed)
    normed = norm(block.mlp_norm, x)
    gate = linear(block.gate_up, normed)
    added = linear(block.down, gate * _sigmoid(gate) * linear(block.up, normed))
    x = x + _sigmoid(linear(block.mlp_gate, x)) * added
    np.testing.assert_allclose(found, norm(model.norm, x), atol=2e-5)
