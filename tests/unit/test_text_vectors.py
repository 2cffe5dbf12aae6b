"""Vectors of texts, and the script that writes those of a catalogue."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

import recjax
from recjax.data.attributes import read_scores
from recjax.errors import InputError
from recjax.llm import LanguageModel
from recjax.models.definition import define, params_of
from recjax.models.llama import Config, Llama
from recjax.text.bpe import train_bpe
from recjax.text_vectors import text_vectors

CONFIG = Config(
    vocab_size=300, dim=8, mlp_dim=8, layers=1, heads=2, kv_heads=2, head_dim=4, init_std=0.3
)
SCRIPT = Path(__file__).resolve().parents[2] / "scripts/item_vectors.py"


def make(tokenizer):
    definition = define(lambda rngs: Llama(CONFIG, rngs=rngs))
    params = params_of(Llama(CONFIG, rngs=nnx.Rngs(0)))
    return LanguageModel(definition, params, CONFIG, tokenizer=tokenizer)


@pytest.fixture(scope="module")
def lm():
    return make(train_bpe(["a tea cup", "another cup of tea", "salt"] * 5, CONFIG.vocab_size))


def test_a_vector_is_the_mean_of_a_texts_states(lm, monkeypatch):
    monkeypatch.setattr("recjax.text_vectors._BATCH", 2)
    texts = ["a cup", "", "salt, and another cup of tea"]
    found = text_vectors(lm, texts)
    tokens = np.array([lm.tokenizer.encode(texts[2])])
    h = lm.definition.merge(lm.params).hidden(tokens)[0]
    np.testing.assert_allclose(found[2], np.asarray(h)[0].mean(0), atol=1e-5)
    assert found.shape == (3, 8) and found[0].any() and not found[1].any()
    with pytest.raises(InputError, match="the model's folder has no tokenizer"):
        text_vectors(make(None), texts)


def test_the_script_writes_what_a_recommender_reads(lm, sample_store, tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("item_vectors", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(recjax, "load_llm", lambda folder: lm)
    out = tmp_path / "v.parquet"
    store = ["--llm=x", f"--store={sample_store.path}"]
    script.main([*store, f"--out={out}", "--text=A film: {title}"])
    found = read_scores(out, sample_store.catalog)
    assert found.values.shape == (sample_store.n_items, 8) and found.known[1:].all()
    titles = [f"A film: {title}" for title in sample_store.titles[1:3]]
    np.testing.assert_allclose(found.values[1:3], text_vectors(lm, titles), atol=1e-5)
    for text, message in (
        ("{nothing}", "no item of .* has these keys"),
        ("{title", "expected '}' before end of string; expected keys such as {title}"),
        ("{title.upper}", "expected keys of an item, such as {title}"),
        ("plain", "expected keys of an item, such as {title}"),
    ):
        with pytest.raises(InputError, match=message):
            script.main([*store, f"--out={tmp_path / 'w.parquet'}", f"--text={text}"])
    with pytest.raises(InputError, match="v.parquet: exists already; choose another name"):
        script.main([*store, f"--out={out}"])
    assert not (tmp_path / "w.parquet").exists()
