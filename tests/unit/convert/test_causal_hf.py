"""Qwen3, GLM-4, GPT-2: attributes and tensors accounted for, both ways; other GLMs refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from recjax.convert import glm4_hf, gpt2_hf, qwen3_hf
from recjax.convert.causal_hf import read_rope
from recjax.convert.forms import read_config
from recjax.convert.language_model import read_language_model
from recjax.convert.writing import write_language_model
from recjax.errors import InputError
from recjax.models import glm4, gpt2, qwen3

DATA = Path(__file__).parents[2] / "data"
NAMES = sorted(path.name for path in (DATA / "families").iterdir())


def attributes(name):
    return json.loads((DATA / "families" / name / "config.json").read_text())


@pytest.mark.parametrize("name", NAMES)
def test_in_and_out_again(name, tmp_path):
    """The same bytes of weights and config; written anew, the config says the same."""
    folder = DATA / "families" / name
    model = read_language_model(folder)
    out = write_language_model(tmp_path / "out", model)
    for file in ("config.json", "model.safetensors"):
        assert (out / file).read_bytes() == (folder / file).read_bytes()
    hf = model.family.hf
    assert hf.read_config(hf.write_config(model.config, "float32"), "new") == model.config


@pytest.mark.parametrize("module", [qwen3, glm4, gpt2], ids=lambda m: m.__name__)
def test_every_preset_is_written_and_read(module):
    form = {qwen3: qwen3_hf, glm4: glm4_hf, gpt2: gpt2_hf}[module]
    for config in module.PRESETS.values():
        assert form.read_config(form.write_config(config, "bfloat16"), "config.json") == config


WINDOW = {"layer_types": None, "use_sliding_window": True, "sliding_window": 16}


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("qwen3", {"qk_norm": True}, "unknown attribute 'qk_norm': True"),
        ("qwen3", {**WINDOW, "max_window_layers": 1}, "layers from 1 on have a window; only full"),
        ("qwen3", {"layer_types": ["full_attention", "sliding_attention"]}, "'sliding_attention';"),
        ("qwen3", {"layer_types": ["full_attention"]}, "expected a list of 2 names"),
        ("qwen3", {"use_sliding_window": "no"}, "'use_sliding_window' is 'no', expected true or"),
        ("qwen3", {"sliding_window": -1}, "'sliding_window' is -1, expected a whole number"),
        ("qwen3", {"hidden_act": "gelu"}, "only 'silu' is implemented for Qwen3"),
        ("qwen3", {"partial_rotary_factor": 0.5}, "'partial_rotary_factor' is 0.5; only 1.0"),
        ("qwen3", {"rope_parameters": {"rope_type": "yarn"}}, "rope_type 'yarn'"),
        ("qwen3", {"architectures": ["Qwen3Model"]}, "expected ['Qwen3ForCausalLM'], of model_typ"),
        ("qwen3", {"model_type": "qwen3_moe"}, "model_type 'qwen3_moe', architectures"),
        ("glm", {"mlp_bias": True}, "'mlp_bias' is True; only False is implemented for GLM-4"),
        ("glm", {"rope_parameters": {"partial_rotary_factor": 1.5}}, "'partial_rotary_factor' is"),
        ("glm", {"rope_parameters": {"partial_rotary_factor": 0.4}}, "even part of 'head_dim' 8"),
        ("glm", {"architectures": ["Glm4ForCausalLM"]}, "expected ['GlmForCausalLM'], of model_t"),
        ("gpt2", {"scale_attn_weights": False}, "'scale_attn_weights' is False; only True is imp"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "only False is implemented for GPT-2"),
        ("gpt2", {"activation_function": "relu"}, "'activation_function' is 'relu'; expected one "),
        ("gpt2", {"n_head": 5}, "'n_head' 5 does not divide 'n_embd' 24"),
        ("gpt2", {"n_layers": 2}, "unknown attribute 'n_layers': 2; did you mean"),
        ("glm4", {"model_type": "glm4_moe"}, "model_type 'glm4_moe', architectures"),
        ("glm4", {"num_attention_heads": 3}, "'num_attention_heads': 3 is no multiple of kv_head"),
    ],
)  # fmt: skip
def test_other_attributes_are_refused(name, changes, message, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(attributes(name) | changes))
    with pytest.raises(InputError) as error:
        read_config(tmp_path)
    assert message in str(error.value) and "config.json: " in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"use_sliding_window": False, "sliding_window": 16, "max_window_layers": 0},
        {**WINDOW, "max_window_layers": 2},
        {**WINDOW, "sliding_window": None, "max_window_layers": 0},
    ],
)
def test_a_window_that_no_layer_has_changes_nothing(changes, tmp_path):
    given = attributes("qwen3")
    (tmp_path / "config.json").write_text(json.dumps(given | changes))
    assert read_config(tmp_path)[1] == qwen3_hf.read_config(given, "config.json")


def test_a_public_config_of_transformers_4():
    """THUDM/glm-4-9b-hf's, whose rotated share is the class's default."""
    given = {
        "architectures": ["GlmForCausalLM"], "attention_bias": True, "attention_dropout": 0.0,
        "eos_token_id": [151329, 151336, 151338], "head_dim": 128, "hidden_act": "silu",
        "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 13696,
        "max_position_embeddings": 8192, "model_type": "glm", "num_attention_heads": 32,
        "num_hidden_layers": 40, "num_key_value_heads": 2, "pad_token_id": 151329,
        "rms_norm_eps": 1.5625e-07, "rope_theta": 10000.0, "tie_word_embeddings": False,
        "torch_dtype": "bfloat16", "transformers_version": "4.47.0", "use_cache": True,
        "vocab_size": 151552,
    }  # fmt: skip
    assert glm4_hf.read_config(given, "config.json") == glm4.PRESETS["glm-4-9b"]


@pytest.mark.parametrize("more", ["distilgpt2", "gpt2-medium", "gpt2-xl"])
def test_what_published_gpt2_files_have_beside(more):
    """Attributes that some of the five files have, and that say nothing of the model."""
    beside = {"distilgpt2": "_num_labels", "gpt2-medium": "n_special", "gpt2-xl": "output_past"}
    preset = gpt2.PRESETS[more]
    given = gpt2_hf.write_config(preset, "float32") | {"n_ctx": 1024, beside[more]: 1}
    assert gpt2_hf.read_config(given, "config.json") == preset


FOREIGN = {
    "a GLM of 2022": ("glm/glm_hf", "families/glm", "is of a GLM-4, but config.json tells the G"),
    "a GLM-4": ("families/glm", "glm/glm_hf", "is of a GLM of 2022 or of a ChatGLM, but config"),
    "a GLM-4 of April": ("families/glm4", "families/glm", "lacks the key 'model.layers.0.post_"),
    "its elder": ("families/glm", "families/glm4", "unknown key 'model.layers.0.post_mlp_layern"),
}


@pytest.mark.parametrize("which", FOREIGN)
def test_tensors_of_the_other_model_are_refused(which, tmp_path):
    config, weights, message = FOREIGN[which]
    shutil.copy(DATA / config / "config.json", tmp_path)
    state = load_file(DATA / weights / "model.safetensors")
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(InputError) as error:
        read_language_model(tmp_path)
    assert message in str(error.value) and str(error.value).startswith(str(tmp_path))


def test_head_dim_and_heads_without_a_word(tmp_path):
    """transformers' defaults, where a file leaves attributes out."""
    given = {k: v for k, v in attributes("qwen3").items() if k != "head_dim"}
    assert qwen3_hf.read_config(given, "c").head_dim == 128
    assert qwen3_hf.read_config(given | {"num_key_value_heads": None}, "c").kv_heads == 4
    given = {k: v for k, v in attributes("glm").items() if k != "num_key_value_heads"}
    config = glm4_hf.read_config(given, "c")
    assert config.kv_heads == 2 and np.isclose(config.rotary_share, 0.5)


