"""Optimiser, checkpoints, metric files, the loop's decisions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

from recjax.errors import InputError
from recjax.training.checkpoint import Checkpoints
from recjax.training.loop import DivergedError, _checked
from recjax.training.metrics import MetricWriter, format_table, read_metrics
from recjax.training.optim import (
    OptimConfig,
    OptimRule,
    averaged,
    check_rules,
    make_optimizer,
    schedule,
)
from recjax.training.state import TrainState
from recjax.training.step import make_steps


def test_schedule():
    rate = schedule(OptimConfig(learning_rate=1.0, warmup_steps=4, decay_epochs=1.5), 8)
    assert [float(rate(s)) for s in (0, 1, 3, 4)] == [0.25, 0.5, 1.0, 1.0]
    assert float(rate(8)) == pytest.approx(0.5)
    assert float(rate(12)) == pytest.approx(0.0, abs=1e-6)


def test_a_ramp_is_the_papers_warm_up():
    """RecInterpreter, section 4.1.2: 1e-4 during the first epoch, linearly to 5e-4 at the fifth."""
    config = OptimConfig(learning_rate=5e-4, ramp_rate=1e-4, ramp_epochs=(1.0, 4.0))
    rate = schedule(config, 10)
    assert [float(rate(step)) for step in (0, 5, 9, 10)] == pytest.approx([1e-4] * 4)
    rising = [float(rate(step)) for step in range(10, 41)]
    assert np.diff(rising) == pytest.approx([4e-4 / 30] * 30, rel=1e-4)
    assert float(rate(25)) == pytest.approx(3e-4)
    assert [float(rate(step)) for step in (40, 41, 1000)] == pytest.approx([5e-4] * 3)
    # Under jit, as a step is an array; and it is what the optimiser takes.
    assert float(jax.jit(rate)(jnp.int32(25))) == pytest.approx(3e-4)
    optimizer = make_optimizer(config, 10)
    params = {"w": jnp.zeros(1)}
    state, gradient, moved = optimizer.init(params), {"w": jnp.ones(1)}, []
    for _ in range(41):
        updates, state = optimizer.update(gradient, state, params)
        moved.append(-float(updates["w"][0]))
    assert moved[5] == pytest.approx(1e-4, rel=1e-4) and moved[40] == pytest.approx(5e-4, rel=1e-4)


def test_a_ramp_and_a_warm_up_are_one_too_many():
    for other in ({"warmup_steps": 3}, {"decay_epochs": 1.0}):
        with pytest.raises(InputError, match="ramp_epochs: a ramp is in place of"):
            OptimConfig(ramp_epochs=(1.0, 4.0), **other)


def test_a_ramp_may_be_a_step():
    rate = schedule(OptimConfig(learning_rate=1.0, ramp_rate=0.5, ramp_epochs=(2.0, 2.0)), 4)
    assert [float(rate(step)) for step in (0, 7, 9)] == [0.5, 0.5, 1.0]


def test_weight_decay_is_for_matrices():
    optimizer = make_optimizer(OptimConfig(learning_rate=0.1, weight_decay=0.5), 1)
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    np.testing.assert_allclose(updates["w"], -0.05, rtol=1e-6)
    np.testing.assert_allclose(updates["b"], 0.0)


def test_muon_is_for_kernels_and_its_updates_are_orthogonal():
    rng = np.random.default_rng(0)
    shapes = {"layers/up/kernel": (2, 6, 24), "head/kernel": (6, 9), "items/embedding": (9, 6)}
    params = {path: jnp.zeros(shape) for path, shape in shapes.items()}
    gradient = {path: jnp.asarray(rng.normal(size=s)) for path, s in shapes.items()}
    # Some directions are a hundred times as steep as others.
    gradient["layers/up/kernel"] *= np.geomspace(1, 100, 6)[:, None]
    # Optax's own, which decays nothing by name, is the same rule.
    kernels = dict.fromkeys(shapes) | {"layers/up/kernel": contrib.MuonDimensionNumbers(1, 2)}
    reference = contrib.muon(0.1, muon_weight_dimension_numbers=kernels, consistent_rms=0.2)
    optimizer = make_optimizer(OptimConfig(name="muon", learning_rate=0.1), 1)
    state, expected = optimizer.init(params), reference.init(params)
    for _ in range(2):
        updates, state = optimizer.update(gradient, state, params)
        wanted, expected = reference.update(gradient, expected, params)
        for path, update in updates.items():
            np.testing.assert_allclose(update, wanted[path], rtol=1e-5, err_msg=path)
    for kernel, layer in zip(
        updates["layers/up/kernel"], gradient["layers/up/kernel"], strict=True
    ):
        values = np.linalg.svd(kernel, compute_uv=False)
        # Newton-Schulz with these coefficients ends between 0.7 and 1.2.
        assert values.max() / values.min() < 2 < 10 < np.linalg.cond(layer)
        np.testing.assert_allclose(np.sqrt(np.mean(kernel**2)), 0.1 * 0.2, rtol=0.2)


def test_weight_decay_leaves_stacked_norms_and_biases_alone():
    """In a stack the biases of all layers are one matrix; THUDM/GLM decays no bias. HSTU's biases
    of distances are tables."""
    optimizer = make_optimizer(OptimConfig(learning_rate=0.1, weight_decay=0.5), 1)
    alone = (
        "layers/norm/scale",
        "layers/norm/bias",
        "layers/up/bias",
        "encoder_bias",
        "blocks/0/time_bias/table",
    )
    shapes = dict.fromkeys(alone, (2, 3)) | {"layers/up/kernel": (2, 3, 3), "embedding": (2, 3)}
    params = {path: jnp.ones(shape) for path, shape in shapes.items()}
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zero, optimizer.init(params), params)
    assert {path for path, update in updates.items() if not update.any()} == {*alone}


def test_rules_of_decay_and_rate_come_before_the_usual_ones():
    """The first rule that says something about a property decides, each property by itself."""
    rules = (
        OptimRule("norm/scale", decay=2.0),
        OptimRule("up/kernel", rate=0.5),
        OptimRule(".*/kernel", decay=0.0, rate=3.0),
        OptimRule("b", decay=1.0),
    )
    optimizer = make_optimizer(OptimConfig(learning_rate=0.1, weight_decay=0.5, rules=rules), 1)
    shapes = {"norm/scale": (3,), "up/kernel": (3, 3), "down/kernel": (3, 3), "b": (2,), "c": (2,)}
    params = {path: jnp.ones(shape) for path, shape in shapes.items()}
    zero, state = jax.tree.map(jnp.zeros_like, params), optimizer.init(params)
    decayed = {
        path: -float(u.max()) for path, u in optimizer.update(zero, state, params)[0].items()
    }
    expected = {"norm/scale": 0.1, "up/kernel": 0, "down/kernel": 0, "b": 0.05, "c": 0}
    assert decayed == pytest.approx(expected)
    moved, _ = optimizer.update(jax.tree.map(jnp.ones_like, params), state, params)
    assert float(moved["up/kernel"].max()) == pytest.approx(-0.05, rel=1e-4)
    assert float(moved["down/kernel"].max()) == pytest.approx(-0.3, rel=1e-4)
    assert float(moved["c"].max()) == pytest.approx(-0.1, rel=1e-4)


def test_rules_choose_muons_matrices():
    rules = (OptimRule("items/.*", muon=True), OptimRule("up/kernel", muon=False))
    config = OptimConfig(name="muon", learning_rate=0.1, rules=rules)
    params = {path: jnp.zeros((4, 6)) for path in ("items/embedding", "up/kernel", "down/kernel")}
    state = make_optimizer(config, 1).init(params)[0].inner_states
    found = {
        label: {path for path, leaf in params.items() if f"'{path}'" in _shown(state[label])}
        for label in ("kernel", "other")
    }
    assert found == {"kernel": {"items/embedding", "down/kernel"}, "other": {"up/kernel"}}
    vector = {"items/bias": jnp.zeros(4)}
    with pytest.raises(InputError, match=r"rules\[0\].muon: 'items/bias' is a vector"):
        check_rules(config, vector)


def _shown(state):
    return str([path for path, _ in jax.tree_util.tree_leaves_with_path(state)])


def test_clipping():
    optimizer = make_optimizer(OptimConfig(learning_rate=1.0, clip_norm=1.0, eps=1.0), 1)
    params = {"w": jnp.zeros(2)}
    updates, _ = optimizer.update({"w": jnp.array([30.0, 40.0])}, optimizer.init(params), params)
    # Clipped to [0.6, 0.8]; Adam's first step is then g / (|g| + eps).
    np.testing.assert_allclose(updates["w"], [-0.6 / 1.6, -0.8 / 1.8], rtol=1e-5)
    with pytest.raises(InputError, match="eps: expected more than 0, got 0.0"):
        OptimConfig(eps=0.0)  # a row without a gradient would be 0 / 0


def quadratic(params, batch, data, key):
    noise = jax.random.normal(key)
    return jnp.sum((params["w"] - batch["x"] - data) ** 2) + 0 * noise, jnp.float32(2)


def test_an_average_follows_the_parameters():
    optimizer = make_optimizer(OptimConfig(learning_rate=0.1, average=0.9), 1)
    params = {"w": jnp.ones(2)}
    state = optimizer.init(params)
    assert averaged(state) == {}  # no step yet
    expected = np.zeros(2)
    for step in range(120):
        updates, state = optimizer.update({"w": jnp.full(2, np.cos(step))}, state, params)
        params = optax.apply_updates(params, updates)
        kept = min(0.9, step / (step + 10))
        expected = kept * expected + (1 - kept) * np.asarray(params["w"])
    np.testing.assert_allclose(averaged(state)["w"], expected, rtol=1e-5)
    assert averaged(make_optimizer(OptimConfig(), 1).init(params)) == {}


def test_steps_are_the_single_steps_in_order():
    optimizer = optax.sgd(0.1)
    x = jnp.arange(3.0)

    def start():
        params = {"w": jnp.zeros(())}
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))

    steps = make_steps(quadratic, optimizer)
    together, metrics = steps(start(), {"x": x}, 1.0, jax.random.key(0))
    w, losses, slopes = 0.0, [], []
    for target in (1.0, 2.0, 3.0):
        losses.append((w - target) ** 2 / 2)  # the mean over a weight of two
        slopes.append(abs(w - target))
        w -= 0.1 * (w - target)
    assert float(together.params["w"]) == pytest.approx(w)
    np.testing.assert_allclose(metrics["loss"], losses, rtol=1e-5)
    np.testing.assert_allclose(metrics["grad_norm"], slopes, rtol=1e-5)
    assert int(together.step) == 3 and metrics["weight"].tolist() == [2, 2, 2]


def test_the_state_is_donated():
    steps = make_steps(quadratic, optax.sgd(0.1))
    state = TrainState(jnp.zeros((), jnp.int32), {"w": jnp.zeros(())}, optax.EmptyState())
    steps(
        TrainState(state.step, state.params, optax.sgd(0.1).init(state.params)),
        {"x": jnp.ones(1)},
        0.0,
        jax.random.key(0),
    )
    assert state.params["w"].is_deleted()


# --- checkpoints


def save_all(checkpoints, values):
    best = None
    for step, value in enumerate(values, start=1):
        if best is None or value > values[best - 1]:
            best = step
        checkpoints.save(step, {"w/0": jnp.full(3, float(step))}, {"value": value}, best)
    checkpoints.wait()
    return best


def test_latest_and_best_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    assert checkpoints.latest() is None
    assert save_all(checkpoints, [0.1, 0.5, 0.2, 0.3, 0.4]) == 2
    checkpoints.close()
    reader = Checkpoints(tmp_path / "c", read_only=True)
    assert reader.latest() == 5
    abstract = {"w/0": jax.ShapeDtypeStruct((3,), jnp.float32)}
    assert [reader.restore(s, abstract)["w/0"][0] for s in (2, 4, 5)] == [2, 4, 5]
    assert reader.meta(2) == {"value": 0.5}
    with pytest.raises(InputError, match="no complete checkpoint of step 3"):
        reader.restore(3, abstract)


def test_a_half_deleted_step_does_not_count(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", keep=3)
    save_all(checkpoints, [0.1, 0.2])
    checkpoints.close()
    (tmp_path / "c" / "2" / "_CHECKPOINT_METADATA").unlink()
    (tmp_path / "c" / "trash").mkdir(exist_ok=True)
    again = Checkpoints(tmp_path / "c", keep=3)
    assert again.latest() == 1
    assert not (tmp_path / "c" / "trash").exists()


def test_a_state_of_another_shape_is_refused(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c")
    save_all(checkpoints, [0.1])
    for abstract in ({"other": jax.ShapeDtypeStruct((3,), jnp.float32)},):
        with pytest.raises(InputError, match="c/1: not a checkpoint of this model"):
            checkpoints.restore(1, abstract)


# --- metric files


def test_a_resumed_run_drops_what_it_will_write_again(tmp_path):
    writer = MetricWriter(tmp_path)
    for step in (10, 20, 30):
        writer.write(step, {"loss": step / 10})
    writer.write(20, {"final": True, "x": 1.0})
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "lo')  # a kill while writing
    writer = MetricWriter(tmp_path, 20)
    writer.write(30, {"loss": 9.0})
    writer.close()
    assert read_metrics(tmp_path / "metrics.jsonl") == [
        {"step": 10, "loss": 1.0},
        {"step": 20, "loss": 2.0},
        {"step": 30, "loss": 9.0},
    ]
    assert list(tmp_path.glob("events.*"))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"oops", "not a readable JSON"),
        (b"", "not a readable JSON"),
        (b'{"step": 1, "x": "\xff"}', "not UTF-8"),
        (b"[" * 100_000, "JSON nested deeper"),
        (b"[1]", "expected an object with a whole number as its 'step'"),
        (b'{"loss": 1}', "expected an object with a whole number as its 'step'"),
        (b'{"step": "1"}', "expected an object with a whole number as its 'step'"),
        (b'{"step": 1.5}', "expected an object with a whole number as its 'step'"),
        (b'{"step": -1}', "expected an object with a whole number as its 'step'"),
        (b'{"step": 1, "loss": "low"}', "'loss' is 'low'; expected a number"),
        (b'{"step": 1, "loss": [1]}', "'loss' is [1]; expected a number"),
        (b'{"step": 1, "loss": 1%s}' % (b"0" * 400), "expected a number"),
    ],
    ids=range(12),
)
def test_a_damaged_metrics_file_names_its_line_and_key(tmp_path, line, said):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "loss": NaN, "x": null}\n' + line + b'\n{"step": 2}\n')
    with pytest.raises(InputError) as error:
        read_metrics(path)
    assert str(error.value).startswith(f"{path}:2: ") and said in str(error.value)


def test_table():
    table = format_table({"test/full/hr@1": 0.5, "test/full/hr@10": 0.75, "test/uni100/hr@1": 1.0})
    assert table.splitlines() == [
        "test/full       @1      @10",
        "hr          0.5000   0.7500",
        "",
        "test/uni100       @1",
        "hr            1.0000",
    ]


# --- the loop's decisions


def test_the_step_that_diverged_is_named():
    loss = np.array([1.0, 2.0, np.nan, np.nan])
    with pytest.raises(DivergedError, match="step 103: loss nan, gradient norm 1.0; the last che"):
        _checked({"loss": loss, "grad_norm": np.ones(4)}, 100)
    with pytest.raises(DivergedError, match="step 2: loss 1.0, gradient norm inf"):
        _checked({"loss": np.ones(4), "grad_norm": np.array([1, np.inf, 1, 1])}, 0)
    assert _checked({"loss": loss[:2], "grad_norm": np.ones(2)}, 0).tolist() == [1.0, 2.0]
