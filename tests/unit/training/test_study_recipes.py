"""scripts/study_recipes.py: settings side by side are the runs that their keys name."""

import importlib.util
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.errors import InputError
from recjax.training.optim import OptimConfig, averaged, make_optimizer
from recjax.training.recommender import RecommenderRun
from recjax.training.workdir import build_config

SCRIPT = Path(__file__).resolve().parents[3] / "scripts/study_recipes.py"
CONFIG = """
from ml_collections import ConfigDict

def get_config(arg=None):
    config = ConfigDict()
    config.data = {"source": "simulated", "store": "STORE", "options": OPTIONS}
    config.model = {"name": "ligr", "dim": 8, "mlp_dim": 8, "layers": 1, "heads": 1,
                    "max_length": 6, "cosine": True, "repeats": True}
    config.objective = {"name": "softmax"}
    config.train = {"batch_size": 64, "epochs": 1.0, "evaluate_every": 1.0}
    return config
"""


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("study_recipes", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_settings_side_by_side(script, sample_store, tmp_path, capsys):
    options = {"users": 120, "mean_length": 10.0, "max_length": 30}
    text = CONFIG.replace("STORE", str(sample_store.path)).replace("OPTIONS", repr(options))
    (tmp_path / "config.py").write_text(text)
    given = [f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'out'}"]
    script.main([*given, "--size=2", "--rounds=1", "--config.model.init_std=0.1"])
    lines = (tmp_path / "out/settings.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    values = [row["validation/full/ndcg@10"] for row in rows]
    assert len(rows) == 2 and values == sorted(values, reverse=True)
    assert all("test/full/ndcg@10" in row and row["epoch"] == 1 for row in rows)
    said = capsys.readouterr().out.splitlines()[-1]
    assert f"--config.objective.temperature={rows[0]['setting']['objective.temperature']}" in said
    # A setting's loss is that of a run with its keys.
    setting = {**rows[0]["setting"], "model.dropout": 0.0, "model.item_dropout": 0.0}
    model = {"name": "ligr", "dim": 8, "mlp_dim": 8, "layers": 1, "heads": 1, "max_length": 6,
             "cosine": True, "repeats": True, "dropout": 0.0}  # fmt: skip
    own = {key.partition(".")[2]: v for key, v in setting.items() if key.startswith("objective.")}
    data = {"source": "simulated", "store": str(sample_store.path)}
    config = {"data": data, "model": model, "objective": {"name": "softmax", **own}}
    run = RecommenderRun(build_config(config), sample_store)
    batch = {name: array[0] for name, array in run.place(0, 1).items()}
    params = {**run.init_state().params, "again": jnp.float32(-0.3)}
    traced = {key: jnp.float32(value) for key, value in setting.items()}
    study = script.SideBySide(run)
    found = jax.jit(study._loss)(params, batch, traced, jax.random.key(0))
    total, weight = jax.jit(run.loss_fn)(params, batch, run.data, jax.random.key(0))
    assert float(found) == pytest.approx(float(total / weight), rel=1e-5)


def test_what_it_refuses(script, sample_store, tmp_path):
    text = CONFIG.replace("STORE", str(sample_store.path)).replace("OPTIONS", "{}")
    (tmp_path / "config.py").write_text(
        text.replace('"softmax"', '"bpr"').replace('"repeats": True', '"repeats": False')
    )
    with pytest.raises(InputError, match="of objective 'softmax'"):
        script.main([f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'out'}"])
    (tmp_path / "config.py").write_text(text)
    for key, message in (
        ("optim.clip_norm=1", "config.optim.clip_norm: 1.0; a search trains with 0.0 alone"),
        ("train.dtype=bfloat16", "config.train.dtype: 'bfloat16'; a search trains with"),
        ("start=runs/other", "config.start: 'runs/other'; a search trains with '' alone"),
    ):
        given = [f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'out'}"]
        with pytest.raises(InputError, match=message):
            script.main([*given, f"--config.{key}"])
    assert not (tmp_path / "out").exists()


def test_a_step_is_that_of_the_optimiser(script):
    setting = {"optim.learning_rate": 0.1, "optim.weight_decay": 0.2, "optim.average": 0.5,
               "optim.decay_epochs": 1.5}  # fmt: skip
    keys = {key.partition(".")[2]: value for key, value in setting.items()}
    config = OptimConfig(**keys, warmup_steps=2, b2=0.9)
    rng = np.random.default_rng(0)
    shapes = {"layers/norm/scale": (2, 3), "layers/out/bias": (2, 3), "layers/out/kernel": (2, 3)}
    params = {path: rng.normal(size=shape).astype(np.float32) for path, shape in shapes.items()}
    state = {"params": params, "average": params}
    state |= {name: {path: 0 * a for path, a in params.items()} for name in "mv"}
    optimizer = make_optimizer(config, 4)
    step = jax.jit(optimizer.update)
    ours = jax.jit(lambda *given: script.updated(config, 4, *given))
    opt_state, theirs = optimizer.init(params), params
    for number in range(5):
        grads = {p: rng.normal(size=a.shape).astype(np.float32) for p, a in params.items()}
        updates, opt_state = step(grads, opt_state, theirs)
        theirs = {path: a + np.asarray(updates[path]) for path, a in theirs.items()}
        state = ours(state, grads, setting, np.float32(number))
    for path, array in theirs.items():
        np.testing.assert_allclose(state["params"][path], array, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(state["average"][path], averaged(opt_state)[path], rtol=1e-5)
