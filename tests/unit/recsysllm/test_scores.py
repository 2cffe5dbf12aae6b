"""The metrics of a small run of all families, its questions, and figures of given scores."""

import dataclasses
import json
import types

import numpy as np
import pytest

from recjax.errors import InputError
from recjax.recsysllm.passages import Passage, Piece
from recjax.recsysllm.scores import TaskEvaluator, kind_of


def test_every_metric_is_there_and_in_range(trained):
    run, result = trained
    evaluator = run.evaluator("test")
    values = {name: result[name] for name in evaluator.metric_names}  # all are there
    for name in ("full/hr@1", "2-13/full/ndcg@1", "full_with_seen/hr@1", "gen/valid_ratio"):
        assert 0 <= values[f"test/{name}"] <= 1
    assert 0 <= values["test/uni5/hr@1"] <= 1 and "test/uni5/hr@10" not in values  # of five
    assert 0 <= values["test/rating/rmse"] <= 4 and values["test/1-10/rating/mae"] <= 4
    assert values["test/rating/baseline/parsed"] == 1
    assert 0 <= values["test/rating/expected/rmse"] <= 4
    assert 0 <= values["test/explanation/rouge1"] <= 100 and "test/3-12/explanation/bleu4" in values
    assert "test/review/bleu2" in values and "test/4-4/review/rmse" in values
    assert values["test/full/hr@1"] >= values["test/full_with_seen/hr@1"]
    assert not any(name.endswith("full/hr@5") for name in values)  # of four beams
    assert {kind_of(i) for i in ("2-1", "2-7", "1-1", "3-1")} == {
        "list",
        "choice",
        "number",
        "text",
    }


@pytest.fixture(scope="module")
def measured(trained):
    """Every question of the test, asked and told once."""
    run, _ = trained
    evaluator, done = run.measurer("test"), []
    out = evaluator.measure(run.restore(run.best_step()), done.append)
    assert sum(done) == evaluator.count
    return out


def test_each_question_counts_in_the_metrics(trained, measured):
    run, result = trained
    assert measured.targets.tolist() == run.store.items[measured.examples].tolist()
    owners = dict(zip(run.split.test.stops.tolist(), run.split.test.users.tolist(), strict=True))
    assert measured.users.tolist() == [owners[place] for place in measured.examples.tolist()]
    assert {f"test/{k}" for k in ("rating/rmse", "full/hr@1")} <= {*measured.metrics}
    for name, value in measured.metrics.items():
        assert result[name] == value
        protocol, metric = name.removeprefix("test/").rsplit("/", 1)
        columns = measured.values.get(protocol, {})
        squared = metric == "rmse"
        column = columns.get("mse" if squared else metric)
        if column is not None:
            mean = np.nanmean(column)
            assert (mean**0.5 if squared else mean) == pytest.approx(value)
            assert np.count_nonzero(~np.isnan(column)) <= 6
    # The explanation's prompts ask about targets with a review; all here have one.
    assert {"full", "2-13/full_with_seen", "uni5", "rating", "rating/expected"} <= {
        *measured.values
    }


def test_compared_with_itself_and_with_a_recommender(trained, section, recjax, tmp_path):
    from recjax.api import train

    run, result = trained
    other = {
        "data": section()["data"], "model": {"name": "sasrec", "dim": 8, "max_length": 6},
        "train": {"batch_size": 32, "epochs": 1.0},
    }  # fmt: skip
    train(other, tmp_path / "sasrec")
    for a, b in ((run.workdir, tmp_path / "sasrec"), (tmp_path / "sasrec", run.workdir)):
        status, out, err = recjax("evaluate", f"--workdir={a}", f"--against={b}", "--json")
        assert status == 0 and (out["examples"], out["users"]) == (6, 6)
        assert {"test/full/hr@1", "test/full/ndcg@1"} == {*out["metrics"]}
        side = "a" if a == run.workdir else "b"
        assert out["metrics"]["test/full/hr@1"][side] == result["test/full/hr@1"]
        assert "6 examples of 6 users; 95% intervals" in err
    status, out, err = recjax(
        "evaluate", f"--workdir={run.workdir}", f"--against={run.workdir}", "--split=validation",
        "--json",
    )  # fmt: skip
    assert status == 0 and {"validation/rating/mse", "validation/uni5/hr@1"} <= {*out["metrics"]}
    rows = out["metrics"].values()
    assert all(row["difference"] == row["low"] == row["high"] == 0 for row in rows)
    assert all(row["examples"] == 6 for row in rows) and "validation/rating/mae" in err
    status, _, err = recjax(
        "evaluate", f"--workdir={run.workdir}", f"--against={run.workdir}", "--protocols=full"
    )  # fmt: skip
    assert status == 2 and "is no recommender's run" in err.splitlines()[-1]
    evaluation = {"cutoffs": (7,), "protocols": ("full",)}
    best = {**other["train"], "metric": "validation/full/mrr"}
    train({**other, "train": best, "evaluation": evaluation}, tmp_path / "seven")
    status, _, err = recjax(
        "evaluate", f"--workdir={run.workdir}", f"--against={tmp_path}/seven"
    )  # fmt: skip
    assert status == 2 and "/seven: has no metric of an example in common" in err.splitlines()[-1]


