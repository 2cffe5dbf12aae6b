"""Live: what transformers and peft write of these families is read here, and the other way."""

import dataclasses
import filecmp
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from recjax.convert.language_model import read_language_model
from recjax.convert.peft import adapted, read_adapter, write_adapter
from recjax.convert.writing import write_language_model

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

DATA = Path(__file__).parent.parent / "data" / "families"
NAMES = sorted(path.name for path in DATA.iterdir())
TOLERANCE = 1e-4


def theirs(model, tokens):
    with torch.no_grad():
        return model.eval()(torch.tensor(tokens)).logits.numpy()


def ours(loaded, tokens):
    return np.asarray(loaded.definition.merge(loaded.params)(jnp.asarray(tokens))[0])


@pytest.mark.parametrize("name", NAMES)
def test_transformers_models_come_in_and_go_out(name, tmp_path):
    """In bfloat16, byte by byte; written anew, transformers computes the same."""
    model = transformers.AutoModelForCausalLM.from_pretrained(DATA / name, dtype=torch.float32)
    tokens = np.random.default_rng(3).integers(5, 64, (2, 40))
    loaded = read_language_model(DATA / name)
    np.testing.assert_allclose(ours(loaded, tokens), theirs(model, tokens), atol=TOLERANCE)
    new = dataclasses.replace(loaded, folder=None)
    again = transformers.AutoModelForCausalLM.from_pretrained(
        write_language_model(tmp_path / "new", new), dtype=torch.float32
    )
    np.testing.assert_array_equal(theirs(again, tokens), theirs(model, tokens))
    model.to(torch.bfloat16).save_pretrained(tmp_path / "half")
    half = read_language_model(tmp_path / "half")
    write_language_model(tmp_path / "out", half)
    for file in ("config.json", "model.safetensors"):
        assert filecmp.cmp(tmp_path / "half" / file, tmp_path / "out" / file, shallow=False)


@pytest.mark.parametrize("name", [n for n in NAMES if (DATA / n / "adapter").exists()])
def test_peft_reads_our_adapters(name, tmp_path):
    base = read_language_model(DATA / name)
    lora, own = read_adapter(DATA / name / "adapter", base)
    rng = np.random.default_rng(4)
    own = {path: jnp.asarray(rng.normal(0, 0.2, a.shape), a.dtype) for path, a in own.items()}
    write_adapter(tmp_path / "adapter", base, lora, own)
    tokens = rng.integers(5, 64, (2, 12))
    model = transformers.AutoModelForCausalLM.from_pretrained(DATA / name, dtype=torch.float32)
    before = theirs(model, tokens)
    found = theirs(peft.PeftModel.from_pretrained(model, tmp_path / "adapter"), tokens)
    assert np.abs(found - before).max() > 0.1
    np.testing.assert_allclose(ours(adapted(base, lora, own), tokens), found, atol=TOLERANCE)
