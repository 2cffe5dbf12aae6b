"""The whole thing learns: one batch by heart, the sample better than popularity."""

import jax
import numpy as np
import pytest

from recjax.config import build
from recjax.training.recommender import RecommenderRun, RunConfig, make_split


def make_run(store, model, objective, **train):
    section = {
        "data": {"source": "simulated", "store": str(store.path)},
        "model": {"max_length": 30, "dim": 32, **model},
        "objective": objective,
        "optim": {"learning_rate": 5e-3},
        "train": {"batch_size": 32, "steps_per_call": 50, **train},
    }
    return RecommenderRun(build(RunConfig, section, "config"), store)


@pytest.mark.parametrize(
    ("model", "objective", "least"),
    [
        ({"name": "sasrec", "dropout": 0.0}, {"name": "softmax"}, 0.0),
        ({"name": "gru4rec", "embedding_dropout": 0.0}, {"name": "softmax"}, 0.0),
        # Its second term is a sigmoid of a square.
        ({"name": "gru4rec", "embedding_dropout": 0.0}, {"name": "top1_max", "negatives": 64}, 0.5),
    ],
)
def test_overfits_one_batch(sample_store, model, objective, least):
    run = make_run(sample_store, model, objective)
    one = {k: np.repeat(v, 50, axis=0) for k, v in run.batches(0).items()}
    steps, state, losses = run.make_steps(), run.init_state(), []
    for _ in range(8):
        state, metrics = steps(state, one)
        losses.append(float(metrics["loss"][-1]))
    assert losses[-1] - least < 0.25 * (losses[0] - least), losses


def popularity_hits(store, k=10):
    split = make_split(store, build(RunConfig, {
        "data": {"source": "simulated", "store": "x"}, "model": {"name": "sasrec"},
    }, "config").split)  # fmt: skip
    train = [store.items[a:b] for a, b in zip(split.train.starts, split.train.stops, strict=True)]
    best = np.argsort(-np.bincount(np.concatenate(train), minlength=store.n_items))[:k]
    return np.isin(store.items[split.test.stops], best).mean()


def test_a_trained_model_beats_popularity(tmp_path):
    from recjax.data.prepare import DataConfig, prepare

    options = {"users": 1000, "max_length": 60}
    store = prepare(DataConfig("simulated", str(tmp_path / "s"), options=options))
    run = make_run(store, {"name": "gru4rec", "embedding_dropout": 0.2}, {"name": "softmax"})
    steps, state = run.make_steps(), run.init_state()
    for call in range(8):
        state, _ = steps(state, run.place(call * 50, 50))
    hits = run.evaluator("test").run(state.params)["test/full/hr@10"]
    assert hits > 2.5 * popularity_hits(store), hits
    assert jax.device_count() == 8
