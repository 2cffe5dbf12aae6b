"""LoRA: starts as the identity, merges into the base, is chosen by path."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AbstractMesh

from recjax.errors import InputError
from recjax.models.definition import define, params_of
from recjax.models.llama import PARAM_AXES, Config, Llama
from recjax.nn.lora import (
    Linear,
    LoRAConfig,
    LoRAParam,
    add_lora,
    is_lora,
    lora_axes,
    merge_lora,
)
from recjax.nn.product_cpu import product
from recjax.sharded import placing
from recjax.training.parallel import make_mesh, param_shardings

CONFIG = Config(vocab_size=19, dim=8, mlp_dim=12, layers=2, heads=4, kv_heads=2, head_dim=6)
LORA = LoRAConfig(rank=3, alpha=7.0, targets=(r"layers/attention/(query|value)", r"layers/down"))
TOKENS = jnp.arange(10).reshape(2, 5)


def plain(rngs):
    return Llama(CONFIG, rngs=rngs)


def adapted(rngs, lora=LORA):
    return add_lora(plain(rngs), lora, rngs)


def moved(params):
    """Adapters away from their start, where B is 0."""
    rng = np.random.default_rng(0)
    return {
        path: jnp.array(rng.normal(size=a.shape), jnp.float32) if is_lora(path) else a
        for path, a in params.items()
    }


def test_starts_as_the_identity():
    before = plain(nnx.Rngs(0))(TOKENS)[0]
    after = adapted(nnx.Rngs(0))(TOKENS)[0]
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("split", [False, True])
def test_a_gradient_is_a_product_of_matrices_on_one_cpu(split):
    """Rows that are split over devices keep their axes. Either way the numbers are those of @."""
    built = define(lambda rngs: Linear(3, 4, init=nnx.initializers.normal(1.0), rngs=rngs))
    x, kernel = jax.random.normal(jax.random.key(1), (2, 5, 3)), jnp.ones((3, 4))

    def loss(kernel, x):
        linear = built.merge({"kernel": kernel})
        with placing(AbstractMesh((2,), ("data",)) if split else None):
            return (linear(x) ** 2).sum()

    gradient = jax.grad(loss, argnums=(0, 1))
    assert ("(([0, 1], [0, 1])" in str(jax.make_jaxpr(gradient)(kernel, x))) == split
    plain = jax.grad(lambda kernel, x: ((x @ kernel) ** 2).sum(), argnums=(0, 1))
    for own, expected in zip(gradient(kernel, x), plain(kernel, x), strict=True):
        np.testing.assert_allclose(own, expected, rtol=1e-5)


def test_what_the_backward_pass_keeps_of_a_map():
    x, kernel = jnp.ones((2, 5, 3)), jnp.ones((3, 4))

    def kept(function, given):
        pullback = jax.eval_shape(lambda a: jax.vjp(function, a)[1], given)
        return [leaf.shape for leaf in jax.tree.leaves(pullback)]

    assert kept(lambda a: product(a, kernel), x) == [kernel.shape]
    assert kept(lambda a: product(x, a), kernel) == [x.shape]


def test_targets_and_types():
    model = adapted(nnx.Rngs(0))
    found = {path for path in params_of(model) if is_lora(path)}
    places = ("attention/query", "attention/value", "down")
    assert found == {f"layers/{place}/lora/{ab}" for place in places for ab in "ab"}
    own = nnx.to_flat_state(nnx.state(model, LoRAParam))
    assert {"/".join(map(str, path)) for path, _ in own} == found
    base = nnx.to_flat_state(nnx.state(model, nnx.Param))
    assert not found & {"/".join(map(str, path)) for path, _ in base}
    shapes = define(adapted).shapes
    assert shapes["layers/down/lora/a"].shape == (2, 12, 3)
    assert shapes["layers/attention/value/lora/b"].shape == (2, 3, 12)


def test_update_is_alpha_over_rank_times_a_b():
    definition = define(adapted)
    params = moved(params_of(adapted(nnx.Rngs(0))))
    params = {k: v for k, v in params.items() if "down" in k or not is_lora(k)} | {
        k: jnp.zeros_like(v) for k, v in params.items() if is_lora(k) and "down" not in k
    }
    by_hand = {k: v for k, v in params.items() if not is_lora(k)}
    a, b = params["layers/down/lora/a"], params["layers/down/lora/b"]
    by_hand["layers/down/kernel"] += 7.0 / 3 * jnp.einsum("lir,lro->lio", a, b)
    expected = define(plain).merge(by_hand)(TOKENS)[0]
    np.testing.assert_allclose(definition.merge(params)(TOKENS)[0], expected, atol=1e-4)


def test_merged_computes_the_same():
    params = moved(params_of(adapted(nnx.Rngs(0))))
    merged = merge_lora(params, LORA)
    assert not any(map(is_lora, merged))
    expected = define(adapted).merge(params)(TOKENS)[0]
    np.testing.assert_allclose(define(plain).merge(merged)(TOKENS)[0], expected, atol=1e-4)
    assert np.abs(expected - plain(nnx.Rngs(0))(TOKENS)[0]).max() > 0.1


def test_the_heads_table_has_the_heads_adapter():
    """Losses read the table, generation the map."""
    lora = LoRAConfig(rank=2, alpha=3.0, targets=("head",))
    params = moved(params_of(adapted(nnx.Rngs(0), lora)))
    model = define(lambda rngs: adapted(rngs, lora)).merge(params)
    h = np.random.default_rng(1).normal(size=(4, 8)).astype(np.float32)
    np.testing.assert_allclose(model.logits(h), h @ np.asarray(model.head_table()).T, atol=1e-5)


def test_merging_keeps_the_base_type():
    params = moved(params_of(adapted(nnx.Rngs(0))))
    params["layers/down/kernel"] = params["layers/down/kernel"].astype(jnp.bfloat16)
    assert merge_lora(params, LORA)["layers/down/kernel"].dtype == jnp.bfloat16


def test_dropout_only_with_a_key():
    lora = LoRAConfig(rank=3, dropout=0.5, targets=LORA.targets)
    definition = define(lambda rngs: adapted(rngs, lora))
    model = definition.merge(moved(params_of(adapted(nnx.Rngs(0), lora))))
    first, second = (model(TOKENS, key=jax.random.key(n))[0] for n in (0, 1))
    assert np.abs(first - second).max() > 1e-3
    np.testing.assert_array_equal(first, model(TOKENS, key=jax.random.key(0))[0])
    np.testing.assert_array_equal(model(TOKENS)[0], model(TOKENS)[0])


def test_a_target_that_matches_nothing():
    with pytest.raises(InputError, match="layers/q_proj.*layers/attention/query"):
        adapted(nnx.Rngs(0), LoRAConfig(targets=("layers/q_proj",)))


@pytest.mark.devices
def test_sharding_follows_the_base():
    shapes = define(adapted).shapes
    specs = {
        k: v.spec for k, v in param_shardings(shapes, PARAM_AXES, make_mesh((1, 4, 2))).items()
    }
    assert set(specs) == set(shapes)
    assert tuple(specs["layers/down/kernel"]) == (None, "tensor", "fsdp")
    assert tuple(specs["layers/down/lora/a"]) == (None, "tensor", None)
    assert tuple(specs["layers/down/lora/b"]) == (None, None, "fsdp")


def test_axes_of_adapters_stand_before_what_could_shadow_them():
    axes = lora_axes(((r"x/kernel", ("embed", "mlp")), (r".*", (None,))))
    assert [pattern for pattern, _ in axes] == [
        "x/lora/a",
        "x/lora/b",
        "x/quant_scale",
        "x/kernel",
        ".*",
    ]
