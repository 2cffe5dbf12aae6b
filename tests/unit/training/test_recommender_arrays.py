"""Recommenders with arrays from data, and with rules of the optimiser: any model, no subclass."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from recjax.errors import InputError
from recjax.models.recommender import NAMES
from recjax.training.checkpoint import Checkpoints
from recjax.training.criteria import Progress
from recjax.training.objectives import ObjectiveConfig
from recjax.training.recommender import RecommenderRun
from recjax.training.state import state_of
from recjax.training.workdir import build_config, start_run

FROZEN = ((r"items/features", "frozen"), (r".*", "trained"))
SMALL = {
    "sasrec": {"layers": 1}, "bert4rec": {"layers": 1},
    "dreamrec": {"steps": 20, "schedule": "cosine", "sampler_steps": 5},
    "fdsa": {"attributes": "genres", "layers": 1}, "s3rec": {"attributes": "genres", "layers": 1},
    "ligr": {"layers": 1}, "filtered": {"layers": 1}, "hstu": {"layers": 1},
    "wearec": {"layers": 1},
}  # fmt: skip


def config_of(store, name="sasrec", **sections):
    model = {"name": name, "dim": 8, "max_length": 6, **SMALL.get(name, {})}
    options = {"users": 120, "mean_length": 10.0, "max_length": 30}  # as the sample's
    data = {"source": "simulated", "store": str(store.path), "options": options}
    train = {"batch_size": 32, "epochs": 1.0, "steps_per_call": 2}
    return build_config({"data": data, "model": model, "train": train} | sections)


def features_of(store, seed=0):
    values = np.random.default_rng(seed).normal(size=(store.n_items, 5))
    return {"items/features": values.astype(np.float32)}


def moments(state):
    """Paths of parameters that have optimiser state."""
    leaves = jax.tree_util.tree_leaves_with_path(state.opt_state)
    return {
        key.key for path, _ in leaves for key in path if isinstance(getattr(key, "key", 0), str)
    }


@pytest.mark.parametrize("name", NAMES)
def test_every_model_reads_a_frozen_table(sample_store, name):
    arrays = features_of(sample_store)
    run = RecommenderRun(config_of(sample_store, name), sample_store, arrays=arrays, rules=FROZEN)
    state = run.init_state()
    frozen = {path for path, role in run.roles.items() if role == "frozen"}
    assert set(arrays) <= frozen
    assert set(state.params) == moments(state) == set(run.model.shapes) - frozen
    before = np.array(state.params["items/map/kernel"])
    batch = run.place(0, 2)
    state, metrics = run.make_steps()(state, batch)
    assert np.isfinite(metrics["loss"]).all()
    assert (np.asarray(state.params["items/map/kernel"]) != before).any(axis=1).all()
    read = ("ids", "positions", "segments") + ("users",) * run.personal
    examples = {k: v[0] for k, v in batch.items() if k in read}
    # The vectors of a model that reads no history are its users' alone.
    table = not type(run.model.merge(run.whole(state.params))).reads_history

    @jax.jit
    def encode(params):
        module = run.model.merge(params)
        return module.item_table() if table else module.encode(**examples)

    whole = run.whole(state.params)
    other = {**whole, **features_of(sample_store, 1)}
    assert np.abs(encode(whole) - encode(other)).max() > 1e-3


@pytest.mark.parametrize(
    ("dropout", "objective"), [(0.5, {"name": "softmax"}), (0.0, {"name": "bce"})]
)
def test_every_key_has_dropout_and_negatives_of_its_own(sample_store, dropout, objective):
    model = {"name": "bpr", "dim": 4, "max_length": 4, "dropout": dropout}
    run = RecommenderRun(config_of(sample_store, model=model, objective=objective), sample_store)
    rng = np.random.default_rng(0)
    params = {path: rng.normal(size=a.shape).astype("f") for path, a in run.model.shapes.items()}
    batch = {name: a[0] for name, a in run.batches(0).items()}
    loss = jax.jit(lambda *given: run.loss_fn(*given)[0])
    given = params, batch, run.objective.data
    first, second = (float(loss(*given, jax.random.key(seed))) for seed in (0, 1))
    assert abs(first - second) > 1e-3


def test_a_checkpoint_belongs_to_its_frozen_table(sample_store, tmp_path):
    config = config_of(sample_store, train={"batch_size": 500, "epochs": 1.0})
    runs = [
        RecommenderRun(
            config, sample_store, tmp_path, arrays=features_of(sample_store, seed), rules=FROZEN
        )
        for seed in (0, 0, 1)
    ]
    out = runs[0].train()
    step = runs[1].best_step()
    assert runs[1].evaluator("test").run(runs[1].restore(step)) == {
        key: value for key, value in out.items() if "/" in key
    }
    with pytest.raises(InputError, match="a checkpoint of another arrays"):
        runs[2].restore(step)


def test_a_table_may_start_from_vectors_and_be_trained(sample_store):
    vectors = np.random.default_rng(0).normal(size=(sample_store.n_items, 8)).astype(np.float32)
    run = RecommenderRun(config_of(sample_store), sample_store, arrays={"items/embedding": vectors})
    plain = RecommenderRun(config_of(sample_store), sample_store).init_state().params
    params = run.init_state().params
    np.testing.assert_array_equal(params.pop("items/embedding"), vectors)
    for path, value in params.items():
        np.testing.assert_array_equal(value, plain[path], err_msg=path)


@pytest.mark.parametrize(
    ("arrays", "rules", "message"),
    [
        (
            {"items/embeding": (9, 8)},
            None,
            "no parameter 'items/embeding'; did you mean 'items/",
        ),
        ({"items/embedding": (9, 8)}, None, r"'items/embedding' has shape \(9, 8\), expected"),
        ({"items/features": (9, 4)}, FROZEN, r"'items/features' has shape \(9, 4\), expected"),
        ({}, ((r"items/.*", "frozen"), (r".*", "trained")), "lack 'items/embedding', which is fro"),
        ({}, ((r"items/.*", "trained"),), "no freezing rule covers parameter"),
        ({}, ((r".*", "kept"),), "nothing is trained"),
    ],
)
def test_arrays_that_do_not_fit(sample_store, arrays, rules, message):
    arrays = {path: np.zeros(shape, np.float32) for path, shape in arrays.items()}
    options = {} if rules is None else {"rules": rules}
    with pytest.raises(InputError, match=message):
        RecommenderRun(config_of(sample_store), sample_store, arrays=arrays, **options)


def test_rules_of_a_config_freeze_slow_down_and_are_checked(sample_store):
    rules = (
        {"match": "items/.*", "frozen": True},
        {"match": "positions/.*", "rate": 0.0},
        {"match": "final_norm/.*", "rate": 0.5},
    )
    run = RecommenderRun(config_of(sample_store, optim={"rules": rules}), sample_store)
    state = run.init_state()
    assert "items/embedding" in state.params
    assert moments(state) == set(state.params) - {"items/embedding"}
    before = {path: np.array(value) for path, value in state.params.items()}
    state, _ = run.make_steps()(state, run.place(0, 1))
    moved = {p: float(np.abs(np.asarray(v) - before[p]).max()) for p, v in state.params.items()}
    assert moved["items/embedding"] == moved["positions/embedding"] == 0
    # Adam's first step is as long as the rate.
    assert moved["final_norm/scale"] == pytest.approx(5e-4, rel=0.02)
    assert moved["blocks/0/up/kernel"] == pytest.approx(1e-3, rel=0.02)


def test_checkpoints_with_optimiser_state_of_kept_parameters_are_read(sample_store, tmp_path):
    """As earlier versions wrote them, of an interpreter's whitening."""
    rules, train = ({"match": "items/.*", "frozen": True},), {"batch_size": 500, "epochs": 1.0}
    run = start_run(config_of(sample_store, optim={"rules": rules}, train=train), tmp_path)
    old = state_of(run.init_state().params, run.optimizer, run.axes, run.mesh)
    assert moments(old) == set(old.params)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    meta = {**run.identity, "progress": dataclasses.asdict(Progress())}
    checkpoints.save(0, old, meta, None)
    checkpoints.close()
    for path, value in run.restore(0).items():
        np.testing.assert_array_equal(value, old.params[path])
    assert run.train()["finished"]
    wrong = RecommenderRun(config_of(sample_store), sample_store, tmp_path)
    with pytest.raises(InputError, match="not a checkpoint of this model"):
        wrong.train()


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (({"match": "itens/.*", "rate": 0.1},), r"rules\[0\]: 'itens/\.\*' matches no trained"),
        (({"match": ".*", "frozen": True},), "rules: freeze every parameter"),
        (({"match": "(", "rate": 1.0},), r"rules\[0\].match: '\(' is no regular expression"),
        (({"match": ".*"},), r"rules\[0\].match: '\.\*': expected one of rate, decay, muon"),
        (({"match": ".*", "rate": -1.0},), r"rules\[0\].rate: expected"),
        (({"match": ".*", "rat": 1.0},), r"unknown config key 'config.optim.rules\[0\].rat'"),
        (({"match": ".*kernel", "muon": True},), r"rules\[0\].muon: expected name 'muon'"),
        (("items",), "rules: expected a tuple of sections"),
    ],
)
def test_wrong_rules_are_told_before_anything_is_written(sample_store, tmp_path, rules, message):
    with pytest.raises(InputError, match=message):
        start_run(config_of(sample_store, optim={"rules": rules}), tmp_path / "W")
    assert not (tmp_path / "W").exists()


