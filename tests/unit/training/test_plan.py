"""Plans say what training takes."""

import dataclasses
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from recjax.models.definition import params_of
from recjax.models.llama import PARAM_AXES, PRESETS, Config, Llama
from recjax.nn.lora import LoRAConfig, add_lora
from recjax.training.compiled import step_of
from recjax.training.flops import product_flops
from recjax.training.freezing import FULL, LORA, split_params
from recjax.training.optim import OptimConfig, OptimRule, make_optimizer
from recjax.training.parallel import MESH_AXES, param_shardings
from recjax.training.plan import find_config, make_plan
from recjax.training.planned_step import planned_step
from recjax.training.state import state_of

SMALL = Config(
    vocab_size=64, dim=32, mlp_dim=48, layers=3, heads=4, kv_heads=2, head_dim=8, max_length=64
)


def test_a_published_model():
    """The shapes of LLaMA-7B: nothing is allocated, and the FLOPs are 4 N and 6 N a token."""
    config = PRESETS["llama-7b"]
    plans = {
        train: make_plan(config, mesh="1,8,1", batch=64, length=256, train=train, dtype="bfloat16")
        for train in ("adapter", "lora", "full")
    }
    count = 6_738_415_616
    assert plans["full"].parameters == plans["full"].trained == count
    assert plans["adapter"].trained == 64 * 4096
    assert plans["lora"].trained == 32 * 2 * (8 * 4096 * 2)
    assert plans["lora"].parameters == count + plans["lora"].trained
    # Vectors are on every device, the matrices (and the table) split over eight.
    vectors = (2 * 32 + 1) * 4096
    own = (count - vectors) // 8 + vectors
    assert plans["adapter"].frozen_bytes == 2 * own
    # What is trained is in float32, and so are its gradient and both of Adam's moments.
    full = plans["full"]
    assert full.trained_bytes == full.gradient_bytes == 4 * own
    assert 0 <= full.optimizer_bytes - 8 * own < 100
    products = count - 32000 * 4096 - vectors  # a look-up multiplies nothing
    for train, factor in (("adapter", 4), ("lora", 4), ("full", 6)):
        assert products * factor < plans[train].flops_per_token < 1.06 * products * factor


def test_reading_without_training():
    """LLaMA-3.2-1B's shape as a scorer: its cache to the byte, and 2 N FLOPs a token."""
    config = PRESETS["llama-3.2-1b"]
    plan = make_plan(config, batch=64, length=256, train="none", dtype="bfloat16")
    assert sum(one.device_bytes for one in plan.placing) == plan.frozen_bytes
    trained = (plan.trained, plan.gradient_bytes, plan.optimizer_bytes, plan.trained_bytes)
    assert trained == (0, 0, 0, 0) and plan.frozen_bytes == 2 * plan.parameters
    keys = 2 * 16 * (64 * 256 * 8 * 64 * 2)
    assert keys < plan.cache_bytes < keys + 64 * 256 + 1000  # and which slots are valid
    products = plan.parameters - 128256 * 2048  # logits of one token a row
    # Of the last layer, beside its keys and values, only what the last token needs may be computed.
    assert 1.87 * products < plan.flops_per_token < 2.1 * products + 2 * 128256 * 2048 / 256
    # The feed-forward part is the widest: two arrays in, one out, at least.
    assert 2 * 64 * 256 * 8192 * 2 < plan.activation_bytes < 20 * 64 * 256 * 8192 * 2
    split = make_plan(config, mesh="2,1,2", batch=64, length=256, train="none", dtype="bfloat16")
    assert split.cache_bytes == -(-plan.cache_bytes // 4)


@pytest.mark.parametrize("name", ["glm-10b", "chatglm-6b"])
def test_each_family_has_its_own_adapters(name):
    """Those of RecSysLLM: query_key_value, dense, dense_h_to_4h, dense_4h_to_h."""
    config = find_config(name)
    plan = make_plan(config, mesh="1,8,1", length=256, train="lora", dtype="bfloat16")
    assert plan.trained == 8 * config.layers * sum((1 + 3, 1 + 1, 1 + 4, 4 + 1)) * config.dim


@pytest.mark.parametrize("train", ["lora", "full"])
@pytest.mark.parametrize("mesh", [(1, 1, 1), (2, 2, 2), (1, 8, 1), (1, 2, 4)])
def test_bytes_are_those_of_real_arrays(train, mesh):
    def build(rngs):
        model = Llama(SMALL, rngs=rngs)
        return add_lora(model, LoRAConfig(4), rngs) if train == "lora" else model

    params = params_of(build(nnx.Rngs(0)))
    trained, frozen = split_params(params, LORA if train == "lora" else FULL)
    chosen = np.array(jax.devices()[: math.prod(mesh)]).reshape(mesh)
    devices = jax.sharding.Mesh(chosen, MESH_AXES)
    state = state_of(trained, make_optimizer(OptimConfig(), 1), PARAM_AXES, devices)
    placed = jax.device_put(frozen, param_shardings(frozen, PARAM_AXES, devices))

    def held(tree):
        return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))

    text = ",".join(map(str, mesh))
    plan = make_plan(SMALL, mesh=text, batch=8, length=16, train=train, rank=4)
    assert plan.frozen_bytes == held(placed)
    assert plan.trained_bytes == plan.gradient_bytes == held(state.params)
    assert plan.optimizer_bytes == held(state.opt_state)
    assert plan.devices == math.prod(mesh)
    assert plan.total_bytes == plan.activation_bytes + held((placed, state.opt_state)) + 2 * held(
        state.params
    )


