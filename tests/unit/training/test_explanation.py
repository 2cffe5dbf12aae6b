"""Explanation runs: their texts and split, their losses, what they write and how it is measured."""

import json
import types

import jax
import numpy as np
import pytest

from recjax.api import evaluate
from recjax.compare import compare
from recjax.config import build
from recjax.data.interactions import LogBuilder
from recjax.data.splits import leave_one_out
from recjax.data.store import write_store
from recjax.errors import InputError
from recjax.text.explained import explained
from recjax.training.explanation import ExplanationConfig, ExplanationRun
from recjax.training.workdir import build_config, start_run

WORDS = ("strings", "pickup", "finish", "cable", "pedal", "tuner")
SMALL = {"dim": 32, "mlp_dim": 64, "heads": 2}


def written(folder, ratings=True, said="The {} sounds quite fine today.", scale=1):
    """48 users with 6 of 9 items; each review has a sentence about one of six words."""
    rng, log = np.random.default_rng(0), LogBuilder(timestamps=True, ratings=ratings)
    lines = []
    for user in range(48):
        for time, item in enumerate(rng.permutation(9)[:6] + 1):
            log.add(f"u{user}", f"i{item}", time, scale * (1 + (user + item) % 5))
            text = said.format(WORDS[rng.integers(6)])
            lines.append({"reviewerID": f"u{user}", "asin": f"i{item}", "reviewText": text})
    store = write_store(folder / "store", log.build(), {}, {"options": {}})
    path = folder / "reviews.json"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return store, path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return written(tmp_path_factory.mktemp("explained"))


def config(data, name="peter", **sections):
    store, path = data
    sizes = SMALL if name == "peter" else {"dim": 16}
    given = {
        "data": {"source": "simulated", "store": str(store.path)},
        "model": {"name": name, **sizes, **sections.pop("model", {})},
        "text": {"reviews": str(path), "max_tokens": 24},
        "tokenizer": {"vocab_size": 300},
        "evaluation": {"batch_size": 32},
    }
    return build(ExplanationConfig, {**given, **sections}, "config")


def test_texts_and_split_are_those_of_the_task(data):
    run = ExplanationRun(config(data, "nrt"), data[0])
    parts = run.parts_of_data
    assert {name: len(part) for name, part in parts.items()} == {
        "train": 48 * 4, "validation": 48, "test": 48
    }  # fmt: skip
    last = data[0].offsets[1:] - 1
    np.testing.assert_array_equal(parts["test"].items, data[0].items[last])
    np.testing.assert_array_equal(parts["test"].ratings, data[0].ratings[last])
    for feature, text in zip(parts["test"].features, parts["test"].texts, strict=True):
        assert feature in text and text.endswith("today.")
    fewer = ExplanationRun(config(data, evaluation={"max_examples": 7}), data[0])
    assert len(fewer.evaluator("test").examples) == 7


def test_features_are_words_of_training_reviews(data):
    """A word that twelve tested reviews have, and no other, is none."""
    store, split = data[0], leave_one_out(data[0].offsets)
    bodies = [f"The {WORDS[(k + k // 6) % 6]} sounds quite fine today." for k in range(288)]
    for place in split.test.stops[:12]:
        bodies[place] = "The zither sounds quite fine today."
    found = explained(store, split, types.SimpleNamespace(bodies=bodies))
    assert [len(found[name]) for name in ("train", "validation", "test")] == [48 * 4, 48, 36]


def test_arrays_begin_and_end_texts(data):
    run = ExplanationRun(config(data, model={"feature_tokens": 3}), data[0])
    batch = run.batches(0, 2)
    tokenizer, labels, tokens = run.tokenizer, batch["labels"], batch["tokens"]
    assert labels.shape == tokens.shape == (2, run.batches.per_step, run.length)
    assert (tokens[..., 0] == tokenizer.bos_id).all()
    np.testing.assert_array_equal(
        tokens[..., 1:], np.where(labels[..., :-1] < 0, 0, labels[..., :-1])
    )
    row = labels[0, 0]
    row = row[row >= 0]
    assert row[-1] == tokenizer.eos_id
    assert tokenizer.decode(row[:-1]) in run.parts_of_data["train"].texts
    feature = batch["features"][0, 0]
    assert tokenizer.decode(feature[feature > 0]) in WORDS


