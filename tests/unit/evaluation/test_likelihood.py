"""The likelihood of documents, by a model whose answers are known."""

import jax.numpy as jnp
import numpy as np
import pytest

from recjax.data.splits import Spans
from recjax.data.textualize import Documents, TextConfig
from recjax.data.token_batches import encode
from recjax.data.tokenizers import train_bpe
from recjax.evaluation.likelihood import LikelihoodConfig, LikelihoodEvaluator, likelihood

TOKENIZER = train_bpe(["Film came out in"] * 3, 300, extra_tokens=[f"<item_{k}>" for k in range(9)])


def evaluator(predict, kinds=("naming", "residual"), **config):
    rates = dict.fromkeys(("items", "naming", "histories", "recovery", "residual"), 0.0)
    rates |= dict.fromkeys(kinds, 1.0)
    catalog = [None, *({"title": f"Film {k}"} for k in range(1, 9))]
    items = np.arange(1, 9, dtype=np.int32)
    spans = Spans(np.arange(2, dtype=np.int32), np.array([0, 4]), np.array([4, 8]))
    documents = Documents(TextConfig(**rates), catalog, items, spans)
    options = LikelihoodConfig(**{"batch_size": 4} | config)
    return LikelihoodEvaluator(options, "test", documents, TOKENIZER, 300, predict)


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
    assert [d.kind for d in measure.examples] == ["naming"] * 8 + ["residual"] * 2
    # Film 3 is named once among the eight items, and no residual asks for it.
    assert values["test/naming/exact"] == 7 / 8
    assert values["test/residual/exact"] == 1.0
    assert values["test/text/exact"] == 9 / 10
    labels = encode(measure.examples, TOKENIZER, 300).labels
    count, wrong = (labels >= 0).sum(), (labels == three).sum()
    assert wrong == 1
    assert values["test/text/loss"] == pytest.approx(1 + 1 / count)
    assert values["test/text/accuracy"] == pytest.approx(1 - 1 / count)
    assert values["test/text/perplexity"] == pytest.approx(np.exp(1 + 1 / count))
    assert values["test/residual/loss"] == 1.0


def test_a_chosen_part_is_measured_and_progress_counts_documents():
    seen = []
    measure = evaluator(knows_all_but(-1), max_examples=3)
    measure.run(None, seen.append)
    assert [d.kind for d in measure.examples] == ["naming"] * 3 + ["residual"] * 2
    assert seen == [4, 1]
    again = evaluator(knows_all_but(-1), max_examples=3)
    assert again.examples == measure.examples
    other = evaluator(knows_all_but(-1), max_examples=3, seed=3)
    assert other.examples != measure.examples


def test_kinds_that_are_not_trained_are_not_measured():
    assert evaluator(None, kinds=("histories",)).kinds == ("histories",)


def test_a_loss_beyond_all_bounds_has_a_finite_perplexity():
    values = evaluator(knows_all_but(TOKENIZER.eos_id, cost=1e6)).run(None)
    assert np.isfinite(values["test/text/perplexity"])


def test_likelihood_is_the_softmax_s():
    rng = np.random.default_rng(0)
    h, table = rng.normal(size=(1024, 8)), rng.normal(size=(20, 8))
    targets = rng.integers(0, 20, 1024)
    loss, right = likelihood(jnp.asarray(h), jnp.asarray(targets), lambda x: x @ table.T)
    logits = h @ table.T
    expected = np.log(np.exp(logits).sum(1)) - logits[np.arange(1024), targets]
    np.testing.assert_allclose(loss, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(right, logits.argmax(1) == targets)
