"""A language model on eight devices says what it says on one: forward pass, generation, LoRA."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from recjax.llm import LanguageModel
from recjax.models.definition import define, params_of
from recjax.models.llama import PARAM_AXES, Config, Llama
from recjax.nn.lora import LoRAConfig, add_lora, is_lora
from recjax.training.optim import OptimConfig, make_optimizer
from recjax.training.parallel import make_mesh, param_shardings, shard_batch
from recjax.training.state import init_params, state_of

CONFIG = Config(
    vocab_size=32, dim=16, mlp_dim=24, layers=3, heads=4, kv_heads=2, head_dim=8, init_std=0.3
)
TOKENS = np.random.default_rng(0).integers(0, 32, (8, 12)).astype(np.int32)


def build(rngs):
    return Llama(CONFIG, rngs=rngs)


@pytest.fixture(scope="module")
def params():
    return params_of(build(nnx.Rngs(0)))


@pytest.fixture(params=[(1, 4, 2), (2, 2, 2)], ids=str)
def mesh(request):
    return make_mesh(request.param)


def on(mesh, params):
    """The model with its parameters split over a mesh."""
    definition = define(build)
    shardings = param_shardings(definition.shapes, PARAM_AXES, mesh)
    placed = {path: jax.device_put(a, shardings[path]) for path, a in params.items()}
    return LanguageModel(definition, placed, CONFIG, mesh=mesh)


def test_logits_and_generation(mesh, params):
    one, many = LanguageModel(define(build), params, CONFIG), on(mesh, params)
    np.testing.assert_allclose(many(TOKENS), one(TOKENS), atol=2e-5)
    prompts = TOKENS[:, :6]
    for options in ({}, {"beams": 2}, {"temperature": 1.0, "top_k": 8}):
        expected = one.generate(prompts, max_new_tokens=6, **options)
        got = many.generate(prompts, max_new_tokens=6, **options)
        np.testing.assert_array_equal(got.tokens, expected.tokens)
        np.testing.assert_allclose(got.scores, expected.scores, atol=1e-4)


def test_a_shared_beginning(mesh, params):
    prompts = np.concatenate([np.tile(np.arange(20) % 32, (8, 1)), TOKENS[:, :3]], axis=1)
    many = on(mesh, params)
    expected = LanguageModel(define(build), params, CONFIG).generate(prompts, max_new_tokens=5)
    np.testing.assert_array_equal(many.generate(prompts, max_new_tokens=5).tokens, expected.tokens)
    assert [len(tokens) for tokens in many._prefixes] == [16]


def test_rows_that_do_not_divide(mesh, params):
    expected = LanguageModel(define(build), params, CONFIG)(TOKENS[:3])
    np.testing.assert_allclose(on(mesh, params)(TOKENS[:3]), expected, atol=2e-5)


def test_adapters_are_born_sharded_and_get_the_same_gradients(mesh, params):
    lora = LoRAConfig(rank=4, targets=(r"layers/(attention/.*|up|down)",))

    def adapted(rngs):
        return add_lora(build(rngs), lora, rngs)

    params = init_params(adapted, 0, PARAM_AXES, mesh)
    if mesh.shape["tensor"] > 1:
        a = params["layers/down/lora/a"].sharding.spec
        assert tuple(a)[1] == "tensor", "the adapter's input is split as the base's"
    definition = define(adapted)
    moved = {k: jnp.asarray(v) + 0.1 * is_lora(k) for k, v in params.items()}

    def loss(lora, base, tokens):
        logits = definition.merge({**base, **lora})(tokens)[0]
        return (jax.nn.log_softmax(logits) ** 2).mean()

    def gradients(params, tokens):
        own = {k: v for k, v in params.items() if is_lora(k)}
        base = {k: v for k, v in params.items() if not is_lora(k)}
        return jax.jit(jax.grad(loss))(own, base, tokens)

    many = gradients(moved, shard_batch({"tokens": TOKENS}, mesh)["tokens"])
    one = gradients({k: np.asarray(v) for k, v in moved.items()}, TOKENS)
    assert many.keys() == one.keys() and len(one) == 12
    for path, gradient in one.items():
        np.testing.assert_allclose(many[path], gradient, atol=1e-4, rtol=1e-3)


def test_muon_takes_the_same_steps(mesh):
    optimizer = make_optimizer(OptimConfig(name="muon", learning_rate=0.1), 1)

    @jax.jit
    def step(state, tokens):
        def loss(params):
            logits = define(build).merge(params)(tokens)[0]
            return (jax.nn.log_softmax(logits) ** 2).mean()

        updates, _ = optimizer.update(jax.grad(loss)(state.params), state.opt_state, state.params)
        return optax.apply_updates(state.params, updates)

    many = state_of(init_params(build, 0, PARAM_AXES, mesh), optimizer, PARAM_AXES, mesh)
    moments = [a for a in jax.tree.leaves(many.opt_state) if a.ndim == 3]
    assert moments and not any(a.sharding.is_fully_replicated for a in moments)
    expected = step(jax.tree.map(np.asarray, many), TOKENS)
    got = step(many, shard_batch({"tokens": TOKENS}, mesh)["tokens"])
    for path, value in expected.items():
        np.testing.assert_allclose(got[path], value, atol=1e-3, err_msg=path)


def test_a_cache_keeps_the_rows_split(params):
    """The rows' caches stay where the rows are: nothing gathers them."""
    mesh = make_mesh((8, 1, 1))
    many = on(mesh, params)
    tokens = shard_batch({"tokens": TOKENS}, mesh)["tokens"]

    @jax.jit
    def prefill(params, tokens):
        model = many.definition.merge(params)
        return model(tokens, cache=model.empty_cache(8, 12))[1]

    keys = prefill(many.params, tokens).keys[0]
    assert keys.sharding.shard_shape(keys.shape)[0] == 1
