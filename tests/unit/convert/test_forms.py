"""Meta's form and transformers' former Flax form: the published layouts, and what is refused."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import serialization

from recjax.convert import flax_files, llama_meta
from recjax.convert.language_model import language_model, read_language_model
from recjax.convert.writing import write_language_model
from recjax.errors import InputError
from recjax.models.llama import PRESETS, Config
from recjax.nn.positions import RopeScaling

DATA = Path(__file__).parents[2] / "data" / "llama"
PARAMS = {
    "dim": 64, "n_layers": 3, "n_heads": 4, "n_kv_heads": 2, "norm_eps": 1e-5, "vocab_size": -1,
    "multiple_of": 32,
}  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return read_language_model(DATA / "llama_gqa")


def meta(folder, parts=1, weights=None, axis=0, **values):
    """The fixture in Meta's layout, in model-parallel parts."""
    folder.mkdir()
    state = safetensors.numpy.load_file(DATA / "llama_gqa" / "meta_layout.safetensors")
    if weights is not None:
        weights(state)
    axes = {"wo": 1, "w2": 1, "tok_embeddings": axis}
    for part in range(parts):
        own = {
            key: np.split(a, parts, axes.get(key.split(".")[-2], 0))[part].copy()
            if a.ndim == 2
            else a
            for key, a in state.items()
        }
        safetensors.numpy.save_file(own, folder / f"consolidated.{part:02d}.safetensors")
    values = {key: value for key, value in (PARAMS | values).items() if value is not None}
    (folder / "params.json").write_text(json.dumps(values))
    return folder


def equal(a, b):
    assert a.params.keys() == b.params.keys()
    for path, value in a.params.items():
        np.testing.assert_array_equal(value, b.params[path])


@pytest.mark.parametrize(("parts", "axis"), [(1, 0), (2, 0), (2, 1)])
def test_metas_layout(tmp_path, model, parts, axis):
    """The same weights under Meta's names; LLaMA 3 splits the table by tokens, 2 by width."""
    found = read_language_model(meta(tmp_path / "in", parts, axis=axis))
    equal(found, model)
    assert found.config == dataclasses.replace(model.config, max_length=4096)
    io = np.load(DATA / "llama_gqa" / "io.npz")
    logits, _ = found.definition.merge(found.params)(jnp.asarray(io["full_input_ids"]))
    assert np.abs(logits - io["full_logits_meta_code"]).max() < 1e-4


def test_metas_layout_is_written(tmp_path, model):
    write_language_model(tmp_path / "out", model, form="meta")
    ours = safetensors.numpy.load_file(tmp_path / "out" / "consolidated.00.safetensors")
    theirs = safetensors.numpy.load_file(DATA / "llama_gqa" / "meta_layout.safetensors")
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        np.testing.assert_array_equal(ours[key], value)


def test_frequencies_and_a_head_that_is_the_embedding(tmp_path, model):
    def change(state):
        state["rope.freqs"] = np.ones(8, "float32")
        state["output.weight"] = state["tok_embeddings.weight"]

    found = read_language_model(meta(tmp_path / "in", weights=change))
    assert found.config.tied and "head/kernel" not in found.params


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"norm_eps": 1e-6}, {"norm_eps": 1e-6, "max_length": 2048}),
        ({}, {"max_length": 4096}),
        ({"rope_theta": 5e5}, {"rope_theta": 5e5, "max_length": 8192}),
        ({"max_seq_len": 99}, {"max_length": 99}),
        (
            {"rope_theta": 5e5, "use_scaled_rope": True},
            {"rope_scaling": RopeScaling(8.0, 1.0, 4.0, 8192), "max_length": 131072},
        ),
        (
            {"use_scaled_rope": True, "rope_scaling_factor": 16},
            {"rope_scaling": RopeScaling(16.0, 1.0, 4.0, 8192)},
        ),
    ],
)
def test_what_params_json_tells(tmp_path, values, expected):
    config = read_language_model(meta(tmp_path / "in", **values)).config
    assert {key: getattr(config, key) for key in expected} == expected


