"""Folders of others: whatever they hold ends in one line that names the file and the key.

Nothing here is large: what a file declares is refused before it is believed.
"""

import json
import shutil
import struct
import zipfile
from pathlib import Path

import msgpack
import numpy as np
import pytest
import safetensors.numpy

from recjax.cli import main
from recjax.convert import llama_hf
from recjax.convert.files import read_state
from recjax.convert.language_model import language_model, read_language_model
from recjax.convert.llama_hf import read_config
from recjax.convert.writing import write_language_model
from recjax.errors import InputError
from recjax.training.plan import find_config

GQA = Path(__file__).parents[2] / "data" / "llama" / "llama_gqa"
ATTRIBUTES = json.loads((GQA / "config.json").read_text())
PARAMS = {"dim": 64, "n_layers": 3, "n_heads": 4, "n_kv_heads": 2, "norm_eps": 1e-5}
HUGE, NAN, INF = 10**9, float("nan"), float("inf")


def refused(call, *parts):
    """The one line of an error, with these parts in it."""
    with pytest.raises(InputError) as error:
        call()
    message = str(error.value)
    for part in parts:
        assert str(part) in message, message
    assert "\n" not in message and len(message) < 500, message
    return message


@pytest.fixture(scope="module")
def model():
    return read_language_model(GQA)


# A config's key, a value in its place, and what the error says.
CONFIGS = [
    ("model_type", ["llama"], "model_type ['llama']"),
    ("model_type", {"llama": 1}, "model_type {'llama': 1}"),
    ("model_type", 3, "model_type 3"),
    ("architectures", "LlamaForCausalLM", "architectures 'LlamaForCausalLM': expected ['Llama"),
    ("architectures", {"LlamaForCausalLM": 1}, "architectures {"),
    ("architectures", [["LlamaForCausalLM"]], "architectures [["),
    ("architectures", [7] * 1000, "architectures [7, 7"),
    ("num_hidden_layers", HUGE, "'num_hidden_layers': expected 1 to 1000"),
    ("num_hidden_layers", 0, "'num_hidden_layers' is 0, expected a positive int"),
    ("num_hidden_layers", 3.0, "'num_hidden_layers' is 3.0, expected a positive int"),
    ("num_hidden_layers", [3], "'num_hidden_layers' is [3], expected a positive int"),
    ("num_hidden_layers", None, "lacks the attribute 'num_hidden_layers'"),
    ("num_hidden_layers", 10**400, "'num_hidden_layers': expected"),
    ("hidden_size", HUGE, "'hidden_size': expected 1 to"),
    ("hidden_size", True, "'hidden_size' is True, expected a positive int"),
    ("intermediate_size", HUGE, "'intermediate_size': expected 1 to"),
    ("num_attention_heads", 0, "'num_attention_heads' is 0, expected a positive int"),
    ("num_attention_heads", HUGE, "'num_attention_heads': expected 1 to"),
    ("num_key_value_heads", 0, "'num_key_value_heads' is 0"),
    ("num_key_value_heads", 3, "is no multiple of kv_heads 3"),
    ("head_dim", HUGE, "'head_dim': expected 1 to"),
    ("vocab_size", HUGE, "'vocab_size': expected 1 to"),
    ("vocab_size", -1, "'vocab_size' is -1, expected a positive int"),
    ("max_position_embeddings", HUGE, "'max_position_embeddings': expected 1 to"),
    ("rope_theta", NAN, "'rope_theta' is nan, expected a positive float"),
    ("rope_theta", INF, "'rope_theta' is inf, expected a positive float"),
    ("rope_theta", -1, "'rope_theta' is -1, expected a positive float"),
    ("rope_theta", 10**400, "'rope_theta' is 1000000"),
    ("rope_theta", "big", "'rope_theta' is 'big', expected a positive float"),
    ("rms_norm_eps", INF, "'rms_norm_eps' is inf, expected a positive float"),
    ("rms_norm_eps", NAN, "'rms_norm_eps' is nan"),
    ("rms_norm_eps", -1e-6, "'rms_norm_eps' is -1e-06"),
    ("rms_norm_eps", 2.0, "'rms_norm_eps': expected 0 to 1"),
    ("rope_scaling", [1], "'rope_scaling' is [1], expected an object or null"),
    ("rope_scaling", {"rope_type": ["llama3"]}, "rope_type ['llama3']; only default"),
    ("rope_parameters", {"rope_type": "llama3", "factor": 8.0}, "lacks the key 'low_freq_fac"),
    ("tie_word_embeddings", "no", "'tie_word_embeddings' is 'no', expected true or false"),
    ("quantization_config", {"bits": 4}, "'quantization_config' is {'bits': 4}; only None"),
    ("a_new_key", "x" * 10_000, "unknown attribute 'a_new_key'"),
]


