"""Adapters of peft: the golden one computes what peft computed, others return or are refused."""

import dataclasses
import json
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
from recjax.errors import InputError
from recjax.nn.lora import LoRAConfig
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
    with pytest.raises(InputError, match="out: not empty; choose another folder, or --overwrite"):
        write_adapter(tmp_path / "out", base, lora, params)
    with pytest.raises(InputError, match="no parameters of an adapter"):
        write_adapter(tmp_path / "none", base, lora, base.params)


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
        ({"use_rslora": True}, "'use_rslora' is True; only False is implemented"),
        ({"use_dora": True}, "'use_dora' is True; only False"),
        ({"bias": "lora_only"}, "'bias' is 'lora_only'; only 'none'"),
        ({"modules_to_save": ["lm_head"]}, "'modules_to_save' is ['lm_head']; only None"),
        ({"layers_to_transform": [0, 1]}, "'layers_to_transform' is [0, 1]; only None"),
        ({"alpha_pattern": {"q_proj": 3}}, "'alpha_pattern' is {'q_proj': 3}; only {}"),
        ({"init_lora_weights": "pissa"}, "'init_lora_weights' is 'pissa'; only True"),
        ({"peft_type": "IA3"}, "'peft_type' is 'IA3'; only 'LORA'"),
        ({"lora_alphas": 2}, "unknown key 'lora_alphas': 2; did you mean 'lora_alpha'?"),
        ({"r": ...}, "lacks the key 'r'"),
        ({"r": 0}, "rank 0: expected at least 1"),
        ({"r": "4"}, "expected numbers for r, lora_alpha and lora_dropout"),
        ({"r": 8}, "lora_A.weight' has shape (4, 64), expected (8, 64)"),
        ({"target_modules": 3}, "'target_modules' is 3, expected names or a regex"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "'embed_tokens' is no linear map of this"),
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