def test_each_question_in_a_file(trained, measured, recjax, tmp_path):
    run, _ = trained
    file = tmp_path / "users.jsonl"
    status, out, _ = recjax(
        "evaluate", f"--workdir={run.workdir}", f"--per-user={file}", "--json"
    )  # fmt: skip
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert status == 0 and out == measured.metrics and len(rows) == len(measured.users)
    ranks = measured.values["full"]["rank"]
    assert np.isinf(ranks).any()
    for row, rank in zip(rows, ranks, strict=True):
        assert row["full/rank"] == (int(rank) if np.isfinite(rank) else None)
        assert (row["full/hr@1"] is None) == np.isnan(rank)


def test_numbers_stay_within_the_ratings_of_training(trained):
    """Which may have halves, or go up to 3 alone."""

    class Given(TaskEvaluator):
        def _training(self, id, form):
            return [0.5, 3.0]

        def expected(self, answerer, params, passages, numbers):
            return [0.0]

    class Writer:
        def texts(self, passages, progress):
            return ["9 stars"]

    run, _ = trained
    source = types.SimpleNamespace(options=run.source.options)
    evaluator = Given(None, source, None, "test")
    asked = [Passage("rating", (Piece("?"),), (Piece("3"),), prompt="1-2")]
    values = evaluator.ask(Writer(), None, "1-2", np.zeros(1, int), asked).metrics
    assert values["rating/mae"] == 0 and values["rating/expected/mae"] == 2.5


def test_texts_are_no_longer_than_the_model_goes(untrained):
    evaluator = untrained.evaluator("test")
    assert evaluator.most == 160
    with pytest.raises(InputError, match=r"config.text.answers.tokens: 8; expected at most 7, as"):
        dataclasses.replace(evaluator, most=7).check()


def test_figures_of_given_scores(untrained):
    """A number's mean is by the likelihood of the whole answer; ties of candidates count against
    the right one; items of the history take part in one of the two rankings."""
    run = untrained
    asked_for = {}

    class Given(TaskEvaluator):
        def _option_scores(self, answerer, params, passages, options, *, mean):
            asked_for[len(options[0])] = mean
            return [np.log([1.0, 3.0, 3.0])[: len(some)] for some in options]

    known = run.evaluator("test")
    evaluator = Given(known.blanks, run.source, None, "test")
    rating = [Passage("rating", (Piece("?"),), (Piece("3"),), prompt="1-2")]
    assert evaluator.expected(None, None, rating, [1.0, 5.0]) == pytest.approx([4.0])
    choice = [
        Passage("direct", (Piece("?"),), (Piece(name, True),), options=("a", "b", "c"))
        for name in "abc"
    ]
    assert evaluator.choices(None, None, choice).tolist() == [3, 2, 2]
    assert asked_for == {2: False, 3: True}
    part, items = run.split.test, run.store.items
    seen, target = int(items[part.starts[0]]), int(items[part.stops[0]])
    lines = [[([seen], -0.1), ([target], -0.2)]]
    beams = types.SimpleNamespace(titles=lambda passages, progress: lines)
    ranks = evaluator.ranks(beams, np.zeros(1, int), [None])
    assert {name: r.tolist() for name, r in ranks.items()} == {"full": [1], "full_with_seen": [2]}
    train = run.split.train
    places = [k for span in zip(train.starts, train.stops, strict=True) for k in range(*span)]
    expected = sorted(float(run.store.ratings[k]) for k in places)
    assert sorted(known._training("1-2", float)) == expected


@pytest.mark.parametrize("name", ["validation", "test"])
def test_no_candidate_is_another_item_of_its_user(untrained, name):
    """Neither an earlier one nor a later one: in validation not what is tested, either."""
    run = untrained
    part, titles = getattr(run.split, name), run.source.dataset.names.titles
    chosen, passages = run.source.questions(name, "5-5", run.store.n_users, 0)
    assert len(passages) == run.store.n_users
    for k, passage in zip(chosen.tolist(), passages, strict=True):
        user = part.users[k]
        met = run.store.items[run.store.offsets[user] : run.store.offsets[user + 1]]
        assert {titles[i] for i in met} & {*passage.options} == {passage.answer[0].text}