def test_the_published_names_of_gpt2(tmp_path):
    """Without the prefix, and with the masks of attention."""
    folder = DATA / "families" / "gpt2"
    state = load_file(folder / "model.safetensors")
    bare = {key.removeprefix("transformer."): array for key, array in state.items()}
    masks = {f"h.{n}.attn.bias": np.tril(np.ones((1, 1, 8, 8), np.float32)) for n in range(2)}
    save_file(bare | masks, tmp_path / "model.safetensors")
    shutil.copy(folder / "config.json", tmp_path)
    model, expected = read_language_model(tmp_path), read_language_model(folder)
    for path, array in expected.params.items():
        np.testing.assert_array_equal(model.params[path], array)
    with pytest.raises(InputError, match="'lm_head.weight' differs from 'transformer.wte.weight'"):
        save_file(bare | {"lm_head.weight": bare["wte.weight"] + 1}, tmp_path / "model.safetensors")
        read_language_model(tmp_path)


def test_an_inner_base_of_rotary_embeddings_comes_before_an_outer_one():
    """As transformers 5 reads a file that has both; without an inner one the outer counts."""
    inner = {"rope_type": "default", "rope_theta": 20000.0}
    assert read_rope({"rope_theta": 5.0, "rope_parameters": inner}, "c").theta == 20000.0
    assert read_rope({"rope_theta": 5.0, "rope_parameters": {"type": "default"}}, "c").theta == 5.0