def test_activations():
    """Linear in the rows, split over them; recomputation keeps less and multiplies more."""
    base = make_plan(SMALL, batch=8, length=16)
    assert make_plan(SMALL, batch=16, length=16).activation_bytes == pytest.approx(
        2 * base.activation_bytes, rel=0.05
    )
    halves = make_plan(SMALL, mesh="1,2,1", batch=8, length=16)
    assert halves.activation_bytes == pytest.approx(base.activation_bytes / 2, rel=0.05)
    split = make_plan(SMALL, mesh="1,1,2", batch=8, length=16)
    assert base.activation_bytes / 2 < split.activation_bytes < 0.9 * base.activation_bytes
    less = make_plan(dataclasses.replace(SMALL, remat="full"), batch=8, length=16)
    assert less.activation_bytes < base.activation_bytes / 2  # one of three layers at a time
    assert less.flops_per_token > 1.2 * base.flops_per_token
    # At least what enters and leaves each linear map of each layer.
    tokens, config = 8 * 16, SMALL
    widths = 2 * config.dim + config.heads * config.head_dim + config.mlp_dim
    assert base.activation_bytes > 4 * tokens * config.layers * widths
    half = make_plan(SMALL, batch=8, length=16, dtype="bfloat16")
    assert half.activation_bytes < 0.75 * base.activation_bytes


@pytest.mark.parametrize("remat", ["none", "full"])
@pytest.mark.parametrize(("name", "rows"), [("stories-15m", 8), ("glm-tiny", 4)])
def test_the_estimate_against_what_is_compiled(name, rows, remat):
    """Within 10 % of XLA's assignment for one device, with and without recomputation. The larger
    has its peak in the loss, the smaller in a layer."""
    config = find_config(name, remat=remat)
    if name == "glm-tiny":
        less = {"vocab_size": 1000, "start_id": 1, "blank_ids": (2,)}
        config = dataclasses.replace(config, dim=192, mlp_dim=768, head_dim=48, **less)
    told = {"batch": rows, "length": 256, "train": "lora"}
    one = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), MESH_AXES)
    steps, arguments = planned_step(config, **told).lowerable(one)
    compiled = step_of(steps.lower(*arguments).compile(), arguments[1], one)
    assert make_plan(config, **told).total_bytes == pytest.approx(compiled.peak_bytes, rel=0.1)


def test_the_table_of_shardings():
    """Each parameter with what splits it."""
    plan = make_plan(SMALL, mesh="1,2,1", batch=8, length=16, train="lora", rank=4)
    rows = {line.split()[0]: line.split() for line in plan.table().splitlines() if line.split()}
    assert rows["embedding"][1:4] == ["64", "32", "float32"]
    assert "fsdp" in rows["embedding"]
    assert sum(one.device_bytes for one in plan.placing) == plan.frozen_bytes + plan.trained_bytes


def test_flops_of_products():
    a, b = jnp.zeros((3, 5)), jnp.zeros((5, 7))

    def looped(a, b):
        step = jax.jit(jax.checkpoint(lambda c, _: (c @ b @ b.T, None)))
        return jax.lax.scan(step, a, None, length=4)[0].sum()

    assert product_flops(jax.make_jaxpr(lambda a, b: a @ b)(a, b)) == 2 * 3 * 5 * 7
    assert product_flops(jax.make_jaxpr(looped)(a, b)) == 4 * 2 * (2 * 3 * 5 * 7)
    batched = jax.make_jaxpr(lambda a: jnp.einsum("bij,bkj->bik", a, a))(jnp.zeros((2, 3, 4)))
    assert product_flops(batched) == 2 * (2 * 3 * 3 * 4)