@pytest.mark.parametrize("key, value, expected", CONFIGS)
def test_a_value_of_config_json(tmp_path, key, value, expected):
    """By every door: the reader of models, and of plans."""
    file = tmp_path / "config.json"
    file.write_text(json.dumps(ATTRIBUTES | {key: value}))
    (tmp_path / "model.safetensors").touch()
    message = refused(lambda: read_language_model(tmp_path), f"{file}: ", expected)
    assert refused(lambda: find_config(folder=str(tmp_path))) == message


def test_the_workdir_of_a_run_is_no_model(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"config": {"llm": "x"}, "versions": {}}))
    with pytest.raises(InputError, match="config.json: of a run's workdir; .* in WORKDIR/hf"):
        read_language_model(tmp_path)


@pytest.mark.parametrize("content", [b"[" * 100_000, b"\xff{}", b'{"a": 1, "a": 2}', b"", b"[]"])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json", "params.json"])
def test_a_file_that_is_no_object(tmp_path, name, content):
    (tmp_path / "config.json").write_text(json.dumps(ATTRIBUTES))
    if name == "params.json":
        (tmp_path / "config.json").unlink()
    (tmp_path / name).write_bytes(content)
    if name == "config.json":
        (tmp_path / "model.safetensors").touch()
    refused(lambda: read_language_model(tmp_path), f"{tmp_path / name}: ")


