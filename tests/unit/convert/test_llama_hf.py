"""config.json <-> Config: every attribute is accounted for."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from recjax.convert.causal_hf import EMBEDDING, HEAD
from recjax.convert.llama_hf import read_config, tidy, write_config
from recjax.convert.tensors import tensor_of
from recjax.errors import InputError
from recjax.models.llama import PRESETS, Config
from recjax.nn.positions import RopeScaling

DATA = Path(__file__).parents[2] / "data" / "llama"
SCALING = RopeScaling(4.0, 1.0, 4.0, 64)


def attributes(name="llama_gqa", **changes):
    found = json.loads((DATA / name / "config.json").read_text()) | changes
    return {key: value for key, value in found.items() if value is not ...}


def test_the_fixtures():
    assert read_config(attributes(), "f") == Config(
        vocab_size=128, dim=64, mlp_dim=160, layers=3, heads=4, kv_heads=2, head_dim=16,
        max_length=128,
    )  # fmt: skip
    scaled = read_config(attributes("llama3_rope_tied"), "f")
    assert (scaled.tied, scaled.rope_theta, scaled.rope_scaling) == (True, 5e5, SCALING)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("config", [Config(), None])
def test_both_ways(name, config):
    config = config or dataclasses.replace(PRESETS[name], init_std=0.1)
    written = write_config(config, "bfloat16")
    assert read_config(json.loads(json.dumps(written)), "f") == config
    assert written["torch_dtype"] == "bfloat16"


def test_every_field_is_written():
    """But for those of training, which no file tells."""
    ours = {f.name for f in dataclasses.fields(Config)} - {"remat", "unroll"}
    base = PRESETS["llama-3.2-1b"]
    for name in ours:
        value = getattr(base, name)
        kinds = {bool: lambda value=value: not value, RopeScaling: lambda: SCALING}
        other = kinds.get(type(value), lambda value=value: value * 2)()
        changed = dataclasses.replace(base, **{name: other})
        assert read_config(write_config(changed, "float32"), "f") == changed != base


ROPE5 = {"rope_theta": 5e5, "rope_type": "llama3", **dataclasses.asdict(SCALING)}


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_theta": ..., "rope_scaling": ..., "rope_parameters": ROPE5},
        {"rope_theta": ..., "rope_scaling": None, "rope_parameters": ROPE5},
        {"rope_scaling": {"type": "llama3", **dataclasses.asdict(SCALING)}},
        {"rope_theta": 1e4, "rope_scaling": ROPE5},
        {"rope_parameters": ROPE5},
        {"rope_theta": 500000},
    ],
)
def test_scaling_in_every_form(changes):
    config = read_config(attributes("llama3_rope_tied", **changes), "f")
    assert (config.rope_theta, config.rope_scaling) == (5e5, SCALING)


@pytest.mark.parametrize(
    ("changes", "theta"),
    [
        ({"rope_theta": ...}, 1e4),
        ({"rope_theta": ..., "rope_parameters": {"rope_theta": 7, "rope_type": "default"}}, 7.0),
        ({"rope_parameters": {"rope_type": "default"}, "rope_theta": 8.0}, 8.0),
    ],
)
def test_theta_in_every_form(changes, theta):
    config = read_config(attributes(**changes), "f")
    assert (config.rope_theta, config.rope_scaling) == (theta, None)


def test_what_may_be_absent():
    sizes = (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
        "num_attention_heads", "model_type",
    )  # fmt: skip
    config = read_config({key: attributes()[key] for key in sizes}, "f")
    assert (config.kv_heads, config.head_dim, config.norm_eps) == (4, 16, 1e-6)
    assert (config.max_length, config.init_std, config.tied) == (2048, 0.02, False)


def test_harmless_attributes():
    extra = {"pretraining_tp": 4, "use_cache": False, "temperature": 0.6, "dtype": "bfloat16"}
    assert read_config(attributes(**extra), "f") == read_config(attributes(), "f")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_sizes": 3}, "unknown attribute 'hidden_sizes': 3; did you mean 'hidden_size'?"),
        ({"sliding_window": 4096}, "'sliding_window' is 4096; only None is impl"),
        ({"attention_bias": True}, "'attention_bias' is True; only False is implemented"),
        ({"mlp_bias": True}, "'mlp_bias' is True; only False"),
        ({"hidden_act": "gelu"}, "'hidden_act' is 'gelu'; only 'silu' is implemented"),
        ({"attention_dropout": 0.1}, "'attention_dropout' is 0.1; only 0.0"),
        ({"auto_map": {"AutoModel": "m.M"}}, "'auto_map' is {'AutoModel': 'm.M'}; only None"),
        ({"quantization_config": {"bits": 4}}, "'quantization_config' is {'bits': 4}; only None"),
        ({"hidden_size": ...}, "lacks the attribute 'hidden_size'"),
        ({"vocab_size": None}, "lacks the attribute 'vocab_size'"),
        ({"vocab_size": "128"}, "'vocab_size' is '128', expected a positive int"),
        ({"num_hidden_layers": 0}, "'num_hidden_layers' is 0, expected a positive int"),
        ({"num_attention_heads": True}, "'num_attention_heads' is True, expected a positive int"),
        ({"rms_norm_eps": "small"}, "'rms_norm_eps' is 'small', expected a positive float"),
        ({"tie_word_embeddings": 1}, "'tie_word_embeddings' is 1, expected true or false"),
        ({"num_key_value_heads": 3}, "'num_attention_heads': 4 is no multiple of kv_heads 3"),
        ({"head_dim": 15}, "'head_dim': 15: rotary embeddings need pairs"),
        ({"head_dim": ..., "num_attention_heads": 6}, "'num_attention_heads' 6 does not divide"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling: rope_type 'linear'"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope_type 'yarn'; only default and llama3"),
        ({"rope_scaling": {"type": "dynamic"}}, "rope_type 'dynamic'"),
        ({"rope_scaling": 2.0}, "'rope_scaling' is 2.0, expected an object or null"),
        ({"rope_parameters": ROPE5 | {"factors": 1}}, "unknown key 'factors'; did you mean 'fact"),
        ({"rope_parameters": ROPE5 | {"factor": None}}, "rope_parameters: lacks the key 'factor'"),
        ({"rope_parameters": ROPE5 | {"low_freq_factor": 4.0}}, "low_freq_factor below high_freq"),
        ({"rope_parameters": ROPE5 | {"rope_theta": -1}}, "'rope_theta' is -1, expected a positiv"),
        (
            {"rope_parameters": ROPE5, "rope_scaling": ROPE5 | {"factor": 8.0}},
            "'rope_scaling' and 'rope_parameters' differ",
        ),
        (  # transformers 5 takes rope_scaling and a theta beside it, here 10,000
            {"rope_parameters": {"rope_theta": 7.0}, "rope_scaling": {"rope_type": "default"}},
            "'rope_scaling' and 'rope_parameters' differ",
        ),
        ({"model_type": "glm"}, "model_type 'glm', expected 'llama'"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "architectures ['LlamaForSequenc"),
    ],
)
def test_what_is_refused(changes, message):
    with pytest.raises(InputError) as error:
        read_config(attributes(**changes), "config.json")
    text = str(error.value)
    assert text.startswith("config.json: ") and message in text and "\n" not in text


def test_a_base_keeps_what_is_not_the_models():
    base = attributes("llama3_rope_tied", eos_token_id=[7, 8], transformers_version="4.57.1")
    config = dataclasses.replace(read_config(base, "f"), vocab_size=200)
    written = write_config(config, "float16", base)
    assert read_config(written, "f") == config
    assert (written["eos_token_id"], written["torch_dtype"]) == ([7, 8], "float16")
    written = write_config(config, "float16", base | {"dtype": "float32"})
    assert written["dtype"] == "float16"


def test_what_follows_from_the_rest_is_left_out():
    table = np.arange(6.0).reshape(3, 2)
    frequencies = "model.layers.11.self_attn.rotary_emb.inv_freq"
    config = Config(tied=True)

    def state(head):
        found = {EMBEDDING: table, HEAD: head, frequencies: table}
        return {key: tensor_of(value, "file") for key, value in found.items()}

    assert set(tidy(state(table.copy()), config)) == {EMBEDDING}
    assert set(tidy(state(table), Config(tied=False))) == {EMBEDDING, HEAD}
    with pytest.raises(InputError, match="file: 'lm_head.weight' differs from 'model.embed_tok"):
        tidy(state(table + 1), config)
