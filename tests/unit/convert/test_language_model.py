"""Language models in every form, in and out."""

import contextlib
import dataclasses
import filecmp
import json
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from recjax import replace
from recjax.convert import language_model
from recjax.convert.forms import FORMS, family_of
from recjax.convert.language_model import read_language_model
from recjax.convert.tensors import INDEX, SINGLE
from recjax.convert.writing import write_language_model
from recjax.errors import InputError
from recjax.models.definition import params_of
from recjax.models.llama import PARAM_AXES, Config, Llama
from recjax.training.parallel import make_mesh, param_shardings

DATA = Path(__file__).parents[2] / "data" / "llama"
NAMES = ("llama_gqa", "llama3_rope_tied")
SHAPE = {"vocab_size": 96, "dim": 16, "mlp_dim": 24, "layers": 11, "heads": 4, "head_dim": 4}


def made(**changes):
    """A model of its own: eleven layers, grouped queries."""
    config = Config(**(SHAPE | {"kv_heads": 2, "norm_eps": 1e-6} | changes))
    params = params_of(Llama(config, rngs=nnx.Rngs(0)))
    return language_model.language_model(config, params)


def equal(a, b):
    assert a.config == b.config and a.params.keys() == b.params.keys()
    for path, value in a.params.items():
        assert value.dtype == b.params[path].dtype
        np.testing.assert_array_equal(value, b.params[path])


@pytest.mark.parametrize("name", NAMES)
def test_hugging_faces_files_return_byte_by_byte(tmp_path, name):
    model = read_language_model(DATA / name)
    write_language_model(tmp_path / "out", model)
    assert sorted(os.listdir(tmp_path / "out")) == [".recjax", "config.json", SINGLE]
    for file in ("config.json", SINGLE):
        assert filecmp.cmp(DATA / name / file, tmp_path / "out" / file, shallow=False)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tied", [False, True])
def test_every_form_returns(tmp_path, form, tied):
    model = made(tied=tied)
    write_language_model(tmp_path / "out", model, form=form)
    equal(model, read_language_model(tmp_path / "out"))
    assert (tmp_path / "out" / "config.json").exists() == (form != "meta")


@pytest.mark.parametrize("form", FORMS)
def test_types(tmp_path, form):
    write_language_model(tmp_path / "half", made(), form=form, dtype="bfloat16")
    half = read_language_model(tmp_path / "half")
    assert {str(a.dtype) for a in half.params.values()} == {"bfloat16"}
    for path, value in made().params.items():
        np.testing.assert_array_equal(half.params[path], value.astype("bfloat16"))
    full = read_language_model(tmp_path / "half", dtype=jnp.float32)
    assert {str(a.dtype) for a in full.params.values()} == {"float32"}


@pytest.mark.devices
@pytest.mark.parametrize("form", FORMS)
def test_on_a_mesh(tmp_path, form):
    write_language_model(tmp_path / "out", made(), form=form)
    mesh = make_mesh((2, 2, 2))
    found = read_language_model(
        tmp_path / "out",
        shardings=lambda shapes, axes: param_shardings(shapes, axes, mesh),
    )
    expected = param_shardings(made().params, PARAM_AXES, mesh)
    for path, value in found.params.items():
        assert value.sharding == expected[path]
        np.testing.assert_array_equal(value, made().params[path])
    # And written from there.
    write_language_model(tmp_path / "again", found, form=form)
    equal(made(), read_language_model(tmp_path / "again"))


def test_shards_are_written_and_read(tmp_path):
    write_language_model(tmp_path / "out", made(), shard_bytes=4000)
    assert (tmp_path / "out" / INDEX).exists() and not (tmp_path / "out" / SINGLE).exists()
    equal(made(), read_language_model(tmp_path / "out"))


def test_the_config_follows_the_model(tmp_path):
    """A file that is no longer true is written anew; what is not of the model stays."""
    source = tmp_path / "source"
    shutil.copytree(DATA / "llama3_rope_tied", source)
    model = read_language_model(source, remat="full")
    assert model.config.remat == "full"
    write_language_model(tmp_path / "same", model)
    assert filecmp.cmp(source / "config.json", tmp_path / "same" / "config.json", shallow=False)

    write_language_model(tmp_path / "half", model, dtype="float16")
    half = json.loads((tmp_path / "half" / "config.json").read_text())
    assert (half["torch_dtype"], half["bos_token_id"]) == ("float16", 1)

    config = dataclasses.replace(model.config, vocab_size=170)
    longer = jnp.pad(model.params["embedding"], ((0, 10), (0, 0)))
    grown = dataclasses.replace(model, config=config, params=model.params | {"embedding": longer})
    write_language_model(tmp_path / "grown", grown)
    again = read_language_model(tmp_path / "grown")
    assert (again.config, again.params["embedding"].shape) == (
        dataclasses.replace(config, remat="none"),
        (170, 64),
    )


