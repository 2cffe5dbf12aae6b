"""Runs of a model that reads when the items were met."""

import dataclasses

import numpy as np
import pytest

from recjax.config import build
from recjax.data.pipeline import EvalBatches, TrainBatches
from recjax.data.splits import Spans
from recjax.errors import InputError
from recjax.training.recommender import RecommenderRun, RunConfig

TIMES = np.cumsum(np.arange(1, 15)) * 10**9 - 10**11  # far apart, and some before 1970
SPANS = Spans(np.arange(3, dtype=np.int32), np.array([0, 5, 8]), np.array([4, 7, 13]), TIMES)
ITEMS = np.arange(1, 15, dtype=np.int32)


def test_batches_have_the_seconds_since_the_windows_first_item():
    train = TrainBatches(ITEMS, SPANS, 4, 3, seed=0)(0)
    test = EvalBatches(ITEMS, SPANS, 4, 3)(0)
    for batch in (train, test):
        assert batch["times"].dtype == np.int32
        assert (batch["times"][batch["ids"] == 0] == 0).all()
    newest = {int(i): int(t) for i, t in np.stack([test["ids"], test["times"]], -1).reshape(-1, 2)}
    longest = 2**31 - 1
    assert newest[1] == newest[6] == newest[10] == 0  # the last run's window begins at item 10
    assert newest[2] == min(TIMES[1] - TIMES[0], longest) and newest[13] == longest
    assert "times" not in EvalBatches(ITEMS, dataclasses.replace(SPANS, times=None), 4, 3)(0)


def config(store):
    model = {"name": "hstu", "dim": 8, "layers": 1, "max_length": 12, "times": True}
    options = {"users": 120, "mean_length": 10.0, "max_length": 30}
    data = {"source": "simulated", "store": str(store.path), "options": options}
    return build(RunConfig, {"data": data, "model": model}, "config")


def test_times_reach_training_evaluation_and_lists(sample_store):
    run = RecommenderRun(config(sample_store), sample_store)
    params = dict(run.init_state().params)
    bias = "blocks/0/time_bias/table"
    steps, batch = run.make_steps(), run.place(0, run.config.train.steps_per_call)
    assert np.asarray(batch["times"]).max() > 0
    trained = steps(run.init_state(), batch)[0].params
    assert np.abs(np.asarray(trained[bias])).max() > 0  # it began at 0
    params[bias] = params[bias] + np.linspace(-40, 40, len(params[bias]))[:, None]
    evaluator = run.evaluator("test")
    assert "times" in evaluator.batches(0)
    keys, offsets = run.store.user_keys, run.store.offsets
    items = [run.store.catalog[i]["key"] for i in run.store.items[offsets[3] : offsets[4]]]
    known = run.recommend([keys[3]], k=5, params=params)
    unknown = run.recommend([items], k=5, params=params)
    assert np.abs(known.scores - unknown.scores).max() > 1e-6
    params[bias] = params[bias] * 0  # without the bias both are alike
    known = run.recommend([keys[3]], k=5, params=params)
    unknown = run.recommend([items], k=5, params=params)
    np.testing.assert_allclose(known.scores, unknown.scores, atol=1e-6)


def test_data_without_timestamps_are_refused(sample_store, monkeypatch):
    monkeypatch.setattr(type(sample_store), "timestamps", None)
    with pytest.raises(InputError, match=r"config\.model\.times: expected False, these data"):
        RecommenderRun(config(sample_store), dataclasses.replace(sample_store))
