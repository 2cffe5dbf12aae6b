"""Adapters of peft: the golden one computes what peft computed, others return or are refused."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from recjax.convert.language_model import read_language_model
from recjax.convert.peft import (
    CONFIG,
    WEIGHTS,
    adapted,
    merged,
    read_adapter,
    write_adapter,
)
from recjax.convert.peft_config import targets_of
from recjax.errors import InputError
from recjax.nn.lora import LoRAConfig, is_lora
from recjax.training.parallel import make_mesh, param_shardings

DATA = Path(__file__).parents[2] / "data" / "llama"
GOLDEN = DATA / "peft_gqa"
TARGETS = ("layers/attention/query", "layers/attention/value", "layers/down")


@pytest.fixture(scope="module")
def base():
    return read_language_model(DATA / "llama_gqa")


def difference(model):
    """From peft's logits (tests/data/make_llama_peft.py)."""
    tokens = np.load(DATA / "llama_gqa" / "io.npz")["full_input_ids"]
    ours, _ = model.definition.merge(model.params)(jnp.asarray(tokens))
    return np.abs(ours - np.load(GOLDEN / "io.npz")["full_logits"]).max()


def test_the_golden_adapter(base):
    lora, params = read_adapter(GOLDEN, base)
    assert lora == LoRAConfig(rank=4, alpha=12.0, dropout=0.0, targets=TARGETS)
    both = adapted(base, lora, params)
    assert difference(both) < 5e-5 < difference(merged(base, lora, {})) / 1000
    assert difference(merged(base, lora, params)) < 5e-5
    wrong = dataclasses.replace(lora, alpha=13.0)
    assert difference(adapted(base, wrong, params)) > 1e-2
    swapped = dict(params)
    swapped["layers/down/lora/a"] = params["layers/down/lora/a"][::-1]
    assert difference(adapted(base, lora, swapped)) > 1e-2


@pytest.mark.parametrize(
    ("folder", "targets", "written"),
    [
        ("families/gpt2", ["attn.c_proj"], ["attn.c_proj"]),  # the other one is mlp.c_proj
        ("t5/v10", ["EncDecAttention.q"], ["EncDecAttention.q"]),
        ("t5/v10", ["k", "v"], ["k", "v"]),
        (
            "t5/v10",  # whose decoder has a layer more than the encoder
            r"decoder\..*SelfAttention\.q",
            ["2.layer.0.SelfAttention.q"]
            + [f"decoder.block.{n}.layer.0.SelfAttention.q" for n in range(2)],
        ),
    ],
)
def test_a_part_of_the_maps_with_one_end_returns(tmp_path, folder, targets, written):
    base = read_language_model(DATA.parent / folder)
    paths = targets_of(targets, "targets", base)
    lora = LoRAConfig(2, 4.0, targets=tuple(map(re.escape, paths)))
    shapes = adapted(base, lora, {}).definition.shapes
    own = {path: np.ones(a.shape, np.float32) for path, a in shapes.items() if is_lora(path)}
    write_adapter(tmp_path / "out", base, lora, own)
    values = json.loads((tmp_path / "out" / CONFIG).read_text())
    assert values["target_modules"] == written
    assert (values["task_type"] == "SEQ_2_SEQ_LM") == folder.startswith("t5")
    again, params = read_adapter(tmp_path / "out", base)
    assert again == lora and params.keys() == own.keys()


def test_it_returns_byte_by_byte(base, tmp_path):
    lora, params = read_adapter(GOLDEN, base)
    write_adapter(tmp_path / "out", base, lora, params)
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == (GOLDEN / WEIGHTS).read_bytes()
    ours = json.loads((tmp_path / "out" / CONFIG).read_text())
    theirs = json.loads((GOLDEN / CONFIG).read_text())
    assert set(ours.pop("target_modules")) == set(theirs["target_modules"])
    assert Path(ours.pop("base_model_name_or_path")) == DATA / "llama_gqa"
    assert all(theirs[key] == value for key, value in ours.items())
    again = read_adapter(tmp_path / "out", base)
    assert again[0] == lora
    with pytest.raises(InputError, match="out exists already; --overwrite replaces it"):
        write_adapter(tmp_path / "out", base, lora, params)
    with pytest.raises(InputError, match="no parameters of an adapter"):
        write_adapter(tmp_path / "none", base, lora, base.params)