@pytest.mark.parametrize(
    "extra",
    [
        {"_name_or_path": "x/y", "pretraining_tp": 2, "use_cache": False},
        {"transformers_version": "5.23.0", "dtype": "bfloat16", "torch_dtype": "float16"},
        {"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
        {"rope_scaling": None, "rope_parameters": None, "sliding_window": None},
        {"attention_bias": False, "mlp_bias": False, "head_dim": None, "attention_dropout": 0},
        {"architectures": None, "resid_pdrop": 0.0, "neftune_noise_alpha": 5, "pad_token_id": -1},
        {"eos_token_id": [2, 3], "quantization_config": None, "bos_token": "<s>"},
    ],
)
def test_what_public_configs_have_and_nothing_computes_with(extra):
    assert read_config(ATTRIBUTES | extra, "config.json") == read_config(ATTRIBUTES, "config.json")


def test_buffers_and_copies_of_old_checkpoints_are_left_out(model):
    state = {key: object() for key in ("model.rotary_emb.inv_freq", "lm_head.weight")}
    state |= {
        f"model.layers.{k}.self_attn.rotary_emb.{name}": object()
        for k, name in ((0, "inv_freq"), (31, "cos_cached"))
    }
    assert list(llama_hf.tidy(state, model.config)) == ["lm_head.weight"]


@pytest.mark.parametrize(
    "where, expected",
    [
        ({"weight_map": {"lm_head.weight": 3}}, "weight_map: 'lm_head.weight' is 3, expected the"),
        ({"weight_map": {"lm_head.weight": ["a"]}}, "'lm_head.weight' is ['a'], expected the name"),
        ({"weight_map": [1]}, "expected 'weight_map', the file of each key"),
        ({}, "expected 'weight_map', the file of each key"),
        ({"weight_map": {"a": "../x"}}, "'../x': expected the name of a file beside it"),
        ({"weight_map": {"a": "b\n"}}, "'b\\n': expected the name of a file beside it"),
        ({"weight_map": {"a": ""}}, "'': expected the name of a file beside it"),
    ],
)
@pytest.mark.parametrize("index", ["model.safetensors.index.json", "flax_model.msgpack.index.json"])
def test_an_index(tmp_path, index, where, expected):
    shutil.copyfile(GQA / "config.json", tmp_path / "config.json")
    (tmp_path / index).write_text(json.dumps({"metadata": {"total": 1, "more": []}} | where))
    refused(lambda: read_language_model(tmp_path), f"{tmp_path / index}: {expected}"[:90])


def test_an_index_that_leaves_out_a_buffer(tmp_path, model):
    """As conversions of 2023: transformers reads all that a shard holds."""
    state = safetensors.numpy.load_file(GQA / "model.safetensors")
    index = {"weight_map": dict.fromkeys(state, "part.safetensors")}
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(8, np.float32)
    safetensors.numpy.save_file(state, tmp_path / "part.safetensors")
    shutil.copyfile(GQA / "config.json", tmp_path / "config.json")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    np.testing.assert_array_equal(
        read_language_model(tmp_path).params["embedding"], model.params["embedding"]
    )
    state["model.norm.weights"] = np.ones(8, np.float32)
    safetensors.numpy.save_file(state, tmp_path / "part.safetensors")
    refused(
        lambda: read_language_model(tmp_path), "part.safetensors: unknown key 'model.norm.weights'"
    )


def test_an_index_of_a_file_that_is_missing(tmp_path):
    shutil.copyfile(GQA / "config.json", tmp_path / "config.json")
    index = {"weight_map": {"a": "model-1.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    file = tmp_path / "model-1.safetensors"
    refused(lambda: read_language_model(tmp_path), f"{file}: missing; model.safetensors.index.js")


@pytest.mark.parametrize("kept", [0, 7, 100, 5000, -1])
def test_a_truncated_safetensors_file(tmp_path, kept):
    shutil.copyfile(GQA / "config.json", tmp_path / "config.json")
    content = (GQA / "model.safetensors").read_bytes()[:kept]
    (tmp_path / "model.safetensors").write_bytes(content)
    expected = "not a complete safetensors file, truncated or damaged"
    refused(lambda: read_language_model(tmp_path), f"{tmp_path / 'model.safetensors'}: {expected}")


@pytest.mark.parametrize("value, found", [(NAN, "NaN"), (-INF, "infinity")])
@pytest.mark.parametrize("form", ["hf", "recjax"])
def test_weights_that_are_no_numbers(tmp_path, model, value, found, form):
    params = {path: np.array(array) for path, array in model.params.items()}
    params["layers/up/kernel"][1, 2, 3] = value
    folder = write_language_model(tmp_path / "lm", language_model(model.config, params), form=form)
    key = "'model.layers.1.mlp.up_proj.weight'" if form == "hf" else "'layers/up/kernel'"
    found = found if form == "hf" else "NaN or infinity"
    refused(lambda: read_language_model(folder), f"{key} holds {found}, expected finite numbers")


META = [
    ("dim", HUGE, "'dim' is 1000000000, but 'tok_embeddings.weight' has shape (128, 64)"),
    ("dim", [64], "'dim' is [64], expected a positive int"),
    ("dim", None, "lacks the key 'dim'"),
    ("n_layers", HUGE, "'n_layers': expected 1 to 1000"),
    ("n_layers", "3", "'n_layers' is '3', expected a positive int"),
    ("n_heads", 0, "'n_heads' is 0, expected a positive int"),
    ("n_heads", 5, "'n_heads' 5 does not divide 'dim' 64"),
    ("n_kv_heads", 0, "'n_kv_heads' is 0, expected a positive int"),
    ("n_kv_heads", True, "'n_kv_heads' is True, expected a positive int"),
    ("norm_eps", NAN, "'norm_eps' is nan, expected a positive float"),
    ("rope_theta", INF, "'rope_theta' is inf, expected a positive float"),
    ("rope_theta", {}, "'rope_theta' is {}, expected a positive float"),
    ("use_scaled_rope", "yes", "'use_scaled_rope' is 'yes', expected true or false"),
    ("rope_scaling_factor", -8, "'rope_scaling_factor' is -8, expected a positive float"),
    ("max_seq_len", HUGE, "'max_seq_len': expected 1 to"),
    ("vocab_size", 32000, "'vocab_size' is 32000, but 'tok_embeddings.weight' has 128 rows"),
    ("layers", 3, "unknown key 'layers'"),
]


@pytest.mark.parametrize("key, value, expected", META)
def test_a_value_of_params_json(tmp_path, key, value, expected):
    shutil.copyfile(GQA / "meta_layout.safetensors", tmp_path / "consolidated.00.safetensors")
    (tmp_path / "params.json").write_text(json.dumps(PARAMS | {key: value}))
    refused(lambda: read_language_model(tmp_path), f"{tmp_path / 'params.json'}: {expected}")


def test_tensors_of_meta_s_form_that_are_no_matrices(tmp_path):
    (tmp_path / "params.json").write_text(json.dumps(PARAMS))
    for state in ({"tok_embeddings.weight": 1}, {"x": 1}, {"layers.0.attention.wq.weight": 2}):
        arrays = {key: np.zeros((4,) * n, np.float32) for key, n in state.items()}
        for part in range(2):
            file = tmp_path / f"consolidated.{part:02d}.safetensors"
            safetensors.numpy.save_file(arrays, file)
        refused(lambda: read_language_model(tmp_path), tmp_path)


def array_ext(shape, name, data):
    """An array in flax's msgpack form."""
    return msgpack.ExtType(1, msgpack.packb((shape, name, data)))


BOMBS = {
    "a list for a dict": msgpack.packb([1, 2]),
    "a number for an array": msgpack.packb({"lm_head": {"kernel": 3}}),
    "keys that are no text": msgpack.packb({1: {2: 3}}),
    "deep": b"\x81\xa1a" * 100_000,
    "a list of 4 billion": b"\xdd\xff\xff\xff\xff",
    "a shape of 10^12": msgpack.packb({"a": array_ext([10**6, 10**6], "float32", b"1234")}),
    "objects": msgpack.packb({"a": array_ext([1], "object", b"12345678")}),
    "no type": msgpack.packb({"a": array_ext([1], "nothing", b"1234")}),
    "chunks of nothing": msgpack.packb({"a": {"__msgpack_chunked_array__": True}}),
    "text": b"not msgpack at all",
    "empty": b"",
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_msgpack_file(tmp_path, kind):
    shutil.copyfile(GQA / "config.json", tmp_path / "config.json")
    file = tmp_path / "flax_model.msgpack"
    file.write_bytes(BOMBS[kind])
    refused(lambda: read_language_model(tmp_path), f"{file}: ")


def test_a_msgpack_file_larger_than_its_model_is_not_read(tmp_path):
    shutil.copyfile(GQA / "config.json", tmp_path / "config.json")
    file = tmp_path / "flax_model.msgpack"
    with file.open("wb") as handle:
        handle.truncate(1 << 40)  # takes no place on the disk
    refused(lambda: read_language_model(tmp_path), f"{file}: 1,099,511,627,776 bytes; expected at")


def npz(path, members, compress=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compress) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def npy(shape, dtype="<f4", data=b""):
    header = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


@pytest.mark.parametrize(
    "content, expected",
    [
        (npy((10**6, 10**6), data=b"1234"), "a: damaged"),
        (npy((-1,), data=b"1234"), "a: damaged"),
        (npy((1,), "|O", b"12345678"), "a: an array of objects; expected numbers"),
        (b"nothing", "not readable as .npz"),
    ],
)
def test_a_member_of_an_npz_file(tmp_path, content, expected):
    file = npz(tmp_path / "w.npz", {"a.npy": content})
    refused(lambda: read_state(file), f"{file}: {expected}")


def test_an_npz_file_that_grows_is_not_unpacked(tmp_path, monkeypatch):
    """By what the archive declares; here 3 GB."""
    file = npz(tmp_path / "w.npz", {"a.npy": npy((8,), data=bytes(32))})
    content = bytearray(file.read_bytes())
    entry = content.rindex(b"PK\x01\x02")  # of the directory at the end
    content[entry + 24 : entry + 28] = struct.pack("<I", 3 << 30)
    file.write_bytes(content)
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *args, **options: pytest.fail("unpacked"))
    refused(lambda: read_state(file), f"{file}: 3.2 GB of arrays in a file of")


def test_a_truncated_npz_file(tmp_path):
    np.savez(tmp_path / "w.npz", a=np.ones(100, np.float32))
    content = (tmp_path / "w.npz").read_bytes()
    for kept in (0, 10, len(content) // 2, len(content) - 1):
        (tmp_path / "w.npz").write_bytes(content[:kept])
        refused(lambda: read_state(tmp_path / "w.npz"), f"{tmp_path / 'w.npz'}: not readable")


@pytest.mark.parametrize(
    "name, damage",
    [
        ("_METADATA", lambda content: b"[" * 100_000),
        ("_METADATA", lambda content: content[: len(content) // 2]),
        ("_METADATA", lambda content: b"{}"),
        ("manifest.ocdbt", lambda content: content[: len(content) // 2]),
        ("manifest.ocdbt", None),
        ("d", None),
    ],
)
def test_our_own_form_damaged(tmp_path, model, name, damage):
    folder = write_language_model(tmp_path / "lm", model, form="recjax")
    place = folder / "params" / name
    if damage is not None:
        place.write_bytes(damage(place.read_bytes()))
    elif place.is_dir():
        shutil.rmtree(place)
        for part in (folder / "params").glob("ocdbt.process_*"):
            shutil.rmtree(part)
    else:
        place.unlink()
    refused(lambda: read_language_model(folder), folder / "params")


def test_the_command_ends_with_one_line_and_status_2(tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps(ATTRIBUTES | {"num_hidden_layers": HUGE}))
    shutil.copyfile(GQA / "model.safetensors", tmp_path / "model.safetensors")
    for command in (["plan"], ["convert", f"--to={tmp_path / 'out'}"]):
        assert main([*command, f"--from={tmp_path}"]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "'num_hidden_layers': expected 1 to 1000" in error
    assert not (tmp_path / "out").exists()