def test_a_run_from_before_there_were_rules_goes_on(sample_store, tmp_path):
    config = config_of(sample_store)
    start_run(config, tmp_path).claim.release()
    file = tmp_path / "config.json"
    record = json.loads(file.read_text())
    assert record["config"]["optim"].pop("rules") == []
    file.write_text(json.dumps(record))
    start_run(config, tmp_path).claim.release()
    assert json.loads(file.read_text())["config"]["optim"]["rules"] == []


def test_a_run_of_prefixes_keeps_and_measures_its_average(sample_store, tmp_path):
    config = config_of(
        sample_store,
        "ligr",
        objective={"name": "softmax", "temperature": 0.1},
        optim={"average": 0.9},
    )
    config = dataclasses.replace(
        config,
        model={**config.model, "layers": 1, "mlp_dim": 8, "cosine": True, "repeats": True},
        train=dataclasses.replace(config.train, prefixes=True, epochs=0.1),
    )
    run = start_run(config, tmp_path / "run")
    result = run.train()
    params, state = run.restore(run.best_step()), run._state(run.checkpoints, run.best_step())
    assert (np.asarray(params["items/embedding"]) != state.params["items/embedding"]).any()
    assert params["again"] != 0
    # Recommendations have it, too, where the history's items take part.
    history = sample_store.items[: sample_store.offsets[1]]
    scores = run.model.merge(params).scores(np.asarray(history[None, -6:]))
    best = run.recommend(sample_store.user_keys[:1], k=1, filter_seen=False, params=params)
    assert best.ids[0, 0] == 1 + scores[0, 1:].argmax()
    products = {**config.model, "cosine": False}
    for objective, model, message in (
        (ObjectiveConfig(), products, "config.model.repeats: only a softmax learns how"),
        (ObjectiveConfig(), config.model, "config.objective: scores of ligr are cosines"),
        (ObjectiveConfig("softmax"), config.model, "a temperature such as 0.05"),
        (ObjectiveConfig("ccl"), products, "config.objective.name: 'ccl' is of cosines"),
    ):
        refused = dataclasses.replace(config, objective=objective, model=model)
        with pytest.raises(InputError, match=message):
            start_run(refused, tmp_path / "refused")
    found = run.evaluator("test").run(params)
    assert found == {name: result[name] for name in found}
    assert run.batches.n_sequences > 4 * len(run.split.train)
    with pytest.raises(InputError, match=r"config.train.prefixes: expected a model that reads"):
        masked = dataclasses.replace(config, model={"name": "bert4rec"})
        start_run(masked, tmp_path / "masked")
    assert not (tmp_path / "masked").exists()