def test_tokenizers_go_with_the_model(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(DATA / "llama_gqa", source)
    for name in ("tokenizer.model", "tokenizer_config.json", "generation_config.json", "notes.txt"):
        (source / name).write_text("{}" if name.endswith(".json") else name)
    for form in FORMS:
        write_language_model(tmp_path / form, read_language_model(source), form=form)
        assert (tmp_path / form / "tokenizer.model").read_text() == "tokenizer.model"
        assert (tmp_path / form / "generation_config.json").exists()
        assert not (tmp_path / form / "notes.txt").exists()


def test_old_folders_are_kept_or_replaced(tmp_path):
    model = made()
    write_language_model(tmp_path / "out", model)
    with pytest.raises(InputError, match="out exists already; --overwrite replaces it"):
        write_language_model(tmp_path / "out", model)
    write_language_model(tmp_path / "out", model, form="recjax", overwrite=True)
    assert sorted(os.listdir(tmp_path / "out")) == [".recjax", "config.json", "params"]
    assert os.listdir(tmp_path) == ["out"], "nothing is left beside it"


@pytest.mark.parametrize("form", FORMS)
def test_a_kill_leaves_the_old_or_the_new(tmp_path, form, monkeypatch):
    """Stopped at every rename, and before the first."""
    old, new = made(), made(norm_eps=1e-5)
    real = os.rename

    class Killed(BaseException):
        pass

    def dies_after(count):
        def rename(source, target):
            if Path(source).parent != tmp_path:  # Orbax has its own
                return real(source, target)
            if rename.left == 0:
                raise Killed
            rename.left -= 1
            return real(source, target)

        rename.left = count
        return rename

    outcomes = []
    for count in (0, 1, 2):
        place = tmp_path / f"{form}{count}"
        write_language_model(place, old, form=form)
        monkeypatch.setattr(replace.os, "rename", dies_after(count))
        # A kill also skips what `finally` would do.
        monkeypatch.setattr(replace.shutil, "rmtree", lambda *a, **k: None)
        with contextlib.suppress(Killed):
            write_language_model(place, new, form=form, overwrite=True)
        monkeypatch.undo()
        found = read_language_model(place)
        equal(found, old if found.config.norm_eps == 1e-6 else new)
        outcomes.append(found.config.norm_eps)
        write_language_model(place, new, form=form, overwrite=True)
        equal(read_language_model(place), new)
        assert [p for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    assert outcomes == [1e-6, 1e-6, 1e-5]


def test_an_error_leaves_nothing(tmp_path):
    model = made()
    huge = model.params | {"embedding": model.params["embedding"].at[0, 0].set(1e6)}
    with pytest.raises(InputError, match="beyond float16's range; use bfloat16"):
        write_language_model(
            tmp_path / "out", dataclasses.replace(model, params=huge), dtype="float16"
        )
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"model_type": "glm", "architectures": ["GlmForCausalLM"]}, "unknown key"),
        ({"model_type": "glm4"}, "unknown key"),
        ({"model_type": "chatglm"}, "unknown attribute 'max_position_embeddings'"),
        ({"model_type": "mistral"}, "model_type 'mistral'"),
        ({"model_type": "qwen2"}, "not implemented; expected one of llama"),
        ({"model_type": "LLAMA"}, "model_type 'LLAMA'"),
        ({"architectures": ["LlamaForCausalLM"]}, "model_type None, architectures ['LlamaFor"),
        ({"model_type": "llama", "architectures": ["GLMModel"]}, "architectures ['GLMModel']: exp"),
    ],
)
def test_other_architectures_are_never_read_as_llama(tmp_path, attributes, message):
    shutil.copytree(DATA / "llama_gqa", tmp_path / "in")
    sizes = json.loads((DATA / "llama_gqa" / "config.json").read_text())
    del sizes["model_type"], sizes["architectures"]
    (tmp_path / "in" / "config.json").write_text(json.dumps(sizes | attributes))
    with pytest.raises(InputError) as error:
        read_language_model(tmp_path / "in")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_the_family_is_named_by_the_file():
    assert family_of({"model_type": "llama"}, "f").name == "llama"


def truncate(folder):
    data = (folder / SINGLE).read_bytes()
    (folder / SINGLE).write_bytes(data[:-100])


def change_state(**changes):
    def change(folder):
        state = safetensors.numpy.load_file(folder / SINGLE) | changes
        state = {key: value for key, value in state.items() if value is not None}
        safetensors.numpy.save_file(state, folder / SINGLE)

    return change


