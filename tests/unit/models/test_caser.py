"""Caser against the paper's formulas, window by window."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from recjax.errors import InputError
from recjax.models.recommender import read_config
from recjax.testing import contracts

SECTION = {"name": "caser", "max_length": 8, "dim": 6, "window": 4, "horizontal": 3, "vertical": 2,
           "projection": False}  # fmt: skip


def _state(model, history, scale=1.0):
    """The convolutions of one window in numpy: sections 3.2.1 and 3.2.2."""
    size = model.config.window
    image = np.zeros((size, model.config.dim))
    vectors = scale * np.asarray(model.items.embedding[...])
    for place, item in enumerate(history[::-1][:size]):
        image[size - 1 - place] = vectors[item]
    out = [(np.asarray(model.vertical[...]).T @ image).reshape(-1)]
    for height in range(1, size + 1):
        kernel = np.asarray(model.horizontal[height - 1][...])
        bias = np.asarray(model.horizontal_bias[...])[height - 1]
        slid = [
            np.maximum(np.einsum("hD,hDF->F", image[i : i + height], kernel) + bias, 0)
            for i in range(size - height + 1)
        ]
        out.append(np.max(slid, axis=0))
    return np.concatenate(out)


def test_states_are_those_of_the_paper():
    model = contracts.build(SECTION)
    history = [3, 9, 1, 22, 5, 5, 7]
    h = np.asarray(jax.jit(model.encode)(np.array([history])))
    assert h.shape == (1, 7, 6 * 2 + 3 * 4)
    for t in range(7):
        np.testing.assert_allclose(h[0, t], _state(model, history[: t + 1]), atol=1e-5)


def test_scaled_items_are_larger_by_sqrt_d():
    model = contracts.build(SECTION | {"scale_embedding": True})
    h = jax.jit(model.encode)(np.array([[3, 9, 1]]))
    np.testing.assert_allclose(h[0, -1], _state(model, [3, 9, 1], 6**0.5), atol=1e-5)


def test_vertical_filters_start_between_the_newest_row_and_all_alike():
    """The first fades by 0.25 a row, the last not at all, the second by what is between them."""
    module, config = read_config(SECTION | {"recency": 0.25, "vertical": 3})
    model = module.Recommender(config, 9, rngs=nnx.Rngs(0))
    wanted = np.array([[1 / 64, 1 / 8, 1], [1 / 16, 1 / 4, 1], [1 / 4, 1 / 2, 1], [1, 1, 1]])
    wanted /= np.linalg.norm(wanted, axis=0)
    np.testing.assert_allclose(model.vertical[...], wanted, rtol=1e-6)
    one = module.Recommender(dataclasses.replace(config, vertical=1), 9, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(one.vertical[...], wanted[:, :1], rtol=1e-6)
    with pytest.raises(InputError, match=r"recency: expected 0 to 1"):
        contracts.build(SECTION | {"recency": 2.0})


def test_predictions_are_the_newest_states():
    """From the windows alone, in packed rows too, where a neighbour stands before the window."""
    model = contracts.build(SECTION)
    ids = np.array([[3, 9, 1, 22, 5, 5, 7, 0], [4, 2, 8, 6, 1, 1, 9, 3]])
    segments = np.array([[1, 1, 1, 1, 1, 2, 2, 0], [1, 2, 2, 3, 3, 3, 3, 3]])
    encode, predict = jax.jit(model.encode), jax.jit(model.predict)
    h = np.asarray(encode(ids, segments=segments)).reshape(16, -1)
    last = np.array([4, 6, 8, 10, 15])
    np.testing.assert_allclose(predict(ids, segments=segments, last=last), h[last], atol=1e-5)
    rows = np.array([[0, 0, 3, 9], [5, 1, 2, 7]])
    np.testing.assert_allclose(predict(rows), encode(rows)[:, -1], atol=1e-5)


def test_hidden_state_of_recinterpreter():
    config = read_config({"name": "caser", "preset": "recinterpreter", "dim": 32})[1]
    assert config.features == 32 + 16 * 10 and not config.projection


def test_the_next_items_are_targets():
    """T = 3: each state is compared with up to three items ahead, of its own sequence."""
    model = contracts.build({**SECTION, "targets": 3})
    ids = np.array([[1, 2, 3, 11, 12, 0, 0, 0]])
    batch = {
        "ids": ids,
        "targets": np.array([[2, 3, 4, 12, 13, 0, 0, 0]]),
        "positions": np.array([[5, 6, 7, 6, 7, 0, 0, 0]]),
        "segments": np.array([[1, 1, 1, 2, 2, 0, 0, 0]]),
        "sequences": np.array([[7, 7, 7, 8, 8, 0, 0, 0]]),
    }
    learn = jax.jit(lambda batch: model.learn(batch, nnx.Rngs(dropout=0)))
    h, targets, sequences, *_ = learn(batch)
    assert h.shape[0] == 24
    found = np.asarray(targets).reshape(3, 8).T
    assert found[:5].tolist() == [[2, 3, 4], [3, 4, 0], [4, 0, 0], [12, 13, 0], [13, 0, 0]]
    assert not found[5:].any()
    np.testing.assert_array_equal(sequences[8:16], batch["sequences"][0])


def test_tied_vectors_need_the_projection():
    with pytest.raises(InputError, match="tied: needs projection=True"):
        read_config({"name": "caser", "tied": True, "projection": False})