@pytest.mark.devices
def test_on_a_mesh(base):
    mesh = make_mesh((2, 2, 2))
    _, params = read_adapter(
        GOLDEN, base, shardings=lambda shapes, axes: param_shardings(shapes, axes, mesh)
    )
    expected = param_shardings(params, base.family.axes, mesh)
    for path, value in read_adapter(GOLDEN, base)[1].items():
        assert params[path].sharding == expected[path]
        np.testing.assert_array_equal(params[path], value)


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (["q_proj", "v_proj", "down_proj"], TARGETS),
        (r"model\.layers\.\d\.(self_attn\.[qv]_proj|mlp\.down_proj)", TARGETS),
        (r".*\.(q|v|down)_proj", TARGETS),
        (["self_attn.q_proj", "v_proj", "mlp.down_proj"], TARGETS),
    ],
)
def test_targets_in_every_form(base, tmp_path, targets, expected):
    assert read_adapter(changed(tmp_path, target_modules=targets), base)[0].targets == expected


def changed(tmp_path, weights=None, **values):
    """The golden adapter with another config, or with other tensors."""
    shutil.copytree(GOLDEN, tmp_path / "in")
    config = json.loads((GOLDEN / CONFIG).read_text()) | values
    config = {key: value for key, value in config.items() if value is not ...}
    (tmp_path / "in" / CONFIG).write_text(json.dumps(config))
    if weights is not None:
        state = safetensors.numpy.load_file(GOLDEN / WEIGHTS)
        weights(state)
        safetensors.numpy.save_file(state, tmp_path / "in" / WEIGHTS)
    return tmp_path / "in"


KEY = "base_model.model.model.layers.2.self_attn.q_proj.lora_B.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_rslora": "yes"}, "'use_rslora' is 'yes', expected true or false"),
        ({"use_dora": True}, "'use_dora' is True; only False"),
        ({"bias": "lora_only"}, "'bias' is 'lora_only'; only 'none'"),
        ({"modules_to_save": ["lm_head"]}, "'modules_to_save' is ['lm_head']; only None"),
        ({"layers_to_transform": [0, 1]}, "'layers_to_transform' is [0, 1]; only None"),
        ({"exclude_modules": ["q"]}, "'exclude_modules' is ['q']; only None"),
        ({"rank_pattern": {"q_proj": 0}}, "'rank_pattern': 'q_proj' is 0, expected a whole"),
        ({"rank_pattern": {"q_proj": 10**9}}, "'q_proj' is 1000000000, expected a whole number"),
        ({"rank_pattern": {"q_proj": 3}}, "(4, 64), expected rank 3 by adapter_config.json"),
        ({"rank_pattern": [["q_proj", 3]]}, "'rank_pattern' is [['q_proj', 3]], expected an obj"),
        ({"rank_pattern": {"q_(": 3}}, "'q_(': no regular expression (missing ), unterminated"),
        ({"alpha_pattern": {"q_proj": -3}}, "'q_proj' is -3, expected a number above 0"),
        ({"alpha_pattern": {"q_proj": float("nan")}}, "'q_proj' is nan, expected a number above"),
        ({"alpha_pattern": {".*.*" * 400: 3}}, "too many ways to match"),
        ({"init_lora_weights": "pissa"}, "'init_lora_weights' is 'pissa'; only True"),
        ({"peft_type": "IA3"}, "'peft_type' is 'IA3'; only 'LORA'"),
        ({"lora_alphas": 2}, "unknown key 'lora_alphas': 2; did you mean 'lora_alpha'?"),
        ({"r": ...}, "lacks the key 'r'"),
        ({"r": 0}, "'r' is 0, expected a whole number from 1 to 65,536"),
        ({"r": "4"}, "'r' is '4', expected a whole number"),
        ({"r": True}, "'r' is True, expected a whole number"),
        ({"r": 10**9}, "'r' is 1000000000, expected a whole number"),
        ({"r": 10**30}, "'r' is a huge number, expected a whole number"),
        ({"r": 60_000}, "lora_A.weight' has shape (4, 64), expected (60000, 64)"),
        ({"lora_alpha": float("nan")}, "'lora_alpha' is nan, expected a number above 0"),
        ({"lora_alpha": float("inf")}, "'lora_alpha' is inf, expected a number above 0"),
        ({"lora_alpha": -1}, "'lora_alpha' is -1, expected a number above 0"),
        ({"lora_alpha": [8]}, "'lora_alpha' is [8], expected a number above 0"),
        ({"lora_dropout": 1.5}, "'lora_dropout' is 1.5, expected a number from 0 to below 1"),
        ({"lora_dropout": "no"}, "'lora_dropout' is 'no', expected a number"),
        ({"target_modules": []}, "'target_modules' is [], expected at least one linear map"),
        ({"target_modules": "(q_proj"}, "no regular expression (missing ), unterminated subpat"),
        ({"target_modules": "(?i)Q_proj"}, "flags in a pattern are not implemented"),
        ({"target_modules": ".*.*" * 400}, "too many ways to match"),
        ({"target_modules": "(a+)+" + "x" * 3000}, "3,005 characters, expected at most 2,000"),
        ({"r": 8}, "lora_A.weight' has shape (4, 64), expected (8, 64)"),
        ({"target_modules": 3}, "'target_modules' is 3, expected names or a regex"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "'embed_tokens' is no linear map of this"),
        ({"target_modules": "(.+)+\\d"}, "is no linear map of this model; known: q_proj"),
        ({"target_modules": r".*\.2\..*_proj"}, "in some layers only"),
        ({"target_modules": ["q_proj", "v_proj"]}, "down_proj.lora_A.weight'; did you mean"),
        ({"target_modules": "all-linear"}, "lacks the key 'base_model.model.model.layers.0.self_a"),
        ({"weights": lambda s: s.pop(KEY)}, f"lacks the key '{KEY}', expected with shape (64, 4)"),
        ({"weights": lambda s: s.update(x=s[KEY])}, f"{WEIGHTS}: unknown key 'x'"),
    ],
)
def test_what_is_refused(base, tmp_path, change, message):
    with pytest.raises(InputError) as error:
        read_adapter(changed(tmp_path, **change), base)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "key", ["modules_to_save", "layers_to_transform", "exclude_modules", "target_parameters",
            "layers_pattern", "loftq_config", "rank_pattern", "trainable_token_indices"],
)  # fmt: skip
@pytest.mark.parametrize("empty", [[], {}])
def test_what_is_empty_is_none(base, tmp_path, key, empty):
    lora, _ = read_adapter(changed(tmp_path, **{key: empty}), base)
    assert lora.rank == 4


