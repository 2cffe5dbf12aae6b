"""Runs of models that read whose history it is, or attributes of the items."""

import json

import numpy as np
import pytest

from recjax.api import train
from recjax.config import build
from recjax.data.pipeline import EvalBatches, TrainBatches
from recjax.data.splits import Spans
from recjax.errors import InputError
from recjax.training.recommender import RecommenderRun, RunConfig
from recjax.training.workdir import open_run

OPTIONS = {"users": 120, "mean_length": 10.0, "max_length": 30}
SPANS = Spans(np.array([4, 0, 2], np.int32), np.array([0, 5, 8]), np.array([4, 7, 13]))
ITEMS = np.arange(1, 15, dtype=np.int32)
OWNER = {item: user for user, a, b in ((4, 0, 5), (0, 5, 8), (2, 8, 14)) for item in ITEMS[a:b]}


def of_users(batch):
    pair = batch["ids"], batch["users"]
    return {(int(item), int(user)) for item, user in zip(*map(np.ravel, pair), strict=True)}


def test_batches_say_whose_items_they_hold():
    train = TrainBatches(ITEMS, SPANS, 9, 3, seed=0, users=True)(0)
    found = of_users(train) | of_users(EvalBatches(ITEMS, SPANS, 9, 3, users=True)(0))
    assert found - {(0, 0)} == {
        (int(item), OWNER[item] + 1)
        for a, b in zip(SPANS.starts, SPANS.stops, strict=True)
        for item in ITEMS[a:b]
    }
    assert "users" not in EvalBatches(ITEMS, SPANS, 9, 3)(0)


def config(store, **sections):
    data = {"source": "simulated", "store": str(store.path), "options": OPTIONS}
    return {"data": data, **sections}


@pytest.mark.parametrize(
    ("model", "objective"),
    [
        ({"name": "hgn", "dim": 8, "max_length": 12}, {"name": "bpr", "negatives": 8}),
        ({"name": "simplex", "dim": 8, "max_length": 12}, {"name": "ccl", "negatives": 8}),
    ],
    ids=["hgn", "simplex"],
)
def test_a_user_gets_own_lists_and_anybody_some(sample_store, tmp_path, model, objective):
    given = config(sample_store, model=model, objective=objective, train={"epochs": 2.0})
    given["optim"] = {"learning_rate": 0.1}
    assert train(given, tmp_path)["finished"]
    run = open_run(tmp_path)
    keys, offsets = run.store.user_keys, run.store.offsets
    items = [run.store.catalog[i]["key"] for i in run.store.items[offsets[3] : offsets[4]]]
    own, anybody = run.recommend([keys[3]], k=5), run.recommend([items], k=5)
    assert own.scores.shape == anybody.scores.shape == (1, 5)
    assert np.abs(own.scores - anybody.scores).max() > 1e-4  # the same history
    again = run.recommend([keys[7], keys[3]], k=5)  # in any order and company
    np.testing.assert_allclose(again.scores[1], own.scores[0], rtol=1e-5)


def test_attributes_come_from_the_catalogue(sample_store):
    key = next(k for k, v in sample_store.catalog[1].items() if isinstance(v, list))
    model = {"name": "fdsa", "dim": 8, "mlp_dim": 8, "attributes": key}
    given = {"data": config(sample_store)["data"], "model": model}

    def run(**changes):
        section = given | {"model": model | changes}
        return RecommenderRun(build(RunConfig, section, "config"), sample_store)

    values = run().frozen["attributes/values"]
    labels = sample_store.catalog[5][key]
    assert values.shape[0] == sample_store.n_items and values[5].sum() == len(set(labels))
    assert "attributes/values" not in run().init_state().params  # frozen: never saved
    with pytest.raises(InputError, match=r"config\.model\.attributes: .*no item .* has 'gernes'"):
        run(attributes="gernes")
    with pytest.raises(InputError, match=r"config\.model\.attribute_min: 1000: no label"):
        run(attribute_min=1000)


def test_s3rec_starts_from_its_pretraining(sample_store, tmp_path):
    key = next(k for k, v in sample_store.catalog[1].items() if isinstance(v, list))
    model = {"name": "s3rec", "dim": 8, "mlp_dim": 8, "layers": 1, "max_length": 12}
    model["attributes"] = key
    first = tmp_path / "first"
    given = config(
        sample_store,
        model={**model, "stage": "pretrain"},
        train={"epochs": 6.0, "evaluate_every": 3.0},
    )
    train(given, first)
    lines = [json.loads(line) for line in (first / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < losses[0]
    pre = open_run(first)
    learned = pre.restore(pre.latest_step())
    batch = pre.batches(0)  # of whole histories: the newest item is masked and read like others
    np.testing.assert_array_equal(batch["ids"], batch["targets"])

    def tuned(**changes):
        section = config(sample_store, **({"model": model, "start": str(first)} | changes))
        return RecommenderRun(build(RunConfig, section, "config"), sample_store)

    state = tuned().init_state().params
    assert "mask" in learned and "mask" not in state
    for path, value in state.items():
        np.testing.assert_array_equal(value, learned[path])
    tuned().check()
    with pytest.raises(InputError, match=r"nowhere/config\.json: missing; expected config\.start"):
        tuned(start=str(tmp_path / "nowhere")).check()
    with pytest.raises(InputError, match=r"config\.start: .* has no parameter of this model"):
        tuned(model={**model, "dim": 4, "mlp_dim": 4, "heads": 1}).check()
