"""`recjax convert` of language models."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from recjax.convert.forms import FORMS
from recjax.convert.language_model import read_language_model
from recjax.convert.peft import merged, read_adapter
from recjax.errors import InputError
from recjax.text.tokenizers import load_tokenizer

DATA = Path(__file__).parents[2] / "data" / "llama"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
MODEL, ADAPTER = DATA / "llama_gqa", DATA / "peft_gqa"


def equal(a, b):
    assert a.params.keys() == b.params.keys()
    for path, value in a.params.items():
        np.testing.assert_array_equal(value, b.params[path])


def test_through_every_form(recjax, tmp_path):
    """From each to the next, and back to the first file byte by byte."""
    source = MODEL
    for form in ("flax", "meta", "recjax", "hf"):
        target = tmp_path / form
        status, out, err = recjax(
            "convert", f"--from={source}", f"--to={target}", f"--form={form}", "--json"
        )
        assert status == 0, err
        assert (out["form"], out["dtype"], out["parameters"]) == (form, "float32", 145_856)
        assert form in FORMS and f"{target}: form {form}, float32" in err
        source = target
    equal(read_language_model(MODEL), read_language_model(tmp_path / "hf"))
    name = "model.safetensors"
    assert (tmp_path / "hf" / name).read_bytes() == (MODEL / name).read_bytes()


def test_types(recjax, tmp_path):
    target = tmp_path / "half"
    status, out, _ = recjax(
        "convert", f"--from={MODEL}", f"--to={target}", "--dtype=bfloat16", "--json"
    )
    assert (status, out["dtype"], out["form"]) == (0, "bfloat16", "hf")
    equal(read_language_model(MODEL, dtype="bfloat16"), read_language_model(target))
    # What is not asked for stays.
    status, out, _ = recjax("convert", f"--from={target}", f"--to={tmp_path / 'again'}", "--json")
    assert (status, out["dtype"]) == (0, "bfloat16")


def test_an_adapter_is_merged(recjax, tmp_path):
    target = tmp_path / "merged"
    status, _, err = recjax("convert", f"--from={MODEL}", f"--to={target}", f"--adapter={ADAPTER}")
    assert status == 0, err
    base = read_language_model(MODEL)
    expected = merged(base, *read_adapter(ADAPTER, base))
    equal(expected, read_language_model(target))
    assert np.abs(expected.params["layers/down/kernel"] - base.params["layers/down/kernel"]).max()


def test_halves_are_merged_in_float32(recjax, tmp_path):
    half, target = tmp_path / "half", tmp_path / "merged"
    assert recjax("convert", f"--from={MODEL}", f"--to={half}", "--dtype=bfloat16")[0] == 0
    assert recjax("convert", f"--from={half}", f"--to={target}", f"--adapter={ADAPTER}")[0] == 0
    base = read_language_model(half, dtype="float32")
    expected = merged(base, *read_adapter(ADAPTER, base))
    for path, value in read_language_model(target).params.items():
        np.testing.assert_array_equal(value, expected.params[path].astype("bfloat16"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "convert needs --workdir for a recommender's run; or, for a language model, --from"),
        (["--from=X", "--to=out", "--variant=2024"], "--from FOLDER and --to FOLDER alone"),
        (["--from=X", "--to=out", "--config.seed=1"], "--from FOLDER and --to FOLDER alone"),
        (["--from=X"], "llama_gqa: nothing to do; expected --to FOLDER, --check or both"),
        (["--from=X", "--to=out", "--form=gguf"], "form 'gguf': unknown; "),
        (["--from=X", "--to=out", "--dtype=int4"], "dtype int4: expected one of float32"),
        (["--from=nowhere", "--to=out"], "nowhere: no such folder; expected that of a language"),
        (["--from=X", "--to=out", "--adapter=X"], "adapter_config.json: no such file"),
        (
            ["--workdir=run", "--from=X", "--form=hf"],
            "--check are for language models; leave out --workdir",
        ),
        (
            ["--workdir=run", "--from=X", "--check"],
            "--check are for language models; leave out --workdir",
        ),
    ],
)
def test_bad_usage(recjax, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    arguments = [a.replace("X", str(MODEL)) for a in arguments]
    status, out, err = recjax("convert", *arguments)
    assert (status, out) == (2, None) and message in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_check_needs_torch(recjax, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    status, _, err = recjax("convert", f"--from={MODEL}", "--check")
    assert status == 2
    assert "recjax: --check needs torch, which is not installed: pip install 'recjax[torch]'" in err


def test_a_check_needs_a_form_that_transformers_reads(recjax, tmp_path):
    target = tmp_path / "flax"
    assert recjax("convert", f"--from={MODEL}", f"--to={target}", "--form=flax")[0] == 0
    status, _, err = recjax("convert", f"--from={target}", "--check")
    assert status == 2 and "transformers reads the form hf alone, and neither the source" in err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", '{"model": ', "tokenizer.json: not readable as JSON"),
        ("tokenizer.json", POINTER, "tokenizer.json: a pointer of Git LFS; `git lfs pull` fetches"),
        ("model.safetensors", POINTER, "model.safetensors: a pointer of Git LFS"),
    ],
)
def test_folders_that_are_half_there(recjax, tmp_path, name, content, message):
    shutil.copytree(MODEL, tmp_path / "half")
    (tmp_path / "half" / name).write_text(content)
    status, _, err = recjax("convert", f"--from={tmp_path / 'half'}", f"--to={tmp_path / 'out'}")
    assert status == 2 and message in err and [p.name for p in tmp_path.iterdir()] == ["half"]
    if content == POINTER and name == "tokenizer.json":
        with pytest.raises(InputError, match="a pointer of Git LFS"):
            load_tokenizer(tmp_path / "half")
