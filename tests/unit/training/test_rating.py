"""Rating prediction: its cut, its models, its metrics."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from recjax.api import evaluate
from recjax.compare import compare
from recjax.config import build
from recjax.data.interactions import LogBuilder
from recjax.data.store import write_store
from recjax.errors import InputError
from recjax.training.rating import RatingConfig, RatingEvaluator, RatingRun, Ratings
from recjax.training.run_plan import plan_run
from recjax.training.workdir import build_config, start_run


def made(path, ratings=True):
    """40 users who rate 8 of 12 items: 3, more for each of item 1 to 6, less for even users."""
    rng, log = np.random.default_rng(0), LogBuilder(timestamps=True, ratings=ratings)
    for user in range(40):
        for time, item in enumerate(rng.permutation(12)[:8] + 1):
            stars = 3 + (1 if item <= 6 else -0.5) - (0.5 if user % 2 == 0 else 0)
            log.add(f"u{user}", f"i{item}", time, stars)
    return write_store(path, log.build(), {}, {"options": {}})


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return made(tmp_path_factory.mktemp("rated") / "store")


def config(store, **sections):
    data = {"source": "simulated", "store": str(store.path)}
    sections = {"optim": {"learning_rate": 0.02}, **sections}
    return build(RatingConfig, {"data": data, **sections}, "config")


def test_training_has_nothing_of_what_is_tested(store):
    run = RatingRun(config(store), store)
    train, test = run.batches, run.evaluator("test").examples
    validation = run.evaluator("validation").examples
    assert len(train) == 40 * 6 and len(test) == len(validation) == 40
    pairs = [
        set(zip(r.users.tolist(), r.items.tolist(), strict=True)) for r in (train, validation, test)
    ]
    assert not pairs[0] & pairs[1] and not pairs[0] & pairs[2] and not pairs[1] & pairs[2]
    last = store.offsets[1:] - 1
    np.testing.assert_array_equal(test.items, store.items[last])
    np.testing.assert_array_equal(test.ratings, store.ratings[last])
    # Predictions begin at the training's mean, and stay within what it has.
    assert float(run.given["mean"]) == pytest.approx(train.ratings.mean())
    assert run.evaluator("test").limits == (train.ratings.min(), train.ratings.max())


def test_batches_are_whole_epochs_by_step(store):
    train = RatingRun(config(store, train={"batch_size": 64}), store).batches
    assert train.per_step == 64 and train.steps_per_epoch == 4
    epochs = train(0, 15)  # 960 = 4 epochs of 240
    counts = np.unique(
        np.stack([epochs["users"].ravel(), epochs["items"].ravel()]), axis=1, return_counts=True
    )[1]
    assert len(counts) == 240 and (counts == 4).all()
    for name, value in train(7, 2).items():
        np.testing.assert_array_equal(value, epochs[name][7:9])
    halves = [dataclasses.replace(train, process=(k, 2))(7, 2) for k in (0, 1)]
    for name in epochs:  # of two processes each makes a half
        both = np.concatenate([half[name] for half in halves], axis=1)
        np.testing.assert_array_equal(both, epochs[name][7:9])


def test_parts_divide_a_batch(store, tmp_path, monkeypatch):
    """Those that do not are told before anything is written; others can be planned."""
    monkeypatch.setattr("recjax.training.system.prepare", lambda data: store)
    message = "config.train.batch_size: 80 is no multiple of .* times config.train.accumulate=3"
    with pytest.raises(InputError, match=message):
        start_run(config(store, train={"batch_size": 80, "accumulate": 3}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    plan = plan_run(config(store, train={"batch_size": 80, "accumulate": 2}), (1, 1, 1))
    assert plan.rows == 80 and plan.trained == plan.parameters and plan.compiled.peak_bytes > 0


@pytest.mark.parametrize("name", ["mf", "mlp"])
def test_learns_biases(store, tmp_path, name, monkeypatch):
    train = {"epochs": 60.0, "batch_size": 80, "evaluate_every": 20.0}
    given = config(store, model={"name": name}, train=train)
    monkeypatch.setattr("recjax.training.system.prepare", lambda data: store)
    result = start_run(given, tmp_path).train()
    assert result["finished"]
    spread = store.ratings.std()
    rmse = result["test/rating/rmse"]
    assert rmse < (0.1 if name == "mf" else 0.7 * spread)
    assert result["test/rating/mae"] <= rmse
    assert evaluate(tmp_path)["test/rating/rmse"] == rmse
    same = compare(tmp_path, tmp_path)["metrics"]["test/rating/mse"]
    assert same["a"] == same["b"] == pytest.approx(rmse**2) and same["low"] == same["high"] == 0


def test_metrics_are_their_formulas():
    users, items = np.arange(5, dtype=np.int32), np.ones(5, np.int32)
    ratings = Ratings(users, items, np.array([1, 2, 3, 4, 5], np.float32))

    def predict(params, users, items):
        return jnp.array([9.0, 2.5, 3.0])[users % 3]  # 9 is clipped to 5

    found = RatingEvaluator("test", ratings, np.arange(5), 2, predict, (1.0, 5.0)).run({})
    off = np.array([4, 0.5, 0, 1, -2.5])
    assert found["test/rating/rmse"] == pytest.approx(np.sqrt((off**2).mean()))
    assert found["test/rating/mae"] == pytest.approx(np.abs(off).mean())


def test_data_without_ratings_are_refused(tmp_path):
    bare = made(tmp_path / "bare", ratings=False)
    with pytest.raises(InputError, match=r"config\.data: .*bare has no ratings"):
        RatingRun(config(bare), bare)
    with pytest.raises(InputError, match=r"config\.model\.name: "):
        build_config(
            {
                "system": "rating",
                "data": {"source": "simulated", "store": "x"},
                "model": {"name": "mff"},
            }
        )


def test_lower_is_better():
    from recjax.training.criteria import lower_is_better

    assert lower_is_better("validation/rating/rmse") and lower_is_better("validation/rating/mae")
    assert not lower_is_better("validation/full/ndcg@10")
