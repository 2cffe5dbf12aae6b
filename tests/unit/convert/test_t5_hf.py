"""T5's form: attributes and tensors accounted for, both ways."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from recjax.convert.language_model import read_language_model
from recjax.convert.t5_hf import read_config, write_config
from recjax.convert.writing import write_language_model
from recjax.errors import InputError
from recjax.models.t5 import PRESETS

DATA = Path(__file__).parents[2] / "data" / "t5"


def attributes(name):
    return json.loads((DATA / name / "config.json").read_text())


@pytest.mark.parametrize("name", ["v10", "v11"])
def test_in_and_out_again(name, tmp_path):
    """The same bytes; written anew, the config says the same."""
    model = read_language_model(DATA / name)
    assert model.config.tied == (name == "v10") and model.config.gated == (name == "v11")
    out = write_language_model(tmp_path / "out", model)
    for file in ("config.json", "model.safetensors"):
        assert (out / file).read_bytes() == (DATA / name / file).read_bytes()
    assert read_config(write_config(model.config, "float32"), "new") == model.config


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_written_and_read(name):
    assert read_config(write_config(PRESETS[name], "float32"), "c") == PRESETS[name]


def test_copies_of_the_embedding(tmp_path):
    """As older files have them; one that differs is refused; a missing head is the embedding."""
    state = load_file(DATA / "v10" / "model.safetensors")
    shutil.copy(DATA / "v10" / "config.json", tmp_path)
    table = state["shared.weight"]
    names = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")
    unused = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    copies = dict.fromkeys(names, table) | {unused: np.ones((16, 4), np.float32)}
    file = tmp_path / "model.safetensors"
    save_file(state | {key: a.copy() for key, a in copies.items()}, file)
    np.testing.assert_array_equal(read_language_model(tmp_path).params["embedding"], table)
    save_file(state | {"lm_head.weight": table + 1}, file)
    with pytest.raises(InputError, match="'lm_head.weight' differs from 'shared.weight'"):
        read_language_model(tmp_path)
    state = load_file(DATA / "v11" / "model.safetensors")
    shutil.copy(DATA / "v11" / "config.json", tmp_path)
    del state["lm_head.weight"]
    save_file(state, file)
    model = read_language_model(tmp_path)
    np.testing.assert_array_equal(model.params["head/kernel"].T, model.params["embedding"])


def test_the_words_of_p5(tmp_path):
    state = load_file(DATA / "v10" / "model.safetensors")
    words = np.random.default_rng(0).normal(size=(512, 24)).astype(np.float32)
    save_file(
        state | {"encoder.whole_word_embeddings.weight": words}, tmp_path / "model.safetensors"
    )
    given = attributes("v10") | {"whole_word_embeddings": 512}
    (tmp_path / "config.json").write_text(json.dumps(given))
    model = read_language_model(tmp_path)
    np.testing.assert_array_equal(model.params["whole_word"], words)
    out = write_language_model(tmp_path / "out", model)
    assert read_language_model(out).config == model.config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feed_forward_proj": "gated-silu"}, "'feed_forward_proj' is 'gated-silu'; expected relu"),
        ({"is_encoder_decoder": False}, "only True is implemented for T5"),
        ({"num_layer": 3}, "unknown attribute 'num_layer': 3; did you mean"),
        ({"architectures": ["T5EncoderModel"]}, "expected ['T5ForConditionalGeneration'], of mod"),
        ({"whole_word_embeddings": "yes"}, "'whole_word_embeddings' is 'yes', expected the rows"),
        ({"tie_word_embeddings": 1.5}, "'tie_word_embeddings' is 1.5, expected true or false"),
        ({"scale_decoder_outputs": None}, "'scale_decoder_outputs' is None, expected true or "),
        ({"tie_word_embeddings": False, "scale_decoder_outputs": True}, "one of them is wrong"),
        ({"dense_act_fn": "gelu"}, "'dense_act_fn' is 'gelu', but 'feed_forward_proj' is relu"),
        ({"is_gated_act": True}, "'is_gated_act' is True, but 'feed_forward_proj' is relu"),
        ({"decoder_start_token_id": 5}, "'decoder_start_token_id' is 5; only 0 is implemented"),
        ({"relative_attention_num_buckets": 6}, "'relative_attention_num_buckets': 6: expected a "),
        ({"d_ff": None}, "lacks the attribute 'd_ff'"),
    ],
)
def test_other_attributes_are_refused(changes, message):
    with pytest.raises(InputError) as error:
        read_config(attributes("v10") | changes, "config.json")
    assert message in str(error.value) and str(error.value).startswith("config.json: ")