def test_the_small_models_of_llama_3_2_scale_by_32():
    values = {"dim": 2048, "n_layers": 16, "n_heads": 32, "norm_eps": 1e-5}
    config = llama_meta._config(values | {"use_scaled_rope": True}, 128256, 8192, True)
    assert config.rope_scaling == PRESETS["llama-3.2-1b"].rope_scaling


@pytest.mark.parametrize("name", [*PRESETS, "odd"])
def test_the_width_of_the_network_is_expressed(name):
    """By Meta's formula: int(2/3 * 4 dim), a factor, rounded up."""
    config = PRESETS.get(name) or Config(dim=100, mlp_dim=333)
    values = llama_meta._feed_forward(config)
    width = int(2 * 4 * config.dim / 3)
    if "ffn_dim_multiplier" in values:
        width = int(values["ffn_dim_multiplier"] * width)
    multiple = values["multiple_of"]
    assert multiple * ((width + multiple - 1) // multiple) == config.mlp_dim
    if name.startswith("llama"):
        assert multiple == 256


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dims": 3}, "params.json: unknown key 'dims'; did you mean 'dim'?"),
        ({"n_heads": None}, "params.json: lacks the key 'n_heads'"),
        ({"n_kv_heads": 3}, "params.json: 'n_heads': 4 is no multiple of kv_heads 3"),
        ({"n_layers": 2}, "unknown key 'layers.2."),
        ({"n_layers": 4}, "lacks the key 'layers.3.attention.wq.weight', expected with shape (64"),
        ({"n_kv_heads": 4}, "'layers.0.attention.wk.weight' has shape (32, 64), expected (64, 64)"),
        ({"weights": lambda s: s.pop("tok_embeddings.weight")}, "lacks the matrix 'tok_embeddings"),
        ({"weights": lambda s: s.pop("norm.weight")}, "lacks the key 'norm.weight', expected"),
    ],
)
def test_bad_metas(tmp_path, change, message):
    with pytest.raises(InputError) as error:
        read_language_model(meta(tmp_path / "in", **change))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_missing_part(tmp_path):
    """The shapes do not fit what is left."""
    folder = meta(tmp_path / "in", 2)
    (folder / "consolidated.01.safetensors").unlink()
    with pytest.raises(InputError, match="has shape"):
        read_language_model(folder)
    (folder / "consolidated.00.safetensors").unlink()
    with pytest.raises(InputError, match="params.json, but no consolidated.00.pth or .safetensor"):
        read_language_model(folder)


def test_parts_that_differ(tmp_path):
    folder = meta(tmp_path / "in", 2)
    file = folder / "consolidated.01.safetensors"
    state = safetensors.numpy.load_file(file)
    del state["layers.1.attention.wq.weight"]
    safetensors.numpy.save_file(state, file)
    with pytest.raises(InputError, match="'layers.1.attention.wq.weight' is in some parts of the"):
        read_language_model(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head_dim": 8, "heads": 8}, None),
        ({"head_dim": 32}, "Meta's form knows heads of dim / n_heads alone, not of 32"),
        ({"rope_scaling": RopeScaling(8.0, 1.0, 4.0, 64)}, "Meta's form knows LLaMA 3's RoPE scal"),
        ({"rope_scaling": RopeScaling(4.0, 1.0, 4.0, 8192)}, None),
    ],
)
def test_what_meta_cannot_express(tmp_path, changes, message):
    sizes = {"vocab_size": 8, "dim": 64, "mlp_dim": 8, "layers": 1, "head_dim": 16}
    config = Config(**(sizes | changes))
    shapes = language_model(config, {}).definition.shapes
    rng = np.random.default_rng(0)
    params = {path: jnp.asarray(rng.random(leaf.shape), "float32") for path, leaf in shapes.items()}
    new = language_model(config, params)
    if message is None:
        write_language_model(tmp_path / "out", new, form="meta")
        found = read_language_model(tmp_path / "out")
        assert found.config == config
        equal(found, new)
        return
    with pytest.raises(InputError, match=message):
        write_language_model(tmp_path / "out", new, form="meta")


