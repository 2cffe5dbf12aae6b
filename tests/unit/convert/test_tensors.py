"""Tensors are read from files part by part, and written as transformers writes them."""

import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from recjax.convert import tensors as module
from recjax.convert.tensors import (
    INDEX,
    SINGLE,
    joined,
    read_file,
    read_folder,
    same,
    tensor_of,
    write_file,
    write_folder,
)
from recjax.errors import InputError
from recjax.json_files import read_object


def arrays():
    rng = np.random.default_rng(0)
    return {
        "b.weight": rng.standard_normal((6, 4)).astype("float32"),
        "a.weight": rng.standard_normal((5, 3)).astype(ml_dtypes.bfloat16),
        "c": rng.standard_normal(7).astype("float16"),
        "d": rng.standard_normal((2, 2)),
    }


def state(values):
    return {key: tensor_of(value, "memory") for key, value in values.items()}


def write_shards(folder, **changes):
    """Two files and their index."""
    values = arrays()
    files = {"one.safetensors": ["b.weight", "c"], "two.safetensors": ["a.weight", "d"]}
    for name, keys in files.items():
        safetensors.numpy.save_file({key: values[key] for key in keys}, folder / name)
    where = {key: name for name, keys in files.items() for key in keys}
    where = {key: name for key, name in (where | changes).items() if name}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}))


def test_a_file_is_written_as_the_library_writes_it(tmp_path):
    """Mixed types too: the order is that of types, then of names."""
    safetensors.numpy.save_file(arrays(), tmp_path / "theirs", metadata={"format": "pt"})
    write_file(tmp_path / "ours", state(arrays()))
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_parts_are_read(tmp_path):
    write_file(tmp_path / SINGLE, state(arrays()))
    found = read_folder(tmp_path)
    assert found.keys() == arrays().keys()
    for key, value in arrays().items():
        assert (found[key].shape, found[key].dtype) == (value.shape, value.dtype)
        assert found[key].read().tobytes() == value.tobytes()
    part = (slice(1, 4), slice(0, 2))
    np.testing.assert_array_equal(found["a.weight"].read(part), arrays()["a.weight"][part])


def test_shards(tmp_path):
    write_shards(tmp_path)
    found = read_folder(tmp_path)
    assert found["d"].source.endswith("two.safetensors")
    for key, value in arrays().items():
        np.testing.assert_array_equal(found[key].read(), value)


@pytest.mark.parametrize("size", [1, 50, 10**6])
def test_written_shards_are_read_again(tmp_path, size):
    write_folder(tmp_path, state(arrays()), shard_bytes=size)
    names = sorted(p.name for p in tmp_path.glob("*.safetensors"))
    expected = {1: 4, 50: 3, 10**6: 1}[size]
    assert len(names) == expected
    assert (names == [SINGLE]) == (expected == 1) == (not (tmp_path / INDEX).exists())
    if expected > 1:
        assert names[0] == f"model-00001-of-{expected:05d}.safetensors"
        total = sum(value.nbytes for value in arrays().values())
        assert read_object(tmp_path / INDEX)["metadata"]["total_size"] == total
    found = read_folder(tmp_path)
    for key, value in arrays().items():
        np.testing.assert_array_equal(found[key].read(), value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d": "three.safetensors"}, "three.safetensors: missing; model.safetensors.index.json"),
        ({"e": "one.safetensors"}, "one.safetensors: lacks the key 'e', which model.safetensors."),
        ({"d": "one.safetensors"}, "two.safetensors: holds 'd', which model.safetensors.index.js"),
        ({"d": "../one.safetensors"}, "'../one.safetensors': expected the name of a file beside"),
    ],
)
def test_an_index_that_does_not_fit(tmp_path, changes, message):
    write_shards(tmp_path, **changes)
    with pytest.raises(InputError, match=message) as error:
        read_folder(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["[]", "{", '{"weight_map": 3}', '{"weight_map": {"a": 3}}'])
def test_a_damaged_index(tmp_path, text):
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(InputError, match=f"{INDEX}: "):
        read_folder(tmp_path)


@pytest.mark.parametrize("cut", [0, 4, 60, -1])
def test_a_truncated_file(tmp_path, cut):
    write_file(tmp_path / SINGLE, state(arrays()))
    whole = (tmp_path / SINGLE).read_bytes()
    (tmp_path / SINGLE).write_bytes(whole[:cut])
    with pytest.raises(InputError, match=f"{SINGLE}: not a complete safetensors file, trunc"):
        read_folder(tmp_path)


def test_no_file(tmp_path):
    with pytest.raises(InputError, match=f"expected {SINGLE} or {INDEX}"):
        read_folder(tmp_path)
    with pytest.raises(InputError, match="x.safetensors: no such file"):
        read_file(tmp_path / "x.safetensors")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin"])
def test_pickles_are_refused_with_advice(tmp_path, name):
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(InputError, match=f"{name}: a pickle can run code and is not read; where"):
        read_folder(tmp_path)


def test_numbers_of_other_kinds_are_named(tmp_path):
    values = {"a": np.arange(3), "b": np.zeros(2, ml_dtypes.float8_e4m3fn)}
    safetensors.numpy.save_file(values, tmp_path / SINGLE)
    assert [t.dtype for t in read_folder(tmp_path).values()] == ["I64", "F8_E4M3"]


def test_joined():
    value = arrays()["b.weight"]
    parts = [tensor_of(part, str(at)) for at, part in enumerate(np.split(value, 2, axis=1))]
    whole = joined(parts, 1)
    assert whole.shape == value.shape
    np.testing.assert_array_equal(whole.read(), value)
    np.testing.assert_array_equal(whole.read((slice(1, 3), slice(1, 4))), value[1:3, 1:4])
    with pytest.raises(InputError, match=r"1: shape \(6, 3\) and type float32 do not fit \(6, 4\)"):
        joined([tensor_of(value, "0"), tensor_of(value[:, :3], "1")], 0)
    with pytest.raises(InputError, match="type float64 do not fit"):
        joined([tensor_of(value, "0"), tensor_of(value.astype(float), "1")], 0)


def test_same(monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 16)  # a row at a time
    value = arrays()["b.weight"]
    other = value.copy()
    other[-1, -1] += 1
    assert same(tensor_of(value, ""), tensor_of(value.copy(), ""))
    assert not same(tensor_of(value, ""), tensor_of(other, ""))
    assert not same(tensor_of(value, ""), tensor_of(value[:3], ""))
    assert not same(tensor_of(value, ""), tensor_of(value.astype(float), ""))
