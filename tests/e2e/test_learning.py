"""The whole thing learns: one batch by heart, the sample better than popularity."""

import functools

import jax
import numpy as np
import pytest

from recjax.config import build
from recjax.training.ranking_run import make_split
from recjax.training.recommender import RecommenderRun, RunConfig


def make_run(store, model, objective, rate=5e-3, **train):
    section = {
        "data": {"source": "simulated", "store": str(store.path)},
        "model": {"max_length": 30, "dim": 32, **model},
        "objective": objective,
        "optim": {"learning_rate": rate},
        "train": {"batch_size": 32, "steps_per_call": 50, **train},
    }
    return RecommenderRun(build(RunConfig, section, "config"), store)


@pytest.fixture
def make_steps(monkeypatch):
    """`make_steps(run)`: its steps, optimised somewhat.

    Other tests' programs run once or twice and are compiled in a hurry (tests/conftest.py); these
    run for hundreds of steps. Users' full optimisation takes longer than it saves here.
    """
    options = {"xla_backend_optimization_level": 1}

    def make(run):
        with monkeypatch.context() as patch:
            patch.setattr(jax, "jit", functools.partial(jax.jit, compiler_options=options))
            return run.make_steps()

    return make


@pytest.mark.parametrize(
    ("model", "objective", "least"),
    [
        ({"name": "sasrec", "dropout": 0.0}, {"name": "softmax"}, 0.0),
        ({"name": "gru4rec", "embedding_dropout": 0.0}, {"name": "softmax"}, 0.0),
        ({"name": "caser", "dropout": 0.0}, {"name": "bce", "negatives": 3}, 0.0),
        ({"name": "bert4rec", "layers": 1, "dropout": 0.0}, {"name": "softmax"}, 0.0),
        (
            {
                "name": "dreamrec",
                "dropout": 0.0,
                "init_std": 0.05,
                "steps": 50,
                "schedule": "cosine",
            },
            {"name": "mse", "states_weight": 1.0},
            0.0,
        ),
        # Its second term is a sigmoid of a square.
        ({"name": "gru4rec", "embedding_dropout": 0.0}, {"name": "top1_max", "negatives": 64}, 0.5),
    ],
)
def test_overfits_one_batch(sample_store, make_steps, model, objective, least):
    run = make_run(sample_store, model, objective)
    one = {k: np.repeat(v, 50, axis=0) for k, v in run.batches(0).items()}
    steps, state, losses = make_steps(run), run.init_state(), []
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


@pytest.mark.parametrize(
    ("model", "objective"),
    [
        pytest.param(
            {"name": "gru4rec", "embedding_dropout": 0.2},
            {"name": "softmax"},
            marks=pytest.mark.devices,
        ),
        ({"name": "caser", "tied": True, "targets": 1, "dropout": 0.2}, {"name": "softmax"}),
        (
            {"name": "bert4rec", "dim": 64, "layers": 1, "mask_share": 0.3, "last_share": 0.3},
            {"name": "softmax"},
        ),
        (
            {"name": "dreamrec", "init_std": 0.05, "sampler": "ddim", "sampler_steps": 5},
            {"name": "mse", "states_weight": 1.0},
        ),
    ],
    ids=["gru4rec", "caser", "bert4rec", "dreamrec"],
)
def test_a_trained_model_beats_popularity(tmp_path, make_steps, model, objective):
    from recjax.data.prepare import DataConfig, prepare

    options = {"users": 1000, "max_length": 60}
    store = prepare(DataConfig("simulated", str(tmp_path / "s"), options=options))
    slow = model["name"] == "bert4rec"  # few targets a step, and no high rate with post-norm
    run = make_run(store, model, objective, **({"rate": 2e-3, "batch_size": 64} if slow else {}))
    steps, state = make_steps(run), run.init_state()
    for call in range(16 if slow else 8):
        state, _ = steps(state, run.place(call * 50, 50))
    hits = run.evaluator("test").run(state.params)["test/full/hr@10"]
    assert hits > 2.5 * popularity_hits(store), hits
    assert run.mesh.size == (8 if model["name"] == "gru4rec" else 1)