def test_the_command(recjax):
    status, out, err = recjax(
        "plan", "--preset=llama-7b", "--mesh=1,8,1", "--batch=8", "--length=64", "--json"
    )
    assert status == 0 and out["trained"] == 4_194_304 and out["total_bytes"] > 1e9
    assert "GB on each device:" in err and "4,194,304 trained; 512 tokens a step on 8" in err


def test_of_a_folder(recjax):
    folder = Path(__file__).parents[2] / "data" / "llama" / "llama_gqa"
    assert recjax("plan", f"--from={folder}", "--train=full", "--json")[1]["parameters"] == 145_856


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "plan needs one of --preset NAME, --from FOLDER and --config FILE"),
        (["--preset=llama-7b", "--from=x"], "plan needs one of --preset NAME, --from FOLDER and"),
        (["--preset=lama-7b"], "preset 'lama-7b': unknown; did you mean 'llama-7b'?"),
        (["--preset=llama-7b", "--mesh=8"], "mesh 8: expected three sizes, data,fsdp,tensor"),
        (["--preset=llama-7b", "--mesh=1,0,1"], "mesh 1,0,1: expected three sizes"),
        (["--preset=llama-7b", "--mesh=1,3,1"], "batch 8: expected a multiple of data x fsdp, 3"),
        (
            ["--preset=llama-7b", "--mesh=1,1,99999999999999999999"],
            "expected three sizes, data,fsdp",
        ),
        (
            ["--preset=llama-7b", "--batch=1000000000000000"],
            "batch 1000000000000000: expected a mu",
        ),
        (
            ["--preset=llama-7b", "--length=1000000000"],
            "length 1000000000: expected 2 to 1,048,576",
        ),
        (["--preset=llama-7b", "--train=some"], "train 'some': expected one of adapter, lora, fu"),
        (["--preset=llama-7b", "--remat=some"], "model.remat: expected one of 'none', 'dots', '"),
        (["--preset=llama-7b", "--rank=0"], "rank 0: expected 1 to 65,536"),
        (["--preset=llama-7b", "--dtype=int8"], "dtype 'int8': expected one of float32, bfloat1"),
        (["--preset=llama-7b", "--remat="], "model.remat: expected one of 'none', 'dots', 'full'"),
        (["--preset=llama-7b", "--quant="], "quant '': expected int8 or nf4"),
        (["--preset=llama-7b", "--quant=int8", "--train=full"], "quant int8: expected nothing wh"),
        (["--preset=llama-7b", "--config.seed=1"], "--config.KEY=VALUE needs --config FILE"),
        (["--from=nowhere"], "nowhere/config.json: no such file"),
        (["--preset=llama-7b", "--train=full", "--rank=4"], "--rank: of adapters; expected --trai"),
    ],
)
def test_bad_usage(recjax, arguments, message):
    status, out, err = recjax("plan", *arguments)
    assert (status, out) == (2, None) and message in err and err.count("\n") == 1


def test_a_config_is_found():
    assert find_config("llama-7b", remat="dots") == dataclasses.replace(
        PRESETS["llama-7b"], remat="dots"
    )


CONFIG = """
from ml_collections import ConfigDict
def get_config(arg=None):
    return ConfigDict({"data": {"source": "simulated", "store": STORE, "options": OPTIONS},
                       "model": {"name": "sasrec", "dim": 16, "max_length": 20},
                       "objective": {"name": "softmax"}, "train": {"batch_size": 32}})
"""


