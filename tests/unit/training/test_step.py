"""A batch in parts, and a loss in another type."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from recjax.training.state import TrainState
from recjax.training.step import make_steps

RNG = np.random.default_rng(0)
PARAMS = {"w": RNG.normal(size=(4, 3)).astype(np.float32), "kept": np.ones(3, np.float32)}
BATCH = {
    "x": RNG.normal(size=(2, 12, 4)).astype(np.float32),
    "weight": RNG.integers(0, 4, (2, 12)).astype(np.float32),  # rows count differently
}


def taken(**options):
    """(state after two steps, metrics, types that the loss saw)."""
    seen = []

    def loss(params, batch, data, key):
        seen.append((params["w"].dtype, data.dtype))
        out = jnp.tanh(batch["x"].astype(params["w"].dtype) @ params["w"]) * params["kept"] * data
        losses = (out**2).sum(-1).astype(jnp.float32) * batch["weight"]
        return losses.sum(), batch["weight"].sum()

    optimizer = optax.adam(0.1)
    params = jax.tree.map(jnp.asarray, PARAMS)
    state = TrainState(jnp.int32(0), params, optimizer.init({"w": params["w"]}))
    steps = make_steps(loss, optimizer, {"w"}, **options)
    state, metrics = steps(state, BATCH, jnp.float32(1.5), jax.random.key(0))
    return state, metrics, seen


@pytest.mark.parametrize("parts", [2, 3, 12])
def test_parts_of_a_batch_give_its_gradient(parts):
    whole, expected, _ = taken()
    found, metrics, _ = taken(parts=parts)
    np.testing.assert_allclose(found.params["w"], whole.params["w"], rtol=1e-5, atol=1e-6)
    for name in expected:
        np.testing.assert_allclose(metrics[name], expected[name], rtol=1e-5)
    with pytest.raises(ValueError, match="12 rows are no multiple of 5 parts"):
        taken(parts=5)


def test_a_step_in_bfloat16_has_float32_masters():
    whole, expected, _ = taken()
    found, metrics, seen = taken(dtype="bfloat16")
    assert {kind for pair in seen for kind in pair} == {jnp.dtype("bfloat16")}
    arrays = [a for a in jax.tree.leaves(found) if a.ndim]
    assert all(a.dtype == jnp.float32 for a in arrays)
    np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=2e-2)
    assert (np.asarray(metrics["loss"]) != np.asarray(expected["loss"])).any()
    np.testing.assert_allclose(found.params["w"], whole.params["w"], atol=2e-2)
