"""Live: transformers and peft read what is written here of T5, and the other way."""

import dataclasses
import filecmp
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import recjax
from recjax.convert.language_model import read_language_model
from recjax.convert.peft import adapted, read_adapter, write_adapter
from recjax.convert.writing import write_language_model

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

DATA = Path(__file__).parent.parent / "data" / "t5"
TOLERANCE = 1e-4
GIVEN = np.random.default_rng(3).integers(2, 64, (2, 11))
STARTS = np.concatenate([np.zeros((2, 1), int), GIVEN[:, :6]], axis=1)


def theirs(model):
    with torch.no_grad():
        given = {"input_ids": torch.tensor(GIVEN), "decoder_input_ids": torch.tensor(STARTS)}
        return model.eval()(**given, use_cache=False).logits.numpy()


def ours(loaded):
    model = loaded.definition.merge(loaded.params)
    return np.asarray(model(jnp.asarray(STARTS), encoder=jnp.asarray(GIVEN))[0])


def load(folder, **options):
    kind = transformers.T5ForConditionalGeneration
    return kind.from_pretrained(folder, **{"dtype": torch.float32, **options})


def test_transformers_models_come_in_and_go_out(tmp_path):
    """Of v1.0; transformers 5 ties the head of v1.1 when it reads it."""
    model, loaded = load(DATA / "v10"), read_language_model(DATA / "v10")
    np.testing.assert_allclose(ours(loaded), theirs(model), atol=TOLERANCE)
    new = dataclasses.replace(loaded, folder=None)
    again = load(write_language_model(tmp_path / "new", new))
    np.testing.assert_array_equal(theirs(again), theirs(model))
    model.to(torch.bfloat16).save_pretrained(tmp_path / "half")
    write_language_model(tmp_path / "out", read_language_model(tmp_path / "half"))
    for file in ("config.json", "model.safetensors"):
        assert filecmp.cmp(tmp_path / "half" / file, tmp_path / "out" / file, shallow=False)


@pytest.mark.parametrize("beams", [1, 3])
def test_generation(beams):
    lm, model = recjax.load_llm(DATA / "v10"), load(DATA / "v10").eval()
    options = {"do_sample": False, "max_new_tokens": 6, "use_cache": False, "num_beams": beams}
    with torch.no_grad():
        found = model.generate(
            torch.tensor(GIVEN), **options, eos_token_id=63, pad_token_id=0
        ).numpy()[:, 1:]
    starts = np.zeros((2, 1), int)
    got = lm.generate(starts, encoder=GIVEN, max_new_tokens=6, stop=(63,), beams=beams)
    best = np.asarray(got.tokens).reshape(2, -1, 6)[:, 0]
    real = np.arange(6) < np.asarray(got.lengths).reshape(2, -1)[:, :1]
    np.testing.assert_array_equal(
        best[real], np.pad(found, ((0, 0), (0, 6 - found.shape[1])))[real]
    )


def test_peft_reads_our_adapters(tmp_path):
    base = read_language_model(DATA / "v10")
    lora, own = read_adapter(DATA / "v10" / "adapter", base)
    rng = np.random.default_rng(4)
    own = {path: jnp.asarray(rng.normal(0, 0.2, a.shape), a.dtype) for path, a in own.items()}
    write_adapter(tmp_path / "adapter", base, lora, own)
    model = load(DATA / "v10")
    before = theirs(model)
    found = theirs(peft.PeftModel.from_pretrained(model, tmp_path / "adapter"))
    assert np.abs(found - before).max() > 0.1
    np.testing.assert_allclose(ours(adapted(base, lora, own)), found, atol=TOLERANCE)
