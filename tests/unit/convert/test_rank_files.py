"""GLM's checkpoints in files of ranks: joined they are the whole model, or it is told why not."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from recjax.convert.language_model import read_language_model
from recjax.convert.writing import write_language_model
from recjax.errors import InputError

DATA = Path(__file__).parents[2] / "data"
FOLDER = DATA / "glm" / "glm_hf"
SCRIPT = DATA.parents[1] / "scripts" / "torch_to_safetensors.py"
NAME = "mp_rank_{:02d}_model_states.safetensors"


def cut(key, array, rank, ranks):
    """One rank's part, as GLM's own code cuts it."""

    def part(a, axis):
        return np.split(a, ranks, axis)[rank]

    if "query_key_value" in key:
        return np.concatenate([part(block, 0) for block in np.split(array, 3)])
    if key == "word_embeddings.weight" or "dense_h_to_4h" in key:
        return part(array, 0)
    if key.endswith(("attention.dense.weight", "dense_4h_to_h.weight")):
        return part(array, 1)
    return array


def folder_of(place, ranks, inner=".", family=FOLDER):
    (place / inner).mkdir(parents=True, exist_ok=True)
    shutil.copy(family / "config.json", place)
    whole = load_file(FOLDER / "model.safetensors")
    for rank in range(ranks):
        state = {
            f"module.{key}": np.ascontiguousarray(cut(key, array, rank, ranks))
            for key, array in whole.items()
        }
        save_file(state, place / inner / NAME.format(rank))
    return place


def changed(place, rank, **arrays):
    file = place / NAME.format(rank)
    state = load_file(file) | {f"module.{key}": array for key, array in arrays.items()}
    save_file({key: array for key, array in state.items() if array is not None}, file)


@pytest.mark.parametrize(("ranks", "pointer"), [(1, None), (2, "latest"), (4, None)])
def test_the_ranks_together_are_the_model(tmp_path, ranks, pointer):
    """And written, the file that was cut comes back byte by byte."""
    place = folder_of(tmp_path / "in", ranks, "150000" if pointer else ".")
    if pointer:
        (place / pointer).write_text("150000\n")
    model = read_language_model(place)
    out = write_language_model(tmp_path / "out", model)
    for file in ("model.safetensors", "config.json"):
        assert (out / file).read_bytes() == (FOLDER / file).read_bytes()


def test_thirds_matter(tmp_path):
    """Ranks joined without regard to queries, keys and values would be another model."""
    whole = load_file(FOLDER / "model.safetensors")
    key = "transformer.layers.0.attention.query_key_value.weight"
    plain = np.concatenate([cut(key, whole[key], rank, 2) for rank in range(2)])
    assert not np.array_equal(plain, whole[key])


BIAS = "transformer.final_layernorm.bias"
WRONG = {
    "first missing": (lambda p: (p / NAME.format(0)).unlink(), "mp_rank_00_model_states.safetensors"
                      ": missing; mp_rank_01_"),
    "last missing": (lambda p: (p / NAME.format(1)).unlink(), "'word_embeddings.weight' has shape"),
    "norms differ": (lambda p: changed(p, 1, **{BIAS: np.ones(64, "f")}),
                     "'transformer.final_layernorm.bias' differs from that of"),
    "one lacks": (lambda p: changed(p, 1, **{BIAS: None}),
                  "'transformer.final_layernorm.bias' is only in one of this file and mp_rank_00"),
    "other shape": (lambda p: changed(p, 1, **{"word_embeddings.weight": np.ones((3, 64), "f")}),
                    "has shape (3, 64) and type float32, which do not fit"),
    "no such folder": (lambda p: ([f.unlink() for f in p.glob("mp_*")],
                                  (p / "latest").write_text("../other")),
                       "latest: '../other' is no folder beside it"),
}  # fmt: skip


@pytest.mark.parametrize("which", WRONG)
def test_what_does_not_fit_is_told(which, tmp_path):
    place = folder_of(tmp_path / "in", 2)
    change, message = WRONG[which]
    change(place)
    with pytest.raises(InputError) as error:
        read_language_model(place)
    assert message in str(error.value) and str(error.value).startswith(str(place))


def test_other_families_have_none(tmp_path):
    place = folder_of(tmp_path / "in", 2, family=DATA / "llama" / "llama_gqa")
    with pytest.raises(InputError, match="files of ranks are not read for the family llama"):
        read_language_model(place)


def test_pickles_are_opened_by_torch_alone(tmp_path, monkeypatch):
    place = tmp_path / "in"
    place.mkdir()
    shutil.copy(FOLDER / "config.json", place)
    (place / "mp_rank_00_model_states.pt").write_bytes(b"no pickle")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match=r"reading \.pt needs torch, .* scripts/torch_to_safe"):
        read_language_model(place)


@pytest.fixture(scope="module")
def main():
    """That of the script which makes safetensors of torch's files."""
    spec = importlib.util.spec_from_file_location("script", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script.main


def test_the_script_tells_what_it_misses_before_it_loads_torch(tmp_path, main, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "a.bin").write_bytes(b"no pickle")
    for source, target, message in (
        ("gone", "new", "gone: expected pytorch_model"),
        ("a.bin", "a.bin", "a.bin: is there already; choose another name"),
        ("a.bin", "no/new", "no/new: there is no folder .*no; make it first"),
        ("a.bin", "new", "this Python lacks torch or safetensors"),
    ):
        with pytest.raises(SystemExit, match=message):
            main([str(tmp_path / source), str(tmp_path / target)])


def test_torchs_files(tmp_path, main):
    """A training checkpoint's `module`; the script makes safetensors of it, and of `.bin`."""
    torch = pytest.importorskip("torch")
    place = folder_of(tmp_path / "in", 2)
    expected = read_language_model(place)
    for rank in range(2):
        file = place / NAME.format(rank)
        state = {key: torch.tensor(array) for key, array in load_file(file).items()}
        torch.save({"module": state, "iteration": 7}, file.with_suffix(".pt"))
        file.unlink()
    main([str(place), str(tmp_path / "new")])
    (tmp_path / "bin").mkdir()
    shutil.copy(FOLDER / "config.json", tmp_path / "bin")
    state = {key: torch.tensor(a) for key, a in load_file(FOLDER / "model.safetensors").items()}
    torch.save(state, tmp_path / "bin" / "pytorch_model.bin")
    main([str(tmp_path / "bin"), str(tmp_path / "one")])
    for found in (place, tmp_path / "new", tmp_path / "one"):
        model = read_language_model(found)
        for path, array in expected.params.items():
            np.testing.assert_array_equal(model.params[path], array)
    assert json.loads((tmp_path / "new" / "config.json").read_text())["model_type"] == "glm"
