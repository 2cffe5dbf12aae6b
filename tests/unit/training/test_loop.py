"""When training ends: goals, patience, a cap; what it writes on the way."""

import dataclasses
import math
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from recjax.errors import InputError
from recjax.training.criteria import Progress, unmet
from recjax.training.loop import Loop
from recjax.training.metrics import format_table
from recjax.training.optim import CooldownState, OptimConfig, make_optimizer, set_cooldown
from recjax.training.state import TrainState
from recjax.training.train_config import TrainConfig, total_steps, validation_steps


def judged(values, *, metric="m", patience=0, goals=None):
    progress, ends = Progress(), []
    for step, value in enumerate(values, start=1):
        ends.append(
            progress.judge(
                {metric: value}, step, metric=metric, patience=patience, goals=goals or {}
            )
        )
    return progress, ends


@pytest.mark.parametrize(
    ("metric", "best"), [("a/loss", 3), ("a/perplexity", 3), ("a/exact", 1), ("loss/hr@1", 1)]
)
def test_the_best_of_a_falling_metric(metric, best):
    progress, _ = judged([0.9, 0.5, 0.2, 0.4], metric=metric, patience=9)
    assert (progress.best_step, progress.stale) == (best, 4 - best)


def test_patience():
    progress, ends = judged([0.1, 0.3, 0.2, math.nan], patience=2)
    assert ends == [False, False, False, True]
    assert (progress.best_step, progress.stale, progress.stopped) == (2, 2, True)
    progress, ends = judged(range(9, 0, -1))
    assert not any(ends) and not progress.stopped


def test_patience_waits_for_the_goals():
    _, ends = judged([0.1, 0.1, 0.1, 0.5, 0.5], patience=1, goals={"m": 0.3})
    assert ends == [False, False, False, False, True]
    _, ends = judged([0.1, 0.5], goals={"m": 0.3})
    assert ends == [False, True]


def test_a_raised_cap_takes_up_what_has_not_ended_otherwise():
    assert Progress(cap=16).may_go_on(17, 0) and not Progress(cap=16).may_go_on(16, 0)
    assert not Progress(cap=16, stopped=True, stale=2).may_go_on(17, 2)
    assert not Progress(cap=16, met=True).may_go_on(17, 0)
    # Goals that are met are not the end where patience must end, too.
    assert Progress(cap=16, met=True).may_go_on(17, 2)
    assert not Progress(cap=16, met=True, stopped=True, stale=2).may_go_on(17, 2, True)
    # Before its cap a run goes on until it stops, and then through its cool-down.
    assert Progress(met=True).may_go_on(16, 0)
    assert not Progress(stopped=True, stale=2).may_go_on(16, 2)
    assert Progress(stopped=True, stale=2, cooling=8).may_go_on(16, 2)


def test_more_patience_takes_up_what_patience_has_ended():
    ended = Progress(cap=16, stopped=True, stale=2)
    assert not ended.may_go_on(16, 1) and not ended.may_go_on(16, 2)
    assert ended.may_go_on(16, 3) and ended.may_go_on(16, 0)


@pytest.mark.parametrize("goals", [{}, {"m": 0.3}])
def test_whatever_a_cool_down_measures_the_run_has_ended(goals):
    """Better values than before, and goals that no longer hold."""
    progress, ends = judged([0.5, 0.4, 0.4], patience=2, goals=goals)
    assert ends[-1]
    progress.cooling, progress.cap = 3, 16
    for value in (0.6, 0.1):
        values = {"m": value}
        assert not progress.judge(values, 4, metric="m", patience=2, goals=goals)
        assert not progress.may_go_on(16, 2, bool(goals))
        assert progress.may_go_on(16, 3, bool(goals))
    assert progress.best_value == 0.6


def test_goals_alone_end_a_run_for_good():
    progress, ends = judged([0.5], goals={"m": 0.3})
    assert ends == [True]
    progress.cooling, progress.cap = 1, 16
    progress.judge({"m": 0.1}, 2, metric="m", patience=0, goals={"m": 0.3})
    assert not progress.met and not progress.may_go_on(16, 0, True)


