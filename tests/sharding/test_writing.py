"""A model is written from arrays that are split over devices: tensor by tensor, never whole."""

import filecmp

import jax
import numpy as np
import pytest
from flax import nnx

from recjax.convert import fetch, mapping, tensors
from recjax.convert.language_model import language_model
from recjax.convert.writing import write_language_model
from recjax.models.definition import params_of
from recjax.models.llama import PARAM_AXES, Config, Llama
from recjax.training.parallel import make_mesh, param_shardings

CONFIG = Config(
    vocab_size=128, dim=64, mlp_dim=128, layers=6, heads=4, kv_heads=4, head_dim=16, max_length=64
)


@pytest.fixture(scope="module")
def whole():
    return params_of(Llama(CONFIG, rngs=nnx.Rngs(0)))


@pytest.mark.parametrize("mesh", [(1, 8, 1), (2, 2, 2)])
def test_tensor_by_tensor(whole, mesh, tmp_path, monkeypatch):
    devices = make_mesh(mesh)
    placed = jax.device_put(whole, param_shardings(whole, PARAM_AXES, devices))
    mine = {id(a) for a in (*whole.values(), *placed.values())}
    most = 0
    fetched = mapping.on_host

    def watched(array, row=None):
        """What stands beside the parameters, on all devices, after each fetch."""
        nonlocal most
        out = fetched(array, row)
        others = [a for a in jax.live_arrays() if id(a) not in mine and a.size > 1]
        most = max(most, sum(s.data.nbytes for a in others for s in a.addressable_shards))
        return out

    monkeypatch.setattr(mapping, "on_host", watched)
    before = {id(a) for a in jax.live_arrays()}
    mine |= before
    write_language_model(tmp_path / "split", language_model(CONFIG, placed))
    total = sum(a.nbytes for a in whole.values())
    largest = CONFIG.vocab_size * CONFIG.dim * 4
    assert 0 < most <= 8 * largest and most < total / 4
    # The arrays keep no copy in the host's memory either.
    assert all(a._npy_value is None for a in placed.values() if not a.is_fully_replicated)
    monkeypatch.undo()
    write_language_model(tmp_path / "whole", language_model(CONFIG, whole))
    for name in ("config.json", tensors.SINGLE):
        assert filecmp.cmp(tmp_path / "split" / name, tmp_path / "whole" / name, shallow=False)


def test_rows_and_wholes(whole):
    """One row or all, of arrays that are split or replicated."""
    devices = make_mesh((1, 8, 1))
    placed = jax.device_put(whole, param_shardings(whole, PARAM_AXES, devices))
    for path, array in placed.items():
        np.testing.assert_array_equal(fetch.on_host(array), whole[path])
        np.testing.assert_array_equal(fetch.on_host(array, 1), whole[path][1])
    assert not fetch.spans_processes(placed.values())


def test_the_order_of_reading_is_that_of_writing(tmp_path):
    """So that processes that read together ask for the same tensor at the same time."""
    sizes, seen = {"b": 3, "a": 1, "big": 9, "c": 2}, []

    def tensor(name, size):
        def read(index):
            seen.append(name)
            return np.zeros(size, np.float32)[index]

        return tensors.Tensor((size,), np.dtype(np.float32), name, read)

    made = {name: tensor(name, size) for name, size in sizes.items()}
    for limit in (1000, 20, 8):
        tensors.write_folder(tmp_path, made, limit)
        written = seen.copy()
        seen.clear()
        tensors.read_as_written(made, limit)
        assert seen == written and sorted(seen) == sorted(sizes)
        seen.clear()
