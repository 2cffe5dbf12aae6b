"""ChatGLM's published form: every attribute and every key accounted for, both ways."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from recjax.convert.chatglm_hf import DERIVED, HEAD, read_config, write_config
from recjax.convert.language_model import read_language_model
from recjax.convert.writing import write_language_model
from recjax.errors import InputError
from recjax.models.chatglm import PRESETS

DATA = Path(__file__).parents[2] / "data" / "glm"
FOLDER = DATA / "chatglm_v1"


def folder_of(place, tensors, config=FOLDER, **attributes):
    place.mkdir()
    given = json.loads((config / "config.json").read_text()) | attributes
    (place / "config.json").write_text(json.dumps(given))
    save_file(tensors, place / "model.safetensors")
    return place


def test_in_and_out_again(tmp_path):
    """The same bytes of each tensor, types too (norms are wider in the published files)."""
    theirs = {
        key: array if "norm" in key or DERIVED.fullmatch(key) else array.astype(np.float16)
        for key, array in load_file(FOLDER / "model.safetensors").items()
    }
    model = read_language_model(folder_of(tmp_path / "in", theirs))
    assert (model.config.start_id, model.config.blank_ids) == (154, (151, 150))
    out = write_language_model(tmp_path / "out", model)
    ours = load_file(out / "model.safetensors")
    kept = {key for key in theirs if not DERIVED.fullmatch(key)}
    assert ours.keys() == kept and len(kept) == len(theirs) - model.config.layers
    for key, array in ours.items():
        assert array.dtype == theirs[key].dtype
        np.testing.assert_array_equal(array, theirs[key])
    assert read_language_model(out).config == model.config


def test_config_file_stays(tmp_path):
    out = write_language_model(tmp_path / "out", read_language_model(FOLDER))
    assert (out / "config.json").read_bytes() == (FOLDER / "config.json").read_bytes()


def test_a_missing_head_is_the_embedding(tmp_path):
    """Files of a tied model lack it; a tied model with another head is refused."""
    theirs = load_file(FOLDER / "model.safetensors")
    with pytest.raises(InputError, match=f"'{HEAD}' differs from 'transformer.word_embeddings"):
        read_language_model(folder_of(tmp_path / "two", theirs, tie_word_embeddings=True))
    del theirs[HEAD]
    model = read_language_model(folder_of(tmp_path / "none", theirs))
    np.testing.assert_array_equal(model.params["head/kernel"].T, model.params["embedding"])
    tied = read_language_model(folder_of(tmp_path / "tied", theirs, tie_word_embeddings=True))
    assert tied.config.tied and "head/kernel" not in tied.params


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_written_and_read(name):
    """With its ids in the file, and without them: both published vocabularies."""
    config = PRESETS[name]
    attributes = write_config(config, "float16")
    assert read_config(attributes, "config.json") == config
    for key in ("bos_token_id", "gmask_token_id", "mask_token_id"):
        del attributes[key]
    assert read_config(attributes, "config.json") == config


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"padded_vocab_size": 65024}, "'padded_vocab_size': a ChatGLM2, ChatGLM3 or GLM-4"),
        ({"multi_query_attention": True}, "only the first ChatGLM-6B is implemented"),
        ({"architectures": ["GLMModel"]}, "architectures ['GLMModel']: no ChatGLM"),
        ({"quantization_bit": 4}, "'quantization_bit' is 4; only 0 is implemented for ChatGLM"),
        ({"pre_seq_len": 128}, "'pre_seq_len' is 128; only None is implemented"),
        ({"position_encoding_2d": False}, "only True is implemented for ChatGLM"),
        ({"num_attention_heads": 5}, "'num_attention_heads' 5 does not divide 'hidden_size' 64"),
        ({"gmask_token_id": 150001}, "'gmask_token_id' is 150001, expected an id below 'vocab_"),
        ({"inner_hidden_size": None}, "lacks the attribute 'inner_hidden_size'"),
        ({"inner_size": 256}, "unknown attribute 'inner_size': 256; did you mean"),
        ({"tie_word_embeddings": 1}, "'tie_word_embeddings' is 1, expected true or false"),
    ],
)
def test_other_attributes_are_refused(attributes, message):
    given = json.loads((FOLDER / "config.json").read_text()) | attributes
    with pytest.raises(InputError) as error:
        read_config(given, "config.json")
    assert message in str(error.value) and str(error.value).startswith("config.json: ")


def test_tensors_of_another_model_are_refused_by_name(tmp_path):
    """GLM's files beside ChatGLM's config.json, the reverse, and ChatGLM2's."""
    (tmp_path / "glm").mkdir()
    shutil.copy(FOLDER / "config.json", tmp_path / "glm")
    shutil.copy(DATA / "glm_hf" / "model.safetensors", tmp_path / "glm")
    with pytest.raises(InputError, match="is of a GLM, but config.json tells the first ChatGLM"):
        read_language_model(tmp_path / "glm")
    theirs = load_file(FOLDER / "model.safetensors")
    with pytest.raises(InputError, match="tensors of a ChatGLM, but config.json has model_type"):
        read_language_model(folder_of(tmp_path / "chat", theirs, DATA / "glm_hf"))
    theirs = {"transformer.encoder.final_layernorm.weight": np.ones(64, np.float32)}
    with pytest.raises(InputError, match="is of a ChatGLM2, ChatGLM3 or GLM-4, but config"):
        read_language_model(folder_of(tmp_path / "second", theirs))
