"""A batch in parts, a loss in another type, and several updates of what a step draws."""

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
        # Two means: over what rows weigh, and over the rows.
        rows = jnp.float32(len(out))
        return jnp.stack([losses.sum(), out.sum()]), jnp.stack([batch["weight"].sum(), rows])

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


@pytest.mark.parametrize("parts", [1, 3])
def test_several_updates_learn_from_one_set_of_draws(parts):
    optimizer, count = optax.adam(0.1), []

    def drawn(params, batch, data, key):
        count.append(1)
        noise = jax.random.normal(key, (len(batch["x"]), 3))
        return {**batch, "wanted": batch["x"] @ params["w"] + noise}

    def loss(params, batch, data, key):
        losses = (((batch["x"] @ params["w"] - batch["wanted"]) * data) ** 2).sum(-1)
        return (losses * batch["weight"]).sum(), batch["weight"].sum()

    def start():
        params = jax.tree.map(jnp.asarray, PARAMS)
        return TrainState(jnp.int32(0), params, optimizer.init({"w": params["w"]}))

    key, one = jax.random.key(3), {name: a[:1] for name, a in BATCH.items()}
    several = make_steps(loss, optimizer, {"w"}, parts=parts, drawn=drawn, updates=3)
    found, metrics = several(start(), one, jnp.float32(1.5), key)
    assert int(found.step) == 1 and len(count) == 1

    state, own = start(), jax.random.fold_in(key, 0)
    whole = {name: a[0] for name, a in BATCH.items()}
    if parts == 1:
        batch = drawn(state.params, whole, None, own)
    else:  # every part's draws have a key of their own
        batch = {name: np.zeros((12, *a.shape[1:]), np.float32) for name, a in whole.items()}
        batch["wanted"] = np.zeros((12, 3), np.float32)
        for part in range(parts):
            rows = {name: a[part::parts] for name, a in whole.items()}
            for name, a in drawn(state.params, rows, None, jax.random.fold_in(own, part)).items():
                batch[name][part::parts] = a
    batch = {name: a[None] for name, a in batch.items()}
    losses, steps = [], make_steps(loss, optimizer, {"w"})
    for _ in range(3):
        state, each = steps(state, batch, jnp.float32(1.5), key)
        losses.append(float(each["loss"][0]))
    np.testing.assert_allclose(found.params["w"], state.params["w"], rtol=1e-4, atol=1e-5)
    assert float(metrics["loss"][0]) == pytest.approx(np.mean(losses), rel=1e-4)


def test_every_step_and_part_draws_its_own():
    """Step s has the key `fold_in(key, s)`, whatever ran before it: a resumed run draws the same.
    Of parts each has a key of its own, and the weights of what it draws."""

    def loss(params, batch, data, key):
        noise, weight = jax.random.uniform(key, (2,))
        return weight * noise * params["w"] * len(batch), weight * len(batch)

    def expected(key, step):
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, step), np.arange(3))
        noise, weights = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(keys).T
        return (noise * weights).sum() / weights.sum()

    optimizer, key = optax.set_to_zero(), jax.random.key(5)
    params = {"w": jnp.float32(1.0)}
    state = TrainState(jnp.int32(7), params, optimizer.init(params))
    _, metrics = make_steps(loss, optimizer, parts=3)(state, np.zeros((2, 6)), None, key)
    wanted = jax.jit(jax.vmap(expected, (None, 0)))(key, np.arange(7, 9))
    np.testing.assert_allclose(metrics["loss"], wanted, rtol=1e-5)
