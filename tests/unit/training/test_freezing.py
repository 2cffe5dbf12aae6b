"""Trained and frozen parameters: who has optimiser state, who is donated, what a gradient costs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from recjax.errors import InputError
from recjax.models.definition import define, params_of
from recjax.models.llama import PARAM_AXES, Config, Llama
from recjax.nn.lora import LoRAConfig, add_lora, is_lora
from recjax.training.freezing import FULL, LORA, split_params, with_frozen
from recjax.training.optim import OptimConfig, make_optimizer
from recjax.training.parallel import make_mesh
from recjax.training.state import init_params, state_of
from recjax.training.step import make_steps
from recjax.training.token_loss import token_loss

CONFIG = Config(vocab_size=32, dim=16, mlp_dim=32, layers=2, heads=2, kv_heads=1, head_dim=8)
ADAPTER = ((r"adapter/.*", "trained"), (r".*", "frozen"))
RNG = np.random.default_rng(0)


def build(config):
    def make(rngs):
        lora = LoRAConfig(rank=4, targets=(r"layers/attention/(query|value)",))
        return add_lora(Llama(config, rngs=rngs), lora, rngs)

    return make


def parameters(config):
    params = params_of(build(config)(nnx.Rngs(0)))
    return params | {"adapter/kernel": jnp.full((6, config.dim), 0.1)}


def loss_of(config):
    definition = define(build(config))

    def loss(params, batch, data, key):
        model = definition.merge(params)
        x = model.embed(batch["tokens"])
        x = x.at[:, 0].set(batch["soft"] @ params["adapter/kernel"])
        h, _ = model.hidden(x)
        return token_loss(h, model.head_table(), batch["tokens"])

    return loss


def batches(steps, config=CONFIG, rows=4, length=9):
    tokens = RNG.integers(0, config.vocab_size, (steps, rows, length))
    soft = RNG.standard_normal((steps, rows, 6))
    return {"tokens": jnp.array(tokens, jnp.int32), "soft": jnp.array(soft, jnp.float32)}


def test_the_first_rule_that_matches_in_full_decides():
    params = dict.fromkeys(["b/lora/a", "b/kernel", "a/kernel"], 0)
    rules = (
        (r"b/lora/.*", "trained"), (r"b", "trained"), (r"b/.*", "frozen"), (r".*", "trained"),
    )  # fmt: skip
    trained, frozen = split_params(params, rules)
    assert list(trained) == ["b/lora/a", "a/kernel"] and list(frozen) == ["b/kernel"]


def test_every_parameter_is_covered_and_something_is_trained():
    with pytest.raises(InputError, match="no freezing rule covers parameter a/kernel"):
        split_params({"b/lora/a": 0, "a/kernel": 0}, LORA[:1])
    with pytest.raises(InputError, match=r"nothing is trained: .* '\.\*/lora/\[ab\]'"):
        split_params({"a/kernel": 0}, LORA)


@pytest.mark.parametrize("rules", [LORA, ADAPTER, FULL])
def test_one_step_for_all_kinds_of_training(rules):
    """What is trained changes; what is frozen stays, is not donated, and is no constant."""
    optimizer = make_optimizer(OptimConfig(learning_rate=1e-2), 1)
    trained, frozen = split_params(parameters(CONFIG), rules)
    mesh = make_mesh((jax.device_count(), 1, 1))
    axes = (*PARAM_AXES, (r"adapter/kernel", (None, "embed")))
    state = state_of(trained, optimizer, axes, mesh)
    moments = [a.size for a in jax.tree.leaves(state.opt_state) if a.ndim]
    assert sum(moments) == 2 * sum(a.size for a in trained.values())
    before = {path: np.array(a) for path, a in trained.items()}
    steps = make_steps(with_frozen(loss_of(CONFIG)), optimizer)
    arguments = (state, batches(3), (frozen, None), jax.random.key(0))
    constants = steps.trace(*arguments).jaxpr.consts
    assert max((np.size(c) for c in constants), default=0) < 100
    state, _ = steps(*arguments)
    assert state.params.keys() == before.keys()
    assert {path for path in before if (before[path] == state.params[path]).all()} == set()
    assert not any(a.is_deleted() for a in frozen.values())
    state, more = steps(state, batches(3), (frozen, None), jax.random.key(0))
    assert int(state.step) == 6 and np.isfinite(more["loss"]).all()


@pytest.mark.devices
def test_an_adapted_model_starts_from_a_loaded_base():
    """Only what the base lacks is made, and it is what training from scratch would begin with."""
    mesh, optimizer = make_mesh((1, 2, 4)), optax.adam(1e-3)
    whole = init_params(build(CONFIG), 3, PARAM_AXES, mesh)
    base = {path: value for path, value in whole.items() if not is_lora(path)}
    added = init_params(build(CONFIG), 3, PARAM_AXES, mesh, but=base)
    assert set(added) == {path for path in whole if is_lora(path)} != set()
    for path, value in added.items():
        np.testing.assert_array_equal(value, whole[path])
        assert value.sharding == whole[path].sharding
    fresh = state_of(whole, optimizer, PARAM_AXES, mesh)
    moments = fresh.opt_state[0].mu
    for path, value in whole.items():
        for leaf in (fresh.params[path], moments[path]):
            assert leaf.sharding.is_equivalent_to(value.sharding, value.ndim), path
    assert fresh.params.keys() == moments.keys() == whole.keys()


# Wide enough for the matrix products to outweigh all else; unrolled, because the compiler counts
# the body of a loop once.
COUNTED = dataclasses.replace(
    CONFIG, vocab_size=512, dim=256, mlp_dim=640, layers=4, heads=4, kv_heads=4, head_dim=64,
    unroll=4,
)  # fmt: skip


def flops_per_parameter(rules):
    """FLOPs of a training step for each token and each parameter that takes part in a product."""
    params = parameters(COUNTED)
    trained, frozen = split_params(params, rules)
    batch = jax.tree.map(lambda a: a[0], batches(1, COUNTED, rows=4, length=33))
    loss = with_frozen(loss_of(COUNTED))

    def total(trained, frozen):
        return loss(trained, batch, (frozen, None), None)[0]

    cost = jax.jit(jax.grad(total)).lower(trained, frozen).compile().cost_analysis()
    used = [v for p, v in params.items() if p.endswith("kernel") and not p.startswith("adapter")]
    return cost["flops"] / batch["tokens"].size / sum(a.size for a in used)


def test_a_frozen_base_costs_no_weight_gradients():
    """2 N forward, 2 N for the gradient of the activations, and 2 N more only where weights train.

    LoRA stays below 4 N plus its own: nothing below the first adapter needs a gradient. Attention
    and norms add a few per cent.
    """
    assert 3.9 < flops_per_parameter(ADAPTER) < 4.4
    assert 3.8 < flops_per_parameter(LORA) < 4.4
    assert 5.8 < flops_per_parameter(FULL) < 6.4
