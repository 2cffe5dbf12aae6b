"""Stacked layers are read tensor by tensor into the arrays of the devices, and handed out again."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from recjax.convert import mapping, tensors
from recjax.convert.mapping import (
    TRANSPOSE,
    Rule,
    Transform,
    cast,
    load,
    split,
    to_ours,
    to_tensors,
    to_theirs,
)
from recjax.convert.tensors import tensor_of
from recjax.errors import InputError

REVERSED = Transform(lambda a: (a[::-1],), lambda a: a[::-1], lambda shape: shape)
RULES = (
    Rule("table", "embedding"),
    Rule("layers.{layer}.norm", "layers/norm"),
    Rule("layers.{layer}.qk", ("layers/q", "layers/k"), split(2, TRANSPOSE)),
    Rule("layers.{layer}.up", "layers/up", TRANSPOSE),
    Rule("layers.{layer}.odd", "layers/odd", REVERSED),
)
SHAPES = {
    "embedding": (8, 4),
    "layers/norm": (11, 4),
    "layers/q": (11, 4, 6),
    "layers/k": (11, 4, 6),
    "layers/up": (11, 4, 8),
    "layers/odd": (11, 4),
}


def params(dtype="float32"):
    rng = np.random.default_rng(0)
    return {path: rng.standard_normal(shape).astype(dtype) for path, shape in SHAPES.items()}


def state(dtype="float32"):
    found = to_theirs(RULES, params(dtype))
    return {key: tensor_of(value, "file") for key, value in found.items()}


def shapes():
    return {path: jax.ShapeDtypeStruct(shape, "float32") for path, shape in SHAPES.items()}


def test_their_state_is_layer_by_layer():
    found = to_theirs(RULES, params())
    assert list(found)[:5] == [
        "table",
        "layers.0.norm",
        "layers.0.qk",
        "layers.0.up",
        "layers.0.odd",
    ]
    assert list(found)[-1] == "layers.10.odd"
    np.testing.assert_array_equal(found["layers.10.up"], params()["layers/up"][10].T)
    np.testing.assert_array_equal(found["layers.3.qk"][6:], params()["layers/k"][3].T)
    np.testing.assert_array_equal(found["layers.3.odd"], params()["layers/odd"][3][::-1])
    for path, value in to_ours(RULES, found, params(), "file").items():
        np.testing.assert_array_equal(value, params()[path])


def test_jax_arrays_are_handed_out_too():
    ours = {path: jnp.asarray(value) for path, value in params().items()}
    for key, tensor in to_tensors(RULES, ours).items():
        np.testing.assert_array_equal(tensor.read(), to_theirs(RULES, params())[key])


@pytest.mark.parametrize("chunk", [1, 50, 10**6])
def test_load(chunk, monkeypatch):
    monkeypatch.setattr(tensors, "CHUNK", chunk)
    monkeypatch.setattr(mapping, "TILE", 3)
    found = load(RULES, state(), shapes(), "folder")
    assert found.keys() == SHAPES.keys()
    for path, value in params().items():
        assert isinstance(found[path], jax.Array)
        np.testing.assert_array_equal(found[path], value)


def test_parts_are_no_larger_than_a_chunk(monkeypatch):
    """But for transforms that need the whole tensor of a layer."""
    monkeypatch.setattr(tensors, "CHUNK", 40)
    read = {}

    def watched(key, tensor):
        def reader(index):
            part = tensor.reader(index)
            read.setdefault(key, []).append(part.nbytes)
            return part

        return tensors.Tensor(tensor.shape, tensor.dtype, "file", reader)

    load(RULES, {k: watched(k, t) for k, t in state().items()}, shapes(), "folder")
    assert max(read["layers.3.up"]) <= 40 and len(read["layers.3.up"]) == 4
    assert max(read["table"]) <= 40 and sum(read["table"]) == 8 * 4 * 4
    assert read["layers.3.qk"] == [12 * 4 * 4] * 2, "once for queries, once for keys"


def test_a_device_reads_its_part():
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    specs = {"embedding": ("b", "a"), "layers/up": (None, "b", "a"), "layers/q": (None, "a", None)}
    read = []

    def watched(key, tensor):
        def reader(index):
            part = tensor.reader(index)
            read.append((key, part.shape))
            return part

        return tensors.Tensor(tensor.shape, tensor.dtype, "file", reader)

    def shardings(found):
        assert found["layers/up"].shape == SHAPES["layers/up"]
        spec = {path: PartitionSpec(*specs.get(path, ())) for path in found}
        return {path: NamedSharding(mesh, spec[path]) for path in found}

    there = {key: watched(key, tensor) for key, tensor in state().items()}
    found = load(RULES, there, shapes(), "folder", shardings=shardings)
    for path, value in params().items():
        np.testing.assert_array_equal(found[path], value)
        assert found[path].sharding.spec == PartitionSpec(*specs.get(path, ()))
    assert ("table", (2, 2)) in read and ("table", (8, 4)) not in read
    assert ("layers.0.up", (4, 1)) in read and ("layers.0.up", (8, 4)) not in read


@pytest.mark.parametrize("there", ["float32", "float64", "float16", ml_dtypes.bfloat16])
@pytest.mark.parametrize("wanted", ["float32", "float16", "bfloat16"])
def test_types(there, wanted):
    found = load(RULES, state(there), shapes(), "folder", dtype=wanted)
    for path, value in params(there).items():
        assert found[path].dtype == wanted
        np.testing.assert_array_equal(found[path], value.astype(jnp.dtype(wanted)))


def test_types_are_kept():
    found = load(RULES, state(ml_dtypes.bfloat16), shapes(), "folder")
    assert {str(value.dtype) for value in found.values()} == {"bfloat16"}


def test_donation_leaves_the_others_whole():
    """On a CPU the arrays are the buffers that were read into."""
    found = load(RULES, state(), shapes(), "folder")
    alias = found["layers/up"] + 0
    step = jax.jit(lambda p: {path: a * 2 for path, a in p.items()}, donate_argnums=0)
    doubled = step(found)
    for path, value in params().items():
        np.testing.assert_array_equal(doubled[path], value * 2)
    np.testing.assert_array_equal(alias, params()["layers/up"])


def with_value(value):
    """The parameters, with one number of layer 9 changed."""

    def change(found):
        array = found["layers.9.up"].read().copy()
        array[-1, -1] = value
        found["layers.9.up"] = tensor_of(array, "shard-2")

    return change


def other_type(found):
    found["layers.9.up"] = tensor_of(found["layers.9.up"].read().astype("float16"), "shard-2")


def doubles(found):
    """float64, of which JAX makes float32; one number is too large for it."""
    for key, tensor in found.items():
        found[key] = tensor_of(tensor.read().astype("float64"), "shard-2")
    loaded = load(RULES, found, shapes(), "folder")
    assert {a.dtype for a in loaded.values()} == {np.dtype("float32")}
    with_value(1e300)(found)


def integers(found):
    found["layers.9.up"] = tensor_of(found["layers.9.up"].read().astype("int64"), "shard-2")


def shorter(found):
    found["layers.9.up"] = tensor_of(found["layers.9.up"].read()[:5], "shard-2")


@pytest.mark.parametrize(
    ("change", "dtype", "message"),
    [
        (with_value(np.nan), None, "shard-2: 'layers.9.up' holds NaN, expected finite"),
        (with_value(np.inf), "bfloat16", "shard-2: 'layers.9.up' holds infinity, expected finite"),
        (with_value(1e6), "float16", "shard-2: 'layers.9.up' holds numbers beyond float16's ran"),
        (with_value(-3.4e38), "bfloat16", "holds numbers beyond bfloat16's range; use a wider ty"),
        (doubles, None, "shard-2: 'layers.9.up' holds numbers beyond float32's range"),
        (other_type, None, "shard-2: 'layers.9.up' is float16, other layers are float32; choose a"),
        (integers, None, "shard-2: 'layers.9.up' is int64, expected floats"),
        (shorter, None, r"shard-2: 'layers.9.up' has shape \(5, 4\), expected \(8, 4\)"),
        (lambda f: f.pop("layers.9.up"), None, "folder: lacks the key 'layers.9.up', expected wit"),
        (lambda f: f.update(x=f["table"]), None, "file: unknown key 'x'; "),
        (lambda f: f.update({"layers.11.up": f["layers.9.up"]}), None, "unknown key 'layers.11.u"),
    ],
)
def test_errors(change, dtype, message):
    found = state()
    change(found)
    with pytest.raises(InputError, match=message):
        load(RULES, found, shapes(), "folder", dtype=dtype)


@pytest.mark.parametrize("kind", ["float16", ml_dtypes.bfloat16])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_short_numbers_that_are_not_finite_are_seen(kind, value):
    found = state(kind)
    for key in found:
        array = found[key].read().copy()
        array.flat[0] = value
        changed = found | {key: tensor_of(array, "file")}
        with pytest.raises(InputError, match="expected finite"):
            load(RULES, changed, shapes(), "folder")
    array = found["table"].read().copy()
    array[0] = np.finfo(array.dtype).max if kind == "float16" else ml_dtypes.finfo(kind).max
    load(RULES, found | {"table": tensor_of(array, "file")}, shapes(), "folder")


def test_cast():
    tensor = tensor_of(params()["embedding"], "table")
    assert cast(tensor, None) is tensor and cast(tensor, "float32") is tensor
    found = cast(tensor, "bfloat16")
    assert found.dtype == found.read().dtype == "bfloat16"
    np.testing.assert_array_equal(found.read(), params()["embedding"].astype("bfloat16"))
    with pytest.raises(InputError, match="beyond float16's range"):
        cast(tensor_of(np.full(3, 1e6, "float32"), "x"), "float16").read()


def test_a_table_that_does_not_cover_the_model_is_refused():
    with pytest.raises(ValueError, match="rules do not cover"):
        to_theirs(RULES[1:], params())