# Modules' ranks and alphas by patterns as peft reads them: the first that matches a name's end; ^
# is the beginning of a whole name.
RANKS = {"^q_proj": 7, r"layers\.1\.self_attn\.q_proj": 2, "q_proj": 3, "v_proj": 6, ".*k_proj": 9}
ALPHAS = {"^(q|k)_proj": 70, r".*\.0\..*_proj": 5, "model.layers.2.mlp.down_proj": 0.5}


def expected_pair(name):
    rank = 4
    if "q_proj" in name:
        rank = 2 if ".1." in name else 3
    elif "v_proj" in name:
        rank = 6
    alpha = 12.0
    if ".0." in name:
        alpha = 5.0
    elif name == "model.layers.2.mlp.down_proj":
        alpha = 0.5
    return rank, alpha


def with_patterns(state):
    """Random adapters with the ranks of RANKS."""
    rng = np.random.default_rng(0)
    for key, array in state.items():
        name = key.removeprefix("base_model.model.").rpartition(".lora_")[0]
        shape = list(array.shape)
        shape[int("lora_B" in key)] = expected_pair(name)[0]
        state[key] = rng.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("patterns", [False, True])
def test_merged_weights_are_those_by_hand(base, tmp_path, rslora, patterns):
    """W + scale B A of every layer, with one rank or each its own; written out and read again."""
    own = {"rank_pattern": RANKS, "alpha_pattern": ALPHAS} if patterns else {}
    folder = changed(tmp_path, with_patterns if patterns else None, use_rslora=rslora, **own)
    lora, params = read_adapter(folder, base)
    assert (lora.rank, lora.alpha, lora.rslora) == (6 if patterns else 4, 12.0, rslora)
    write_adapter(tmp_path / "out", base, lora, params)
    state = safetensors.numpy.load_file(folder / WEIGHTS)
    linear = {"self_attn.q_proj": "attention/query", "self_attn.v_proj": "attention/value",
              "mlp.down_proj": "down"}  # fmt: skip
    for read in ((lora, params), read_adapter(tmp_path / "out", base)):
        model = merged(base, *read)
        for layer in range(base.config.layers):
            for theirs, ours in linear.items():
                name = f"model.layers.{layer}.{theirs}"
                rank, alpha = expected_pair(name) if patterns else (4, 12.0)
                a, b = (state[f"base_model.model.{name}.lora_{s}.weight"] for s in "AB")
                update = alpha / (rank**0.5 if rslora else rank) * (b @ a)
                before = np.asarray(base.params[f"layers/{ours}/kernel"][layer])
                after = np.asarray(model.params[f"layers/{ours}/kernel"][layer])
                np.testing.assert_allclose(after - before, update.T, rtol=1e-4, atol=1e-5)


