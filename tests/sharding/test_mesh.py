"""Eight devices compute what one computes, whatever the mesh."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from recjax.config import build
from recjax.data.prepare import DataConfig, prepare
from recjax.errors import InputError
from recjax.models import sasrec
from recjax.training import parallel
from recjax.training.checkpoint import Checkpoints
from recjax.training.recommender import RecommenderRun, RunConfig

# Depth is to be shown by SASRec with softmax.
SHALLOW = {"bert4rec": {"layers": 1}, "dreamrec": {"layers": 1, "steps": 50, "schedule": "cosine"}}
UNDRAWN = ("softmax", "mse")  # objectives without negatives


def make_run(store, mesh, model="sasrec", objective="softmax"):
    small = SHALLOW.get(model, {}) if objective != "bpr_max" else {"layers": 1}
    section = {
        "data": {"source": "simulated", "store": str(store.path)},
        "model": {"name": model, "max_length": 20, "dim": 16, **small},
        "objective": {"name": objective} | ({} if objective in UNDRAWN else {"negatives": 8}),
        "train": {"batch_size": 32, "steps_per_call": 2, "mesh": mesh, "packed": False},
    }
    return RecommenderRun(build(RunConfig, section, "config"), store)


def losses(run, calls=3):
    steps, state, out = run.make_steps(), run.init_state(), []
    for call in range(calls):
        state, metrics = steps(state, run.place(2 * call, 2))
        out += metrics["loss"].tolist()
    return np.array(out), state


@pytest.fixture
def one_device(monkeypatch):
    """Meshes over a single device, as on a laptop."""
    devices = jax.devices()[:1]

    def make(shape=(1, 1, 1)):
        del shape
        return jax.sharding.Mesh(np.array(devices).reshape(1, 1, 1), parallel.MESH_AXES)

    def use(run_maker):
        with monkeypatch.context() as patch:
            patch.setattr(parallel, "make_mesh", make)
            return run_maker()

    return use


@pytest.mark.parametrize(
    ("mesh", "model", "objective"),
    [
        ((8, 1, 1), "sasrec", "softmax"),
        ((1, 8, 1), "sasrec", "bce"),
        ((2, 2, 2), "sasrec", "softmax"),
        ((2, 2, 2), "sasrec", "bpr_max"),
        ((2, 2, 2), "caser", "bce"),
        ((2, 2, 2), "bert4rec", "softmax"),
        ((2, 2, 2), "dreamrec", "mse"),
    ],
)
def test_any_mesh_trains_like_one_device(sample_store, one_device, mesh, model, objective):
    alone = one_device(lambda: make_run(sample_store, (1, 1, 1), model, objective))
    expected, alone_state = losses(alone)
    run = make_run(sample_store, mesh, model, objective)
    found, state = losses(run)
    np.testing.assert_allclose(found, expected, rtol=2e-4)
    ours = run.evaluator("test").run(state.params)
    theirs = alone.evaluator("test").run(alone_state.params)
    assert ours.keys() == theirs.keys()
    assert ours["test/full/hr@20"] == pytest.approx(theirs["test/full/hr@20"], abs=0.02)


def test_items_are_split_and_the_optimiser_follows(tmp_path):
    # 408 rows over fsdp x tensor = 4 x 2: 51 rows a device.
    store = prepare(DataConfig("simulated", str(tmp_path / "s"), options={"users": 1000}))
    run = make_run(store, (1, 4, 2))
    state = run.init_state()
    table = state.params["items/embedding"]
    assert table.shape[0] == 408
    assert table.sharding.shard_shape(table.shape) == (table.shape[0] // 8, 16)
    moments = [
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.opt_state)
        if "items/embedding" in jax.tree_util.keystr(path)
    ]
    assert len(moments) == 2
    assert all(m.sharding == table.sharding for m in moments)


def test_specs():
    mesh = parallel.make_mesh((1, 4, 2))

    def spec(path, shape):
        return parallel.spec_for(path, shape, sasrec.PARAM_AXES, mesh)

    assert spec("items/embedding", (16, 8)) == PartitionSpec(("fsdp", "tensor"), None)
    assert spec("items/embedding", (17, 8)) == PartitionSpec(None, None)  # does not divide
    assert spec("blocks/0/up/kernel", (8, 8)) == PartitionSpec(None, ("tensor",))
    assert spec("final_norm/scale", (8,)) == PartitionSpec(None)
    with pytest.raises(ValueError, match="no sharding rule covers parameter odd"):
        parallel.spec_for("odd", (2,), ((r"even", (None,)),), mesh)
    with pytest.raises(InputError, match="does not fit 8 devices"):
        parallel.make_mesh((3, -1, 1))


def test_a_checkpoint_moves_to_another_mesh(sample_store, tmp_path, one_device):
    run = make_run(sample_store, (1, 4, 2))
    _, state = losses(run, calls=1)
    checkpoints = Checkpoints(tmp_path / "c")
    checkpoints.save(2, state, {}, None)
    checkpoints.wait()
    alone = one_device(lambda: make_run(sample_store, (1, 1, 1)))
    assert state.params["items/embedding"].shape[0] == 352 > alone.store.n_items
    moved = checkpoints.restore(2, alone.abstract_state(), padded=alone.padded)
    assert jax.tree.structure(moved) == jax.tree.structure(state)
    for a, b in zip(jax.tree.leaves(moved), jax.tree.leaves(state), strict=True):
        b = np.asarray(b)
        np.testing.assert_array_equal(np.asarray(a), b[: len(a)] if b.ndim else b)
        assert not b.ndim or not b[len(a) :].any()
    checkpoints.save(3, moved, {}, None)
    checkpoints.wait()
    back = checkpoints.restore(3, run.abstract_state(), padded=True)
    for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    assert moved.params["items/embedding"].sharding.num_devices == 1


def test_one_trace_for_all_calls(sample_store):
    run = make_run(sample_store, (2, 2, 2))
    traces = 0
    loss_fn = run.loss_fn

    def counting(*args):
        nonlocal traces
        traces += 1
        return loss_fn(*args)

    run.loss_fn = counting
    losses(run, calls=1)
    first = traces
    losses(run, calls=4)
    assert traces == 2 * first  # once more for the second `make_steps`, not for every call