def to_pickle(folder):
    (folder / SINGLE).rename(folder / "pytorch_model.bin")


def to_adapter(folder):
    (folder / SINGLE).unlink()
    (folder / "config.json").rename(folder / "adapter_config.json")


def empty(folder):
    for file in folder.iterdir():
        file.unlink()


NORM, HEAD = "model.norm.weight", "lm_head.weight"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (0, truncate, f"{SINGLE}: not a complete safetensors file, truncated or damaged ("),
        (0, to_pickle, "is not read; where torch is installed, scripts/torch_to_safetensors.py"),
        (0, empty, "in: no language model; expected config.json and one of params, model.safete"),
        (0, to_adapter, "in: an adapter of peft; expected the folder of its base model"),
        (0, lambda f: (f / SINGLE).unlink(), f"in: expected {SINGLE} or {INDEX}"),
        (0, lambda f: (f / "config.json").unlink(), "config.json: no such file"),
        (0, lambda f: (f / "config.json").write_text("{"), "config.json: not a readable JSON file"),
        (0, lambda f: (f / "config.json").write_text("[]"), "config.json: expected a JSON object"),
        (0, change_state(**{NORM: None}), "in: lacks the key 'model.norm.weight', expected with s"),
        (0, change_state(**{HEAD: None}), "in: lacks the key 'lm_head.weight', expected with shap"),
        (0, change_state(**{"model.norm.bias": np.zeros(64, "float32")}), "unknown key 'model.nor"),
        (0, change_state(**{NORM: np.zeros(65, "float32")}), "has shape (65,), expected (64,)"),
        (0, change_state(**{NORM: np.zeros(64, int)}), "'model.norm.weight' is I64, expected floa"),
        (0, change_state(**{NORM: np.full(64, np.nan, "float32")}), "holds NaN, expected finite"),
        (1, change_state(**{HEAD: np.zeros((160, 64), "float32")}), "'lm_head.weight' differs fr"),
    ],
)
def test_bad_folders(tmp_path, name, change, message):
    shutil.copytree(DATA / NAMES[name], tmp_path / "in")
    change(tmp_path / "in")
    with pytest.raises(InputError) as error:
        read_language_model(tmp_path / "in")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_bad_arguments(tmp_path):
    with pytest.raises(InputError, match="nowhere: no such folder; expected that of a language"):
        read_language_model(tmp_path / "nowhere")
    for wrong in ("int8", "float64", "four"):
        with pytest.raises(InputError, match=f"dtype {wrong}: expected one of float32, bfloat16"):
            read_language_model(DATA / "llama_gqa", dtype=wrong)
    with pytest.raises(InputError, match="form 'gguf': unknown; "):
        write_language_model(tmp_path / "out", made(), form="gguf")


def test_redundant_tensors_are_accepted(tmp_path):
    """Inverse frequencies of old conversions, in another type too; a tied model's head."""
    shutil.copytree(DATA / "llama3_rope_tied", tmp_path / "in")
    state = safetensors.numpy.load_file(tmp_path / "in" / SINGLE)
    state[HEAD] = state["model.embed_tokens.weight"]
    state["model.layers.1.self_attn.rotary_emb.inv_freq"] = np.ones(8, "float16")
    safetensors.numpy.save_file(state, tmp_path / "in" / SINGLE)
    equal(read_language_model(tmp_path / "in"), read_language_model(DATA / "llama3_rope_tied"))


def test_a_damaged_orbax_checkpoint(tmp_path):
    write_language_model(tmp_path / "out", made(), form="recjax")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    for change, message in [
        ({"num_hidden_layers": 12}, "key/kernel' has shape (11, 16, 8), expected (12, 16, 8)"),
        ({"tie_word_embeddings": True}, "unknown key 'head/kernel'; "),
    ]:
        (tmp_path / "out" / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(InputError) as error:
            read_language_model(tmp_path / "out")
        assert message in str(error.value) and "out/params: " in str(error.value)
    (tmp_path / "out" / "config.json").write_text(json.dumps(config))
    (tmp_path / "out" / "params" / "_METADATA").unlink()
    with pytest.raises(InputError, match="out/params: not a complete Orbax checkpoint"):
        read_language_model(tmp_path / "out")


def test_loading_makes_no_second_copy(tmp_path):
    """On a CPU the parameters are the buffers that the files were read into."""
    write_language_model(tmp_path / "out", made(), dtype="bfloat16")
    found = read_language_model(tmp_path / "out")
    assert all(a.unsafe_buffer_pointer() % 64 == 0 for a in found.params.values())
    assert found.params["embedding"].devices() == {jax.devices()[0]}
    assert found.params["embedding"].dtype == ml_dtypes.bfloat16