def test_learns_to_write_about_the_feature(data, tmp_path, monkeypatch):
    monkeypatch.setattr("recjax.training.system.prepare", lambda section: data[0])
    given = config(
        data,
        model={"feature_tokens": 3},
        optim={"learning_rate": 0.003},
        train={"batch_size": 48, "epochs": 32.0, "evaluate_every": 32.0},
    )
    result = start_run(given, tmp_path).train()
    assert result["finished"] and result["test/explanation/rouge1"] > 90
    assert result["test/explanation/baseline/rouge1"] < 90
    assert result["test/explanation/unique"] == pytest.approx(6 / 48)
    assert result["test/rating/mae"] <= result["test/rating/rmse"]
    assert evaluate(tmp_path)["test/explanation/bleu4"] == result["test/explanation/bleu4"]
    same = compare(tmp_path, tmp_path)["metrics"]
    assert same["test/explanation/rouge1"]["a"] == pytest.approx(result["test/explanation/rouge1"])
    assert same["test/rating/mae"]["b"] == pytest.approx(result["test/rating/mae"])
    # A finished run's tokenizer is its own: other reviews do not change what its tokens say.
    assert (tmp_path / "tokenizer" / "tokenizer.json").is_file()


@pytest.mark.parametrize("model", ["attn2seq", "nrt"])
def test_losses_and_measures_of_the_others(data, model):
    run = ExplanationRun(config(data, model, train={"batch_size": 16}), data[0])
    state = run.init_state()
    batch = run.place(0, 1)
    state, metrics = run.make_steps()(state, batch)
    assert np.isfinite(np.asarray(metrics["loss"])).all()
    validation = run.evaluator("validation")
    found = validation.run(run.whole(state.params))
    assert set(found) == set(validation.metric_names)
    assert ("validation/rating/rmse" in found) == (model == "nrt")
    assert "validation/explanation/bleu4" not in found
    # The rows that fill the last batch do not count.
    counted = sum((batch["labels"] >= 0).sum() for _, batch in validation._batches())
    assert counted == (validation.arrays["labels"] >= 0).sum()
    # Of a new model all tokens are about as likely.
    assert found["validation/explanation/loss"] == pytest.approx(
        np.log(run.tokenizer.size), rel=0.2
    )


def test_the_weights_of_the_losses_count(data):
    weights = {"rating": 2.0, "context": 3.0}
    run = ExplanationRun(config(data, loss=weights, train={"batch_size": 8}), data[0])
    params = run.whole(run.init_state().params)
    batch = {name: a[0] for name, a in run.batches(0, 1).items()}
    loss, weight = jax.device_get(jax.jit(run.loss_fn)(params, batch, None, jax.random.key(0)))
    # A new model's words are about as likely each, and its ratings are about the mean.
    even, off = np.log(run.tokenizer.size), np.mean((batch["ratings"] - run.given["mean"]) ** 2)
    np.testing.assert_allclose(loss / weight, [even, 2 * off, 3 * even], rtol=0.2)
    tokens, ends = (batch["labels"] >= 0).sum(), (batch["labels"] == run.tokenizer.eos_id).sum()
    assert weight.tolist() == [tokens, 8, tokens - ends]


def test_bad_data_and_keys_are_named(data, tmp_path):
    bare = written(tmp_path, ratings=False)
    with pytest.raises(InputError, match=r"config\.data: .*has no ratings"):
        ExplanationRun(config(bare), bare[0]).batches  # noqa: B018
    (tmp_path / "short").mkdir()
    short = written(tmp_path / "short", said="Fine {}.")
    with pytest.raises(InputError, match=r"config\.text\.reviews: no train review"):
        ExplanationRun(config(short), short[0]).batches  # noqa: B018
    (tmp_path / "ten").mkdir()
    ten = written(tmp_path / "ten", scale=2)
    with pytest.raises(InputError, match=r"'nrt' knows 1 to 5 stars.*ratings of up to 10"):
        ExplanationRun(config(ten, "nrt"), ten[0]).batches  # noqa: B018
    assert len(ExplanationRun(config(ten), ten[0]).batches)  # PETER reads no stars
    with pytest.raises(InputError, match=r"config\.model\.name: no explainer"):
        build_config(
            {
                "system": "explanation",
                "data": {"source": "simulated", "store": "x"},
                "model": {"name": "nrtt"},
                "text": {"reviews": "x"},
            }
        )