def test_one_rank_and_alpha_by_patterns_stay_what_they_are(base, tmp_path):
    folder = changed(tmp_path, r=9, lora_alpha=1, rank_pattern={".*": 4}, alpha_pattern={".*": 12})
    lora, params = read_adapter(folder, base)
    assert (lora.rank, lora.alpha) == (4, 12.0)
    np.testing.assert_array_equal(
        params["layers/down/lora/b"], read_adapter(GOLDEN, base)[1]["layers/down/lora/b"]
    )


def test_no_adapter(base, tmp_path):
    with pytest.raises(InputError, match="adapter_config.json: no such file"):
        read_adapter(DATA / "llama_gqa", base)
    folder = changed(tmp_path)
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")
    with pytest.raises(InputError, match="adapter_model.bin: a pickle can run code"):
        read_adapter(folder, base)


def test_copies_of_the_base_are_accepted(base, tmp_path):
    """peft adds them where the head has an adapter."""
    head = np.asarray(base.params["head/kernel"].T)
    key = "base_model.model.lm_head.base_layer.weight"
    folder = changed(tmp_path, weights=lambda s: s.update({key: head}))
    assert read_adapter(folder, base)[1].keys() == read_adapter(GOLDEN, base)[1].keys()
    shutil.rmtree(folder)
    folder = changed(tmp_path, weights=lambda s: s.update({key: head + 1}))
    with pytest.raises(InputError, match="lm_head.base_layer.weight' differs from the base model"):
        read_adapter(folder, base)


@pytest.mark.parametrize("prefix", ["", "glm."])
@pytest.mark.parametrize("name", ["glm_hf", "chatglm_v1"])
def test_adapters_of_glm(name, prefix, tmp_path):
    """The paper's four maps by the public names; GLM's classes for generation add a prefix."""
    base = read_language_model(DATA.parent / "glm" / name)
    lora = LoRAConfig(rank=3, alpha=6.0, targets=base.family.lora_targets)
    shapes = adapted(base, lora, {}).definition.shapes
    rng = np.random.default_rng(0)
    own = {
        path: jnp.asarray(rng.normal(0, 0.3, leaf.shape), jnp.float32)
        for path, leaf in shapes.items() if is_lora(path)
    }  # fmt: skip
    write_adapter(tmp_path / "a", base, lora, own)
    file = tmp_path / "a" / WEIGHTS
    state = safetensors.numpy.load_file(file)
    start = "base_model.model."
    maps = ("attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h")
    for each in (*maps, "mlp.dense_4h_to_h"):
        assert state[f"{start}transformer.layers.1.{each}.lora_A.weight"].shape[0] == 3
    assert len(state) == 8 * base.config.layers
    config = json.loads((tmp_path / "a" / CONFIG).read_text())
    assert config["target_modules"] == [
        "dense", "dense_4h_to_h", "dense_h_to_4h", "query_key_value",
    ]  # fmt: skip
    renamed = {key.replace(start, start + prefix): array for key, array in state.items()}
    safetensors.numpy.save_file(renamed, file)
    if prefix and name != "glm_hf":
        with pytest.raises(InputError, match=r"unknown key 'base_model.model.glm.transformer"):
            read_adapter(tmp_path / "a", base)
        return
    again, params = read_adapter(tmp_path / "a", base)
    assert again.rank == 3 and params.keys() == own.keys()
    for path, array in own.items():
        np.testing.assert_array_equal(params[path], array)


def test_a_run_in_place_of_its_adapter(tmp_path, base):
    write_adapter(tmp_path / "adapter", base, *read_adapter(GOLDEN, base))
    with pytest.raises(InputError, match="a run's workdir; expected its adapter, .*/adapter"):
        read_adapter(tmp_path, base)
