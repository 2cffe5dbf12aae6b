"""A reference through the commands of every recommender."""

import json

import numpy as np
import pytest

from recjax.api import evaluate, train
from recjax.compare import compare
from recjax.errors import InputError
from recjax.training import reference
from recjax.training.workdir import open_run


@pytest.fixture(scope="module")
def config(sample_store):
    return {
        "system": "reference",
        "data": {
            "source": "simulated",
            "store": str(sample_store.path),
            "options": {"users": 120, "mean_length": 10.0, "max_length": 30},
        },
        "evaluation": {"protocols": ("full", "full_with_seen", "uni100"), "batch_size": 32},
    }


@pytest.mark.parametrize("name", ["popularity", "walk", "ease"])  # counts, neighbours, dense
def test_commands(config, name, tmp_path, recjax):
    given = {**config, "model": {"name": name}}
    result = train(given, tmp_path)
    assert result["finished"] and result["step"] == 1
    assert train(None, tmp_path) == result  # all is done: the test again
    assert evaluate(tmp_path)["test/full/ndcg@10"] == result["test/full/ndcg@10"]
    assert not any("mmr" in key for key in result)
    assert result["test/full/hr@20"] >= result["test/full_with_seen/hr@20"]
    status, out, _ = recjax("recommend", "--workdir", tmp_path, "--k", 5, "--json")
    assert status == 0 and all(len(record["items"]) == 5 for record in out["lists"])


def test_ranks_are_those_of_the_scores(config, tmp_path):
    train({**config, "model": {"name": "knn"}}, tmp_path)
    run = open_run(tmp_path)
    params = run.restore(1)
    measured = run.evaluator("test").measure(params)
    part, items = run.split.test, run.store.items
    for n in (0, 7, 50):
        history = items[part.starts[n] : part.stops[n]]
        ids = np.zeros((1, run.window), np.int32)
        ids[0, -len(history) :] = history[-run.window :]
        scores = np.array(run._module.score(run._own, params, ids))[0]
        target = items[part.stops[n]]
        others = np.ones(len(scores), bool)
        others[[0, target]] = False
        higher = scores >= scores[target] * (1 - 1e-6)
        assert measured.values["full_with_seen"]["rank"][n] == 1 + (higher & others).sum()
        others[history] = False
        assert measured.values["full"]["rank"][n] == 1 + (higher & others).sum()


def test_beside_a_trained_model(config, tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    train({**config, "model": {"name": "popularity"}}, one)
    model = {"name": "sasrec", "dim": 8, "max_length": 12}
    trained = {key: value for key, value in config.items() if key != "system"}
    train({**trained, "model": model, "train": {"epochs": 1.0}}, other)
    found = compare(one, other)["metrics"]["test/full/ndcg@10"]
    assert found["difference"] == pytest.approx(found["a"] - found["b"])


def test_interrupted_before_it_is_saved(config, tmp_path, monkeypatch):
    given = {**config, "model": {"name": "ease"}}

    def killed(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(reference.ReferenceRun, "fit", killed)
    with pytest.raises(KeyboardInterrupt):
        train(given, tmp_path)
    monkeypatch.undo()
    assert train(given, tmp_path)["finished"]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["bytes"] == 4 * open_run(tmp_path).store.n_items ** 2


def test_memory_is_asked_for_before_anything_is_counted(config, tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "host_bytes", lambda: 1000)
    with pytest.raises(InputError, match=r"config\.model\.name: takes .* there are 0\.0 GB"):
        train({**config, "model": {"name": "ease"}}, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_another_reference_in_its_place(config, tmp_path):
    train({**config, "model": {"name": "knn"}}, tmp_path)
    with pytest.raises(InputError, match="belongs to a run with another config"):
        train({**config, "model": {"name": "knn", "shrink": 1.0}}, tmp_path)
