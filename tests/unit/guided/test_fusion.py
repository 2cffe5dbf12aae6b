import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recjax
from recjax.compare import compare
from recjax.errors import InputError
from recjax.guided.fusion import WEIGHT, last_means
from recjax.training.run_plan import plan_run
from recjax.training.workdir import build_config, open_run


@pytest.fixture(scope="module")
def fused(trained, configured, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fused") / "run"
    config = {
        "system": "fused", "base": str(trained / "base"), "guided": configured()["guided"],
        "weights": (0.0, 0.1, 0.5), "evaluation": configured()["evaluation"],
    }  # fmt: skip
    return folder, config, recjax.train(config, folder)


def test_the_weight_with_the_best_validation_is_chosen(fused):
    folder, _, result = fused
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    tried = {line["weight"]: line["validation/full/ndcg@10"] for line in lines[:-1]}
    assert list(tried) == [0.0, 0.1, 0.5]
    assert result["weight"] == max(tried, key=tried.get) > 0  # taste decides in these data
    assert recjax.evaluate(folder)["test/full/ndcg@10"] == result["test/full/ndcg@10"]


def test_scores_are_the_bases_and_the_weighted_agreement(fused, trained):
    folder, _, result = fused
    run, base = open_run(folder), open_run(trained / "base")
    params = run.restore(run.best_step())
    batch = run.evaluator("test")._batch(0)
    h, table = jax.jit(run.encode)(params, batch)
    own, items = jax.jit(base.encode)(base.restore(base.best_step()), batch)
    means = jax.jit(lambda items, batch: last_means(items, batch, 3, masked=False))(
        run.guided.items, batch
    )
    wanted = own @ items.T + result["weight"] * means @ run.guided.items.T
    np.testing.assert_allclose(h @ table.T, wanted, atol=1e-5)
    place = np.flatnonzero(batch["weights"])[5]
    chosen = run.evaluator("test")._chosen[batch["examples"]]
    last = run.store.items[chosen.stops[place] - 3 : chosen.stops[place]]
    np.testing.assert_allclose(means[place], run.guided.items[last].mean(0), atol=1e-6)


@pytest.mark.parametrize("masked", [False, True])
def test_means_are_of_the_own_sequences_items(masked):
    """Not of those of the row before, of another sequence in the row, or of the mask's place."""
    batch = {
        "ids": np.array([[0, 3, 4, 5], [1, 2, 6, 7]], np.int32),
        "segments": np.array([[0, 1, 1, 2], [2, 2, 3, 3]], np.int32),
        "last": np.array([2, 5, 7, 0], np.int32),  # flat; the last one is a row of padding
    }
    scores = np.arange(8.0, dtype=np.float32)[:, None] ** 2
    mean = jax.jit(last_means, static_argnums=2, static_argnames="masked")
    found = mean(scores, batch, 3, masked=masked)[:, 0]
    items = [[3], [1], [6], []] if masked else [[3, 4], [1, 2], [6, 7], []]
    expected = [scores[some].mean() if some else 0.0 for some in items]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_without_weight_it_is_the_base(fused, trained):
    run, base = open_run(fused[0]), open_run(trained / "base")
    user = [run.store.user_keys[0]]
    params = {**run.restore(run.best_step()), WEIGHT: jnp.float32(0)}
    found = run.recommend(user, k=10, params=params)
    np.testing.assert_array_equal(found.ids, base.recommend(user, k=10).ids)


def test_it_is_compared_with_its_base(fused, trained):
    found = compare(fused[0], trained / "base")
    assert found["metrics"]["test/full/ndcg@10"]["a"] == fused[2]["test/full/ndcg@10"]
    assert found["examples"] == 160 and found["users"] == 80


def test_what_cannot_be_is_said(fused, configured, tmp_path):
    _, config, _ = fused
    for changes, message in (
        ({"base": str(tmp_path)}, f"config.base: {tmp_path}/config.json: missing"),
        ({"base": ""}, "config.base: is empty; expected the workdir of a recommender's run"),
        ({"weights": (-1.0,)}, "config.weights: expected each at least 0"),
        ({"guided": {**config["guided"], "vector": "recent:99"}}, "but the base reads 8 items"),
        ({"train": {"metric": "validation/full/nothing@1"}}, "config.train.metric: no metric"),
    ):
        with pytest.raises(InputError) as error:
            recjax.train({**config, **changes}, tmp_path / "run")
        assert message in str(error.value)
        assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="'fused'; expected one that trains in steps"):
        plan_run(build_config(config), (1, 1, 1))
    (fused[0] / "fusion.json").rename(fused[0] / "gone.json")
    with pytest.raises(InputError, match="no weight was chosen yet"):
        recjax.evaluate(fused[0])
    (fused[0] / "gone.json").rename(fused[0] / "fusion.json")
