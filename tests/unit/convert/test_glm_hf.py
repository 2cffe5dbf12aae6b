"""GLM's published form: every attribute and every key accounted for, both ways."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from recjax.convert.glm_hf import read_config, write_config
from recjax.convert.language_model import read_language_model
from recjax.convert.writing import write_language_model
from recjax.errors import InputError
from recjax.models.glm import PRESETS

FOLDER = Path(__file__).parents[2] / "data" / "glm" / "glm_hf"


def test_in_and_out_again(tmp_path):
    """The same tensors and the same config.json; the classes' prefix is no obstacle."""
    theirs = load_file(FOLDER / "model.safetensors")
    (tmp_path / "in").mkdir()
    shutil.copy(FOLDER / "config.json", tmp_path / "in")
    prefixed = {f"glm.{key}": array for key, array in theirs.items()}
    save_file(prefixed, tmp_path / "in" / "model.safetensors")
    model = read_language_model(tmp_path / "in")
    assert (model.config.start_id, model.config.blank_ids) == (121, (124, 125, 126))
    out = write_language_model(tmp_path / "out", model)
    ours = load_file(out / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[key], array) for key, array in theirs.items())
    again = read_language_model(out)
    assert again.config == model.config


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_written_and_read(name):
    config = PRESETS[name]
    assert read_config(write_config(config, "float16"), "config.json") == config


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"relative_encoding": True}, "'relative_encoding' is True; only False is implemented"),
        ({"block_position_encoding": False}, "only True is implemented for GLM"),
        ({"num_heads": 3}, "unknown attribute 'num_heads': 3; did you mean"),
        ({"num_attention_heads": 5}, "'num_attention_heads' 5 does not divide 'hidden_size' 64"),
        ({"hidden_act": "relu"}, "'hidden_act' is 'relu'; expected one of gelu, "),
        ({"special_token_ids": [1]}, "'special_token_ids' is [1], expected names with their ids"),
        ({"special_token_ids": {"sop": 1 << 20}}, "gives sop the id 1048576, expected one below"),
        ({"special_token_ids": {"MASK": -1}}, "gives MASK the id -1, expected one below"),
        ({"architectures": ["GlmForCausalLM"]}, "no GLM of Du et al. 2022"),
    ],
)
def test_other_attributes_are_refused(attributes, message):
    given = json.loads((FOLDER / "config.json").read_text()) | attributes
    with pytest.raises(InputError) as error:
        read_config(given, "config.json")
    assert message in str(error.value) and str(error.value).startswith("config.json: ")
