"""scripts/_variants.py and _stacked.py: variants are the runs that their configs name."""

import dataclasses
import importlib.util
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recjax
from recjax.config import build
from recjax.guided.refine import GuidedRun
from recjax.guided.sources import GuidedConfig
from recjax.guided.vectors import RefineConfig
from recjax.training.recommender import RunConfig
from recjax.training.workdir import build_config, complete, open_run

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"


def script(name):
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


variants, stacked = script("_variants"), script("_stacked")
ROWS = {
    "joined": {"refine": {"user": "joined"}},
    "linear": {"refine": {"user": "added", "form": "linear", "dim": 2}},
    "scored": {"users": True, "refine": {"user": "added", "alpha": 0.5}},
}


def guided_of(tastes, users=False, control="none"):
    vector = f"scores:{tastes / 'users.tsv'}" if users else "recent:3"
    return {"items": (f"scores:{tastes / 'items.tsv'}",), "vector": vector, "control": control}


def row_of(tastes, name):
    given = {key: value for key, value in ROWS[name].items() if key != "refine"}
    guided = build(GuidedConfig, guided_of(tastes, **given), "guided")
    return variants.Row(name, guided, build(RefineConfig, ROWS[name].get("refine", {}), "refine"))


@pytest.fixture(scope="module")
def study(configured, tastes):
    section = {k: v for k, v in configured("recommender").items() if k != "system"}
    config = build(RunConfig, section, "config")
    store = recjax.prepare(configured("recommender"))
    rows = [row_of(tastes, name) for name in ROWS]
    return stacked.Study(config, store, rows, 3), {row.name: row for row in rows}


@pytest.mark.parametrize("name", ROWS)
def test_a_variant_is_the_run_of_its_config(study, configured, tastes, name):
    """The same vectors, and the same loss with the same dropout."""
    study, rows = study
    row = ROWS[name]
    guided = guided_of(tastes, **{k: v for k, v in row.items() if k != "refine"})
    config = build_config(complete(configured(guided=guided, refine=row.get("refine", {}))))
    run = GuidedRun(dataclasses.replace(config, seed=4), study.store)
    params = run.whole(run.init_state().params)
    arrays = study.arrays(variants.Variant(rows[name], 4))
    own = jax.tree.map(lambda a: a[0], study._init(jnp.array([4])))
    width = params["items/own/embedding"].shape[1]
    np.testing.assert_allclose(own["items/own/embedding"][:, :width], params["items/own/embedding"])
    mine = {**own, **arrays, **jax.tree.map(jnp.asarray, study.late(None))}
    for part, side in (("items", "items"), ("side", "guided_users")):
        if f"{side}/map/kernel" in params:  # they start elsewhere: from draws of their own
            mine[f"{part}/map"] = arrays[f"{part}/map"].copy()
            mine[f"{part}/map"][:, width:] = params[f"{side}/map/kernel"]
            mine[f"{part}/bias"] = np.zeros(study._width, np.float32)
            mine[f"{part}/bias"][width:] = np.arange(study._width - width) / 10
            params[f"{side}/map/bias"] = jnp.arange(study._width - width) / 10
    batch = study.test._batch(0)
    encoded = [jax.jit(one.encode)(p, batch) for one, p in ((run, params), (study.run, mine))]
    for a, b in zip(*encoded, strict=True):
        np.testing.assert_allclose(a, b[:, : a.shape[1]], atol=1e-5)
    train = jax.tree.map(lambda a: jnp.asarray(a[0]), run.batches(0, 1))
    key = jax.random.key(3)
    losses = [
        jax.jit(one.loss_fn)(p, train, one.data, key)
        for one, p in ((run, params), (study.run, mine))
    ]
    np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.fixture(scope="module")
def both(study):
    study, rows = study
    chosen = [variants.Variant(row, 0) for row in (variants.Row("base"), rows["joined"])]
    return study, study.train(chosen, told=lambda text: None)


@pytest.mark.parametrize(("place", "name"), [(0, "base"), (1, "joined")])
def test_training_side_by_side_is_training_alone(both, trained, place, name):
    _, found = both
    run = open_run(trained / name)
    step = run.best_step()
    assert found.steps[place] == step and found.ended[place] == "epochs"
    params, path = run.restore(step), "items/own/embedding"
    wanted = params.get(path, params.get("items/embedding"))
    mine = np.asarray(found.params[path][place])[:, : wanted.shape[1]]
    np.testing.assert_allclose(mine, wanted, atol=2e-4)


def test_fused_late_is_the_system_fused(both, configured, tastes, trained, tmp_path):
    study, found = both
    guided = guided_of(tastes)
    config = {
        "system": "fused", "base": str(trained / "base"), "guided": guided,
        "weights": (0.0, 0.1, 0.5), "evaluation": configured()["evaluation"],
    }  # fmt: skip
    result = recjax.train(config, tmp_path / "fused")
    late = variants.Variant(
        variants.Row("fused", build(GuidedConfig, guided, "guided"), late=True), 0
    )
    weights, values, tests = study.fuse([late, late], found.params, [0, 0], (0.0, 0.1, 0.5))
    assert weights == [result["weight"]] * 2 and values[0] == values[1]
    for name in ("test/full/ndcg@10", "test/full/mrr"):
        assert tests[0].metrics[name] == pytest.approx(result[name], abs=2e-3)
    base = study.measure(found.params)[0]
    assert tests[0].metrics["test/full/mrr"] > base.metrics["test/full/mrr"]


def test_a_base_of_fewer_numbers(study):
    own, _ = study
    arrays = own.arrays(variants.Variant(variants.Row("base", dim=5), 0))
    assert arrays["items/learned"].tolist() == [1] * 5 + [0] * 7
    assert not arrays["items/alpha"].any()
