"""Rules go both ways and account for everything."""

import numpy as np
import pytest

from recjax.convert.mapping import POINTWISE, SAME, TRANSPOSE, Rule, split, to_ours, to_theirs
from recjax.errors import InputError

RULES = (
    Rule("table", "items"),
    Rule("layers.{layer}.qk", ("blocks/{layer}/q", "blocks/{layer}/k"), split(2, TRANSPOSE)),
    Rule("layers.{layer}.conv", "blocks/{layer}/up", POINTWISE),
    Rule("last.weight", "norm/scale"),
)


def arrays(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype("float32") for name, shape in shapes.items()}


def ours(layers=11):
    """Eleven layers: numbers sort as numbers."""
    shapes = {"items": (3, 2), "norm/scale": (2,)}
    for layer in range(layers):
        shapes |= {f"blocks/{layer}/q": (2, 4), f"blocks/{layer}/k": (2, 4)}
        shapes[f"blocks/{layer}/up"] = (2, 5)
    return arrays(shapes)


@pytest.mark.parametrize("transform", [SAME, TRANSPOSE, split(3), split(3, TRANSPOSE)])
def test_transforms_lose_nothing(transform):
    theirs = arrays({"a": (6, 4)})["a"]
    np.testing.assert_array_equal(transform.backward(*transform.forward(theirs)), theirs)


def test_both_ways():
    params = ours()
    state = to_theirs(RULES, params)
    assert list(state)[:5] == [
        "table",
        "layers.0.qk",
        "layers.0.conv",
        "layers.1.qk",
        "layers.1.conv",
    ]
    assert list(state)[-3:] == ["layers.10.qk", "layers.10.conv", "last.weight"]
    np.testing.assert_array_equal(state["layers.3.qk"][:4], params["blocks/3/q"].T)
    np.testing.assert_array_equal(state["layers.3.qk"][4:], params["blocks/3/k"].T)
    assert state["layers.3.conv"].shape == (5, 2, 1)
    back = to_ours(RULES, state, params, "file")
    assert back.keys() == params.keys()
    for path, value in params.items():
        assert back[path].tobytes() == value.tobytes() and back[path].flags.c_contiguous


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tabel": np.zeros(1)}, "file: unknown key 'tabel'; did you mean 'table'?"),
        ({"layers.11.qk": np.zeros(1)}, "file: unknown key 'layers.11.qk'; did you mean 'layers."),
        ({"table": None}, "file: lacks the key 'table', expected with shape (3, 2)"),
        ({"layers.2.qk": None}, "file: lacks the key 'layers.2.qk', expected with shape (8, 2)"),
        ({"table": np.zeros((2, 3))}, "file: 'table' has shape (2, 3), expected (3, 2)"),
        ({"layers.2.qk": np.zeros((8, 3))}, "'layers.2.qk' has shape (8, 3), expected (8, 2)"),
        (
            {"layers.2.conv": np.zeros((5, 2))},
            "'layers.2.conv' has shape (5, 2), expected (5, 2, 1",
        ),
        ({"table": np.zeros((3, 2), int)}, "file: 'table' is int64, expected float32"),
        (
            {"table": np.full((3, 2), np.inf, "f4")},
            "'table' holds infinity, expected finite numbers",
        ),
    ],
)
def test_errors_name_file_and_key(change, message):
    params = ours()
    state = to_theirs(RULES, params) | change
    state = {key: value for key, value in state.items() if value is not None}
    with pytest.raises(InputError) as error:
        to_ours(RULES, state, params, "file")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_table_that_misses_a_parameter_is_a_bug():
    params = ours() | {"blocks/0/new": np.zeros(1, np.float32)}
    with pytest.raises(ValueError, match="rules do not cover") as error:
        to_theirs(RULES, params)
    assert not isinstance(error.value, InputError)
