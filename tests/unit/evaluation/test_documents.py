"""The likelihood of documents, by a model whose answers are known."""

import jax.numpy as jnp
import numpy as np
import pytest

from recjax.data.splits import Spans
from recjax.errors import InputError
from recjax.evaluation.documents import DocumentEvaluator
from recjax.evaluation.likelihood import LikelihoodConfig
from recjax.text.bpe import train_bpe
from recjax.text.corpus import Documents, TextConfig
from recjax.text.token_batches import encode

TOKENIZER = train_bpe(["Film came out in"] * 3, 300)


def evaluator(predict, kinds=("naming", "residual"), length=300, **config):
    rates = dict.fromkeys(("items", "naming", "histories", "recovery", "residual"), 0.0)
    rates |= dict.fromkeys(kinds, 1.0)
    catalog = [None, *({"title": f"Film {k}"} for k in range(1, 9))]
    items = np.arange(1, 9, dtype=np.int32)
    spans = Spans(np.arange(2, dtype=np.int32), np.array([0, 4]), np.array([4, 8]))
    documents = Documents(TextConfig(**rates), catalog, items, spans)
    options = LikelihoodConfig(**{"batch_size": 4} | config)
    return DocumentEvaluator(options, "test", documents, TOKENIZER, length, predict)


def knows_all_but(token, cost=2.0):
    """Every token costs 1 nat and is right, but for one that costs more and is wrong."""

    def predict(params, batch):
        at = batch["tokens"].reshape(-1)[batch["places"]] == token
        return jnp.where(at, cost, 1.0), ~at

    return predict


def test_sums_by_document_and_kind():
    three = TOKENIZER.id_of("3")
    measure = evaluator(knows_all_but(three))
    values = measure.run(None)
    assert list(values) == measure.metric_names
    assert [d.kind for d in measure.examples] == ["naming"] * 8 + ["residual"] * 6
    # Film 3 is named once among the eight items, and no residual ends with it.
    assert values["test/naming/exact"] == 7 / 8
    assert values["test/residual/exact"] == 1.0
    assert values["test/text/exact"] == 13 / 14
    labels = encode(measure.examples, TOKENIZER, 300).labels
    count, wrong = (labels >= 0).sum(), (labels == three).sum()
    assert wrong == 1
    assert values["test/text/loss"] == pytest.approx(1 + 1 / count)
    assert values["test/text/accuracy"] == pytest.approx(1 - 1 / count)
    assert values["test/text/perplexity"] == pytest.approx(np.exp(1 + 1 / count))
    assert values["test/residual/loss"] == 1.0


def test_each_prompt_is_measured_and_the_worst_of_them():
    """A model that is wrong where an answer says "List2", which the first prompt's alone does."""
    measure = evaluator(knows_all_but(TOKENIZER.id_of("L"), cost=3.0))
    assert [d.form for d in measure.examples] == [None] * 8 + [0, 0, 1, 1, 2, 2]
    values = measure.run(None)
    exact = [values[f"test/residual/{form}/exact"] for form in ("prompt0", "prompt1", "prompt2")]
    assert exact == [0.0, 1.0, 1.0]
    assert values["test/residual/worst/exact"] == 0.0
    assert values["test/residual/exact"] == pytest.approx(2 / 3)
    assert values["test/residual/worst/loss"] == values["test/residual/prompt0/loss"] > 1.0
    assert values["test/residual/prompt1/loss"] == values["test/residual/prompt2/loss"] == 1.0
    assert not any("naming/prompt" in name or "naming/worst" in name for name in values)


def test_the_model_is_given_each_soft_token_s_blend():
    """A model that is right where the film it names is the one that the last blend ends with."""

    def predict(params, batch):
        assert {*batch} == {"tokens", "labels", "positions", "segments", "places", "is_soft",
                            "blend_items", "blend_weights"}  # fmt: skip
        length = batch["tokens"].shape[1]
        which = jnp.cumsum(batch["is_soft"], axis=1) - 1
        newest = jnp.argmax(batch["blend_weights"], axis=-1)[..., None]
        item = jnp.take_along_axis(batch["blend_items"], newest, axis=-1)[..., 0]  # [R S]
        place = batch["places"]
        row = place // length
        shown = item[row, which[row, place % length]]
        digits = jnp.array([TOKENIZER.id_of(str(k)) for k in range(9)])
        tokens = batch["tokens"].reshape(-1)
        # "Film 3", not "List2"
        number = jnp.isin(tokens[place], digits) & (tokens[place - 1] == TOKENIZER.id_of("Ġ"))
        return number.astype(float), ~number | (tokens[place] == digits[shown])

    measure = evaluator(predict)
    values = measure.run(None)
    assert values["test/text/exact"] == 1.0
    labels = (encode(measure.examples, TOKENIZER, 300).labels >= 0).sum()
    assert values["test/text/loss"] == pytest.approx(14 / labels)  # films are named
    assert len(measure._batches) == 4  # of one shape: compiled once
    assert measure._predict._cache_size() == 1


def test_texts_without_soft_tokens_give_a_model_none():
    seen = []

    def predict(params, batch):
        seen.extend(batch)
        return knows_all_but(-1)(params, batch)

    evaluator(predict, kinds=("items", "histories")).run(None)
    assert {*seen} == {"tokens", "labels", "positions", "segments", "places"}


def test_a_prompt_that_leaves_no_room_for_its_answer():
    kinds = ("naming", "recovery")
    questions = [d for d in evaluator(None, kinds).examples if d.kind == "recovery"]
    asked = [len(TOKENIZER.encode(d.given, bos=True)) for d in questions]
    assert asked[0] == max(asked)
    values = evaluator(knows_all_but(-1), kinds, length=asked[0] + 3).run(None)
    assert values["test/recovery/accuracy"] == 1.0
    for length in (min(asked) + 3, 20):
        message = f"{length} tokens leave no room for .* of kind 'recovery', prompt 0$"
        with pytest.raises(InputError, match=message):
            evaluator(knows_all_but(-1), kinds, length=length).run(None)


def test_a_chosen_part_is_measured_and_progress_counts_documents():
    seen = []
    measure = evaluator(knows_all_but(-1), max_examples=3)
    measure.run(None, seen.append)
    assert [d.kind for d in measure.examples] == ["naming"] * 3 + ["residual"] * 6
    assert seen == [4, 4, 1]
    again = evaluator(knows_all_but(-1), max_examples=3)
    assert again.examples == measure.examples
    other = evaluator(knows_all_but(-1), max_examples=3, seed=3)
    assert other.examples != measure.examples


def test_kinds_that_are_not_trained_are_not_measured():
    assert evaluator(None, kinds=("histories",)).kinds == ("histories",)


def test_a_loss_beyond_all_bounds_has_a_finite_perplexity():
    values = evaluator(knows_all_but(TOKENIZER.eos_id, cost=1e6)).run(None)
    assert np.isfinite(values["test/text/perplexity"])
