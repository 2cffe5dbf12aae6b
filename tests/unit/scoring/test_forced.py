"""Forced answers: every text that may be written is a title of the list in the given words."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from recjax.errors import InputError
from recjax.scoring.forced import titles_between
from recjax.text.bpe import train_bpe

TITLES = ["Alien", "Alien Resurrection", "Brazil", " "]
TOKENIZER = train_bpe([*TITLES, "The film is Alien, and more."] * 5, 300)
LM = types.SimpleNamespace(
    tokenizer=TOKENIZER,
    stop=(TOKENIZER.eos_id,),
    config=types.SimpleNamespace(vocab_size=TOKENIZER.size),
)


def written(processor, rows=64, steps=40, seed=0):
    """Texts by random logits."""
    rng, state = np.random.default_rng(seed), processor.init(rows)
    out, going = [[] for _ in range(rows)], np.ones(rows, bool)
    for step in range(steps):
        logits = jnp.asarray(rng.normal(size=(rows, TOKENIZER.size)), jnp.float32)
        tokens = np.asarray(processor(state, logits, jnp.int32(step)).argmax(-1), np.int32)
        going &= tokens != TOKENIZER.eos_id
        for row in np.flatnonzero(going):
            out[row].append(int(tokens[row]))
        state = processor.update(state, jnp.asarray(tokens), jnp.asarray(going))
    return {TOKENIZER.decode(ids).strip() for ids in out}


def test_only_titles_of_the_list_in_the_given_words():
    texts = written(titles_between(LM, TITLES, "The film is ", "."))
    assert texts == {f"The film is {title}." for title in TITLES[:3]}


def test_several_titles_stand_in_a_row():
    texts = written(titles_between(LM, TITLES, "", "", several=True), seed=1)
    assert {"Alien", "Brazil"} <= texts
    assert any("," in text for text in texts)
    assert all(part in TITLES for text in texts for part in text.split(", "))


def test_a_model_without_a_tokenizer():
    with pytest.raises(InputError, match="with a tokenizer"):
        titles_between(types.SimpleNamespace(tokenizer=None), TITLES, "", "")