def test_goals_are_least_values_or_largest_losses():
    goals = {"a/exact": 0.9, "b/loss": 0.1}
    assert unmet(goals, {"a/exact": 0.9, "b/loss": 0.1}) == []
    assert unmet(goals, {"a/exact": 0.85, "b/loss": 0.25}) == [
        "a/exact is 0.85, expected at least 0.9", "b/loss is 0.25, expected at most 0.1",
    ]  # fmt: skip
    assert unmet({"a/loss": 1.0}, {"a/loss": math.nan})


class Kept:
    """Stands in for checkpoints: the last state that was saved, as a restart would find it."""

    def __init__(self):
        self.steps = []

    def save(self, step, state, meta, best):
        self.steps.append(step)
        self.state = jax.tree.map(jnp.copy, state)
        self.progress = dict(meta["progress"])
        return True

    def wait(self):
        return True


class Lines(list):
    def write(self, step, values):
        self.append({"step": step, **values})


class Small:
    """Training whose validation metrics are given by step."""

    def __init__(self, measured, cooldown_epochs=0.0, part=lambda step: None, **train):
        self.config = TrainConfig(
            **{"batch_size": 1, "steps_per_call": 2, "metric": "v/exact", "epochs": 3.0} | train
        )
        self.cooldown, self.measured, self.part = round(8 * cooldown_epochs), measured, part
        optim = OptimConfig(learning_rate=1.0, b1=0.0)
        self.optimizer = make_optimizer(optim, 8, self.cooldown)
        self.kept, self.lines = Kept(), Lines()
        params = {"w": jnp.zeros(())}
        self.start = TrainState(jnp.zeros((), jnp.int32), params, self.optimizer.init(params))
        self.moved = {}

    def steps(self, state, batch):
        """Gradient 1 at each step: Adam moves w by the learning rate."""
        for _ in range(batch):
            gradient = {"w": jnp.ones(())}
            updates, opt_state = self.optimizer.update(gradient, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            self.moved[int(state.step)] = round(float(state.params["w"] - params["w"]), 3)
            state = TrainState(state.step + 1, params, opt_state)
        loss = state.step - jnp.arange(batch, dtype=float)[::-1]
        return state, {"loss": loss, "grad_norm": jnp.ones(batch)}

    def __call__(self, **changes):
        """Trains, or goes on after a restart."""
        fresh = not self.kept.steps
        loop = Loop(
            self.steps,
            lambda step, count: count,
            lambda state, check: {"v/exact": self.measured(int(state.step))},
            self.kept,
            self.lines,
            dataclasses.replace(self.config, **changes),
            steps_per_epoch=8,
            per_step=1,
            meta={},
            cooldown=self.cooldown,
            part=self.part,
        )
        progress = Progress() if fresh else Progress(**self.kept.progress)
        state = self.start if fresh else self.kept.state
        state, progress, finished = loop.run(state, progress)
        assert finished
        return int(state.step), progress


def test_training_ends_when_its_goals_hold():
    run = Small(lambda step: step / 10, evaluate_every=0.5, goals={"v/exact": 0.75})
    step, progress = run()
    assert (step, progress.met, progress.unmet) == (8, True, [])
    assert run() == (8, progress)  # a rerun has nothing to do
    assert run(epochs=9.0) == (8, progress)


def test_a_cap_that_comes_first_says_what_is_missing_and_can_be_raised():
    run = Small(lambda step: step / 100, goals={"v/exact": 0.3})
    step, progress = run()
    assert (step, progress.met) == (24, False)
    assert progress.unmet == ["v/exact is 0.24, expected at least 0.3"]
    assert run()[0] == 24
    step, progress = run(epochs=6.0)
    assert (step, progress.met) == (32, True)


def test_a_run_without_goals_goes_on_where_its_cap_is_raised():
    run = Small(lambda step: 0.5)
    assert run()[0] == 24 and run(epochs=4.0)[0] == 32


def test_a_cool_down_follows_the_goals():
    run = Small(lambda step: step / 10, 1.0, evaluate_every=0.5, goals={"v/exact": 0.8})
    step, progress = run()
    assert (step, progress.cooling, progress.met) == (16, 8, True)
    assert [run.moved[s] for s in range(16)] == [1.0] * 8 + [0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0.0]  # fmt: skip  # noqa: E501
    assert run()[0] == 16


def test_a_cool_down_ends_at_the_cap_and_begins_anew_where_that_is_raised():
    run = Small(lambda step: 0.0, 1.0, goals={"v/exact": 0.8}, epochs=2.0)
    step, progress = run()
    assert (step, progress.cooling) == (16, 8)
    assert run.moved[7] == 1.0 and run.moved[15] == 0.0
    step, progress = run(epochs=4.0)
    assert (step, progress.cooling) == (32, 24)
    assert run.moved[16] == 1.0 and run.moved[31] == 0.0


def test_a_cool_down_that_was_interrupted_goes_on():
    def interrupted(state, batch):
        if int(state.step) == 12:
            raise KeyboardInterrupt
        return steps(state, batch)

    run = Small(lambda step: step / 10, 1.0, evaluate_every=0.5, goals={"v/exact": 0.8})
    steps, run.steps = run.steps, interrupted
    with pytest.raises(KeyboardInterrupt):
        run()
    assert run.kept.steps == [4, 8, 12]
    run.steps = steps
    step, progress = run()
    assert (step, progress.cooling) == (16, 8)
    assert [run.moved[s] for s in (11, 12, 15)] == [0.5, 0.375, 0.0]


def test_patience_cools_down_too_and_is_final():
    run = Small(lambda step: -step, 1.0, evaluate_every=0.5, patience=1, epochs=9.0)
    step, progress = run()
    assert (step, progress.cooling, progress.stopped) == (16, 8, True)
    assert run()[0] == run(epochs=20.0)[0] == 16


def test_losses_are_means_over_all_steps_since_the_last_validation():
    run = Small(lambda step: 0.0, part=lambda step: "even" if step % 2 == 0 else "odd", epochs=2.0)
    run()
    first, second = run.lines
    assert (first["loss"], first["loss/even"], first["loss/odd"]) == (4.5, 4.0, 5.0)
    assert (second["loss"], second["loss/even"], second["loss/odd"]) == (12.5, 12.0, 13.0)


def test_a_checkpoint_that_was_not_saved_is_not_the_best():
    run = Small(lambda step: 0.9 if step == 8 else 0.5, epochs=2.0)
    run.kept.wait = lambda: run.kept.steps[-1:] != [8]
    assert run()[1].best_step == 16


def test_a_cool_down_has_no_other_decay_beside_it():
    with pytest.raises(InputError, match="cooldown_epochs: a cool-down is in place"):
        OptimConfig(cooldown_epochs=1.0, decay_epochs=1.0)
    state = make_optimizer(OptimConfig(), 8).init({"w": jnp.zeros(())})
    assert not any(isinstance(s, CooldownState) for s in state)


def test_a_cool_down_counts_updates_of_which_a_step_may_have_several():
    optimizer = make_optimizer(OptimConfig(learning_rate=1.0, b1=0.0), 8, cooldown=4)
    params, moved = {"w": jnp.zeros(())}, []
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for done in range(8):
        state = set_cooldown(state, True) if done == 3 else state
        updates, state = update({"w": jnp.ones(())}, state, params)
        moved.append(round(-float(updates["w"]), 2))
    assert moved == [1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]


def test_metrics_without_cutoffs_in_a_table():
    table = format_table({"test/text/loss": 0.5, "test/text/exact": 0.25})
    assert [line.rstrip() for line in table.splitlines()] == [
        "test/text", "loss        0.5000", "exact       0.2500",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("epochs", "steps_per_epoch", "steps"),
    [(1.0, 1, 1), (2.5, 10, 25), (0.01, 10, 1), (150.0, 87, 13050), (0.29, 100, 29), (0.999, 2, 1)],
)
def test_epochs_are_not_rounded_up(epochs, steps_per_epoch, steps):
    assert total_steps(epochs, steps_per_epoch) == steps


@pytest.mark.parametrize(
    ("every", "steps_per_epoch", "per_call", "steps"),
    [(1.0, 1, 16, 1), (2.0, 1, 16, 2), (2.0, 87, 16, 176), (8.0, 4, 8, 32), (0.3, 1, 16, 1),
     (1.0, 15, 16, 15), (0.5, 15, 4, 8)],
)  # fmt: skip
def test_a_validation_follows_a_whole_call(every, steps_per_epoch, per_call, steps):
    config = TrainConfig(evaluate_every=every, steps_per_call=per_call)
    assert validation_steps(config, steps_per_epoch) == steps


class Log:
    """Checkpoints and metrics that are only counted."""

    def __init__(self):
        self.saved, self.lines = [], []

    def save(self, step, *rest):
        self.saved.append(step)
        return True

    def write(self, step, values):
        self.lines.append((step, values["epoch"]))

    def wait(self):
        return True


@dataclasses.dataclass
class State:
    step: int = 0


def calls_of(config, steps_per_epoch, first=0):
    """`(calls, validated)`: the (step, count) of every call, and the steps of validations."""
    calls, log = [], Log()

    def steps(state, batch):
        numbers = np.ones(batch)
        return State(state.step + batch), {"loss": numbers, "grad_norm": numbers}

    def batches(step, count):
        calls.append((step, count))
        return count

    measured = {config.metric: 0.5}
    loop = Loop(
        steps, batches, lambda state, check: measured, log, log, config,
        steps_per_epoch=steps_per_epoch, per_step=3, meta={},
    )  # fmt: skip
    state, _, finished = loop.run(State(first), Progress())
    assert finished and state.step == sum(calls[-1])
    assert log.saved == [step for step, _ in log.lines]
    return calls, log.saved


@pytest.mark.parametrize("threaded", [True, False])
def test_the_next_batch_is_made_beside_the_call_or_behind_it(threaded):
    log, begun, order = Log(), threading.Event(), []
    config = TrainConfig(epochs=1.0, steps_per_call=1, metric="m")

    def steps(state, batch):
        # Launching may take as long as the device works: a thread does not wait for it.
        assert not threaded or state.step or begun.wait(30)
        order.append(("call", batch))
        numbers = np.ones(1)
        return State(state.step + 1), {"loss": numbers, "grad_norm": numbers}

    def batches(step, count):
        here = threading.current_thread() is threading.main_thread()
        assert here != threaded
        order.append(("batch", step))
        if step:
            begun.set()
        return step

    loop = Loop(
        steps, batches, lambda state, check: {"m": 0.5}, log, log, config,
        steps_per_epoch=2, per_step=3, meta={}, threaded=threaded,
    )  # fmt: skip
    loop.run(State(0), Progress())
    first, *between, last = order
    assert first == ("batch", 0) and last == ("call", 1)
    assert between == sorted([("batch", 1), ("call", 0)], reverse=not threaded)


@pytest.mark.parametrize(
    ("epochs", "steps_per_epoch", "per_call", "first", "calls", "validated"),
    [
        (1.0, 1, 16, 0, [(0, 1)], [1]),  # twelve users: one pass, one step
        (3.0, 1, 16, 0, [(0, 1), (1, 1), (2, 1)], [1, 2, 3]),
        (2.0, 8, 4, 0, [(0, 4), (4, 4), (8, 4), (12, 4)], [8, 16]),
        (1.5, 7, 4, 0, [(0, 4), (4, 4), (8, 2)], [8, 10]),  # the last call is shorter
        (2.0, 7, 4, 10, [(10, 4)], [14]),  # more epochs than the run had: on to the next one
        (3.0, 7, 4, 10, [(10, 4), (14, 2), (16, 4), (20, 1)], [16, 21]),
    ],
)
def test_calls_end_with_validations_and_epochs(
    epochs, steps_per_epoch, per_call, first, calls, validated
):
    config = TrainConfig(epochs=epochs, steps_per_call=per_call)
    assert calls_of(config, steps_per_epoch, first) == (calls, validated)


def test_a_cool_down_takes_its_steps_whatever_a_call_takes():
    run = Small(lambda step: step / 10, 0.375, goals={"v/exact": 0.8}, steps_per_call=4)
    step, progress = run()
    assert (step, progress.cooling) == (11, 8)
    assert [run.moved[s] for s in (7, 8, 9, 10)] == [1.0, 0.667, 0.333, 0.0]
    run = Small(lambda step: 0.0, 0.375, epochs=2.0, steps_per_call=4)
    step, progress = run()
    assert (step, progress.cooling) == (16, 13)