def test_flax_files_are_those_of_transformers(tmp_path, model):
    """Byte by byte what FlaxLlamaForCausalLM of transformers 4.57.6 wrote of the same weights."""
    write_language_model(tmp_path / "out", model, form="flax")
    found = hashlib.sha256((tmp_path / "out" / flax_files.SINGLE).read_bytes()).hexdigest()
    assert found == "47ec6698b74c098103d2b5070633530b96acc61123a141e4ae15fbadea875a60"


def split_flax(folder, model):
    """Shards as transformers 4.57.6 writes them: flat dicts, and an index."""
    write_language_model(folder, model, form="flax")
    tensors = flax_files.read_folder(folder, tied=False, largest=1 << 30)
    (folder / flax_files.SINGLE).unlink()
    keys = sorted(tensors)
    where = {}
    for part, own in enumerate((keys[:9], keys[9:]), 1):
        name = f"flax_model-{part:05d}-of-00002.msgpack"
        flat = {key: tensors[key].read() for key in own}
        (folder / name).write_bytes(serialization.msgpack_serialize(flat))
        where |= dict.fromkeys(own, name)
    text = json.dumps({"metadata": {"total_size": 1}, "weight_map": where})
    (folder / flax_files.INDEX).write_text(text)
    return folder


def test_flax_shards(tmp_path, model):
    equal(read_language_model(split_flax(tmp_path / "in", model)), model)


def test_a_tied_flax_model_has_a_head_too(tmp_path):
    """For transformers' Flax model never tied it."""
    tied = read_language_model(DATA / "llama3_rope_tied")
    write_language_model(tmp_path / "out", tied, form="flax")
    file = tmp_path / "out" / flax_files.SINGLE
    tree = serialization.msgpack_restore(file.read_bytes())
    np.testing.assert_array_equal(
        tree["lm_head"]["kernel"], tree["model"]["embed_tokens"]["embedding"].T
    )
    equal(read_language_model(tmp_path / "out"), tied)
    del tree["lm_head"]
    file.write_bytes(serialization.msgpack_serialize(tree))
    equal(read_language_model(tmp_path / "out"), tied)
    tree["lm_head"] = {"kernel": np.ones((64, 160), "float32")}
    file.write_bytes(serialization.msgpack_serialize(tree))
    with pytest.raises(InputError, match="'lm_head/kernel' differs from 'model/embed_tokens/embe"):
        read_language_model(tmp_path / "out")


def cut(folder):
    file = folder / flax_files.SINGLE
    file.write_bytes(file.read_bytes()[:-50])


def text(folder):
    (folder / flax_files.SINGLE).write_bytes(serialization.msgpack_serialize({"a": "b"}))


def other(folder):
    (folder / flax_files.SINGLE).write_bytes(b"\x93\x01\x02\x03")


def unknown(folder):
    file = folder / flax_files.SINGLE
    tree = serialization.msgpack_restore(file.read_bytes())
    tree["model"]["norm"]["bias"] = np.ones(64, "float32")
    file.write_bytes(serialization.msgpack_serialize(tree))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (cut, "flax_model.msgpack: not a readable msgpack file ("),
        (other, "flax_model.msgpack: not a readable msgpack file ("),
        (text, "flax_model.msgpack: 'a' is a str, expected an array"),
        (unknown, "flax_model.msgpack: unknown key 'model/norm/bias'; did you mean 'model/norm/w"),
    ],
)
def test_bad_flax_files(tmp_path, model, change, message):
    write_language_model(tmp_path / "in", model, form="flax")
    change(tmp_path / "in")
    with pytest.raises(InputError) as error:
        read_language_model(tmp_path / "in")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_missing_flax_shard(tmp_path, model):
    folder = split_flax(tmp_path / "in", model)
    shutil.copytree(folder, tmp_path / "copy")
    (folder / "flax_model-00002-of-00002.msgpack").unlink()
    with pytest.raises(InputError, match="flax_model-00002-of-00002.msgpack: missing; flax_model."):
        read_language_model(folder)
    folder = tmp_path / "copy"
    index = json.loads((folder / flax_files.INDEX).read_text())
    del index["weight_map"]["lm_head/kernel"]
    (folder / flax_files.INDEX).write_text(json.dumps(index))
    with pytest.raises(InputError, match="'lm_head/kernel' is not in both the index and its file"):
        read_language_model(folder)
