"""DreamRec: guidance, null condition, ranking by distance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from recjax.errors import InputError
from recjax.models.definition import define
from recjax.models.recommender import make_recommender, read_config
from recjax.nn import diffusion
from recjax.testing import contracts

SECTION = {"name": "dreamrec", "max_length": 6, "dim": 8, "steps": 30, "denoiser_dim": 16,
           "schedule": "cosine"}  # fmt: skip
IDS = np.array([[0, 0, 3, 5, 7, 2], [1, 4, 9, 9, 2, 6]])


def test_sampler_is_the_papers_formula():
    """Algorithm 2 step by step, with the denoiser called whole and guidance as in section 3.3.2."""
    model = contracts.build({**SECTION, "guidance": 1.5})
    h = np.asarray(jax.jit(model.encode)(IDS))[:, -1]
    start, way = jax.random.split(jax.random.key(5))
    x = np.asarray(jax.random.normal(start, h.shape))
    left = np.asarray(diffusion.schedule("cosine", 30))
    null = np.broadcast_to(model.null[...], h.shape)
    denoise = jax.jit(lambda x, h, t: model.denoiser(x, h, jnp.full(2, t), 30))
    noise = jax.jit(lambda t: jax.random.normal(jax.random.fold_in(way, t), h.shape))
    for t in range(29, -1, -1):
        before = left[t - 1] if t else 1.0
        beta = 1 - left[t] / before
        guess = 2.5 * np.asarray(denoise(x, h, t)) - 1.5 * np.asarray(denoise(x, null, t))
        mean = np.sqrt(before) * beta / (1 - left[t]) * guess
        mean += np.sqrt(1 - beta) * (1 - before) / (1 - left[t]) * x
        spread = np.sqrt(beta * (1 - before) / (1 - left[t]))
        x = (mean + spread * np.asarray(noise(t))).astype(np.float32)
    found = jax.jit(model.generate)(h, jax.random.key(5))
    np.testing.assert_allclose(found, x, rtol=2e-3, atol=2e-3 * np.abs(x).max())


def test_oracle_items_depend_on_the_history_and_the_key():
    model = contracts.build(SECTION)
    oracle = jax.jit(model.oracle)
    one = np.asarray(oracle(IDS, jax.random.key(0)))
    assert one.shape == (2, 8)
    np.testing.assert_array_equal(one, oracle(IDS, jax.random.key(0)))
    assert np.abs(one - oracle(IDS, jax.random.key(1))).max() > 1e-3
    other = IDS.copy()
    other[0, 5] = 8
    changed = oracle(other, jax.random.key(0))
    assert np.abs(one - changed)[0].max() > 1e-3
    np.testing.assert_array_equal(one[1], changed[1])


def test_every_history_has_noise_of_its_own():
    model = nnx.clone(contracts.build(SECTION))
    model.generate = lambda guidance, key: jax.random.key_data(key)
    one, other, again = np.asarray(jax.jit(model.predict)(IDS[[0, 1, 0]]))
    assert (one == again).all() and (one != other).any()


def test_scores_rank_by_distance():
    model = contracts.build(SECTION)
    np.testing.assert_allclose((model.item_table() ** 2).sum(-1), 8.0, rtol=1e-5)
    x = jax.random.normal(jax.random.key(1), (3, 8))
    table = np.asarray(model.item_table())
    distance = ((np.asarray(x)[:, None] - table) ** 2).sum(-1)
    np.testing.assert_array_equal(np.argsort(-model.score(x)), np.argsort(distance))


def test_guidance_is_dropped_at_random():
    """With dropout off, the guess depends on the history except where the null took its place."""
    model = contracts.build({**SECTION, "max_length": 300, "null_share": 0.3, "dropout": 0.0})
    rng = np.random.default_rng(0)
    ids = rng.integers(1, contracts.N_ITEMS, (8, 300))
    batch = {
        "ids": ids,
        "targets": rng.integers(1, contracts.N_ITEMS, (8, 300)),
        "positions": np.broadcast_to(np.arange(300), ids.shape),
        "segments": np.ones_like(ids),
        "sequences": np.zeros_like(ids),
    }

    @jax.jit
    def learn(batch):
        vectors, targets, _, states, _ = model.learn(batch, nnx.Rngs(noise=0, dropout=0))
        return vectors, targets, states, model.encode(batch["ids"])

    vectors, targets, states, h = learn(batch)
    np.testing.assert_allclose(states, h.reshape(-1, 8) / np.sqrt(8), rtol=1e-4, atol=1e-5)
    other = learn({**batch, "ids": ids % 22 + 1})[0]
    same = (np.abs(vectors - other).max(-1) == 0).mean()
    assert same == pytest.approx(0.3, abs=0.03)
    np.testing.assert_array_equal(targets, batch["targets"].reshape(-1))


def test_learns_the_one_successor():
    """Items in a circle: after training the oracle item's nearest is the next one."""
    section = {"name": "dreamrec", "max_length": 4, "dim": 16, "steps": 50, "denoiser_dim": 32,
               "schedule": "cosine", "dropout": 0.0, "guidance": 1.0}  # fmt: skip
    import optax

    from recjax.training.losses import squared_error

    definition = define(lambda rngs: make_recommender(section, 9, rngs))
    model = make_recommender(section, 9, nnx.Rngs(params=0))
    flat = nnx.to_flat_state(nnx.state(model))
    params = {"/".join(map(str, path)): leaf[...] for path, leaf in flat}
    ids = (np.arange(64)[:, None] + np.arange(4)) % 8 + 1
    batch = {
        "ids": ids,
        "targets": ids % 8 + 1,
        "positions": np.broadcast_to(np.arange(4), ids.shape),
        "segments": np.ones_like(ids),
        "sequences": np.zeros_like(ids),
    }
    optimizer = optax.adam(5e-3)

    def loss(params, key):
        module = definition.merge(params)
        vectors, targets, *_ = module.learn(batch, nnx.Rngs(key))
        total, weight = squared_error(vectors, module.item_table(), targets, (targets > 0) * 1.0)
        return total / weight

    def step(carry, key):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params, key)
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), value

    keys = jax.random.split(jax.random.key(0), 300)
    (params, _), losses = jax.jit(lambda c: jax.lax.scan(step, c, keys))(
        (params, optimizer.init(params))
    )
    assert losses[-1] < 0.3 * losses[0]
    module = definition.merge(params)
    scores = jax.jit(lambda ids: module.score(module.oracle(ids, jax.random.key(9))))(ids[:8])
    np.testing.assert_array_equal(np.argmax(scores[:, 1:], -1) + 1, ids[:8, -1] % 8 + 1)


def test_settings_are_checked():
    for values, message in (
        ({"dim": 7}, "is odd"),
        ({"steps": 10, "sampler_steps": 11}, "expected 0 to 10"),
        ({"null_share": 1.0}, "null_share: expected at least 0 and less than 1"),
        ({"steps": 50}, "'linear' leaves 60% of the signal after 50 steps"),
        ({"schedule": "exp", "beta_max": 0.15}, "'exp' leaves 88"),
        ({"beta_min": 0.5, "beta_max": 0.1}, "beta_max: 0.1; expected at least beta_min 0.5"),
        ({"steps": 5, "beta_min": 0.1, "beta_max": 1.5}, "beta_max: 1.5; expected less than 1"),
        ({"schedule": "cosine", "beta_max": 0.5}, "beta_max: 'cosine' has none; expected None"),
    ):
        with pytest.raises(InputError, match=message):
            read_config({"name": "dreamrec", **values})