@pytest.mark.devices
def test_of_a_recommender(recjax, tmp_path, sample_store):
    """Its step is compiled for the mesh; the devices are those of the tests."""
    options = sample_store.manifest["options"]["options"]
    text = CONFIG.replace("STORE", repr(str(sample_store.path))).replace("OPTIONS", repr(options))
    (tmp_path / "config.py").write_text(text)
    config = f"--config={tmp_path / 'config.py'}"
    status, out, err = recjax("plan", config, "--mesh=1,4,2", "--device=24GB", "--json")
    assert status == 0, err
    step, items = out["compiled"], -(-sample_store.n_items // 8) * 8
    assert out["fits"] and "fits 24GB: 0.0 GB of 24.0 GB" in err
    # An eighth of the item table and its two moments, and the other parameters.
    assert step["devices"] == 8 and 3 * items * 16 * 4 / 8 < step["argument_bytes"] < 300_000
    assert step["peak_bytes"] == out["total_bytes"] > step["working_bytes"] > 0
    assert step["collectives"]["all-gather"] > 0 and step["flops"] > 0
    status, _, err = recjax("plan", config, "--mesh=1,1,8", "--config.model.dim=12")
    assert status == 2
    assert "mesh (1, 1, 8): tensor = 8 does not divide the 12 of 'blocks/0/" in err
    for wrong, message in (
        ("--device=h10", "did you mean 'h100'"),
        ("--batch=3", "--batch: of presets, finetune and recsysllm; expected --config."),
        ("--remat=full", "--remat: of presets"),
        ("--config.train.rules={'items': ('tensr',)}", "no mesh axis 'tensr'; did you mean"),
        ("--config.train.rules={'item': ('tensor',)}", "no logical axis 'item'; did you mean 'ite"),
    ):
        status, _, err = recjax("plan", config, "--mesh=1,8,1", wrong)
        assert status == 2 and message in err, wrong


@pytest.mark.devices
def test_of_a_new_language_model(recjax, tmp_path, sample_store):
    """All of it is trained, in float32; a step has the rows into which texts are packed."""
    model = {"name": "llama", "layers": 1, "dim": 16, "heads": 2, "kv_heads": 2, "head_dim": 8}
    section = {
        "system": "language_model",
        "data": {"source": "simulated", "store": str(sample_store.path)},
        "model": {**model, "mlp_dim": 8, "max_length": 256},
        "tokenizer": {"vocab_size": 320},
        "train": {"batch_size": 32},
    }
    text = f"def get_config(arg):\n    return ConfigDict({section})"
    (tmp_path / "config.py").write_text(f"from ml_collections import ConfigDict\n{text}")
    config = f"--config={tmp_path / 'config.py'}"
    status, out, err = recjax("plan", config, "--mesh=4,1,2", "--json")
    assert status == 0, err
    own = (sample_store.n_items + 2 * 320) * 16 + 4 * 256 + 3 * 128 + 3 * 16
    assert out["trained"] == out["parameters"] == own
    step = out["compiled"]
    assert 8 <= out["rows"] < 32 and step["input_bytes"] % (4 * out["rows"]) == 0
    assert 3 * 4 * own / 2 < step["argument_bytes"] < 3 * 4 * own


@pytest.mark.devices
def test_a_compiled_step_of_a_language_model(recjax):
    plan = ["plan", "--preset=stories-15m", "--batch=8", "--length=16", "--train=adapter"]
    status, out, err = recjax(*plan, "--mesh=1,8,1", "--compiled", "--device=h100", "--json")
    assert status == 0, err
    assert out["fits"] and "of products and" in err
    # All layers are gathered twice, and each device keeps an eighth of them.
    layers = 6 * (4 * 288**2 + 3 * 288 * 768) * 4
    assert out["compiled"]["collectives"]["all-gather"] > layers * 7 / 8
    assert out["compiled"]["argument_bytes"] < out["parameters"] * 4 / 7
    status, _, err = recjax(*plan, "--mesh=1,5,1", "--batch=10")
    assert status == 2 and "mesh 1,5,1: fsdp = 5 does not divide the 288 of" in err


def test_the_optimiser_and_the_parts_of_a_batch_are_counted():
    plain = make_plan(SMALL, batch=8, length=16)
    averaged = make_plan(SMALL, batch=8, length=16, optim=OptimConfig(average=0.9))
    assert averaged.optimizer_bytes == pytest.approx(1.5 * plain.optimizer_bytes, rel=0.01)
    rule = OptimRule("items/embedding|layers/.*", frozen=True)
    frozen = make_plan(SMALL, batch=8, length=16, optim=OptimConfig(rules=(rule,)))
    assert frozen.trained_bytes + frozen.frozen_bytes == plain.trained_bytes
    assert frozen.optimizer_bytes < plain.optimizer_bytes
    parts = make_plan(SMALL, batch=8, length=16, accumulate=4)
    assert parts.activation_bytes == pytest.approx(plain.activation_bytes / 4, rel=0.1)
    assert parts.gradient_bytes == 2 * plain.gradient_bytes
    assert parts.flops_per_token == pytest.approx(plain.flops_per_token, rel=0.01)
