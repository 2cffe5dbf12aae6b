"""Signals during validation, and losses that are no numbers: where training goes on."""

import dataclasses
import math
import signal

import jax.numpy as jnp
import numpy as np
import pytest

from recjax.signals import stopping
from recjax.training.checkpoint import Checkpoints
from recjax.training.criteria import Progress
from recjax.training.loop import DivergedError, Loop
from recjax.training.metrics import MetricWriter, read_metrics
from recjax.training.state import TrainState
from recjax.training.train_config import TrainConfig


class Sums:
    """Training whose state is the sum of the batches' numbers, and whose loss is given by batch."""

    def __init__(self, folder, loss=lambda batch: 1.0, **train):
        self.folder, self.loss = folder, loss
        self.config = TrainConfig(
            **{"epochs": 3.0, "steps_per_call": 2, "metric": "m", "batch_size": 1} | train
        )
        self.seen = []

    def steps(self, state, batch):
        self.seen += batch
        numbers = np.array([self.loss(b) for b in batch])
        params = {"sum": state.params["sum"] + sum(batch)}
        step = state.step + len(batch)
        return TrainState(step, params, {}), {"loss": numbers, "grad_norm": np.ones(len(batch))}

    def newest(self, checkpoints):
        step = checkpoints.latest()
        fresh = TrainState(jnp.int32(0), {"sum": jnp.float32(0)}, {})
        if step is None:
            return fresh, Progress()
        return checkpoints.restore(step, fresh), Progress(**checkpoints.meta(step)["progress"])

    def __call__(self, evaluate=lambda state, check: {"m": float(state.params["sum"])}):
        self.folder.mkdir(exist_ok=True)
        checkpoints = Checkpoints(self.folder / "checkpoints", 2)
        state, progress = self.newest(checkpoints)
        writer = MetricWriter(self.folder, int(state.step) - progress.pending)
        try:
            return Loop(
                self.steps, lambda step, count: list(range(step, step + count)), evaluate,
                checkpoints, writer, self.config, steps_per_epoch=8, per_step=1, meta={},
                restore=lambda: self.newest(checkpoints),
            ).run(state, progress)  # fmt: skip
        finally:
            writer.close()
            checkpoints.close()

    def lines(self):
        clock = ("sequences_per_second", "input_wait")
        return [
            {k: v for k, v in line.items() if k not in clock}
            for line in read_metrics(self.folder / "metrics.jsonl")
        ]


@pytest.mark.parametrize("at", [8, 24])
def test_a_signal_during_validation_is_obeyed_at_its_next_batch(tmp_path, at):
    """It saves at once; the run that resumes makes that validation and ends with the same."""
    whole = Sums(tmp_path / "whole")
    expected, known, finished = whole()
    assert finished
    ours, batches = Sums(tmp_path / "ours"), []

    def interrupted(state, check):
        for batch in range(5):
            if int(state.step) == at and batch == 1:
                signal.raise_signal(signal.SIGTERM)
            batches.append(batch)
            check(1)
        return {"m": float(state.params["sum"])}

    with stopping() as stop:
        state, progress, finished = ours(interrupted)
        assert stop.name == "SIGTERM"
    assert not finished and int(state.step) == at and progress.pending
    assert batches[-1] == 1, "it went on measuring"
    assert [line["step"] for line in ours.lines()] == [s for s in (8, 16) if s < at]
    state, progress, finished = ours()
    assert finished and state.params["sum"] == expected.params["sum"]
    assert progress == known and ours.lines() == whole.lines()
    for line in read_metrics(ours.folder / "metrics.jsonl"):
        assert ("sequences_per_second" in line) == (line["step"] != at), "no step was timed"
    # What the checkpoint says is what the validation found.
    state, progress = ours.newest(Checkpoints(ours.folder / "checkpoints", read_only=True))
    assert progress == known and int(state.step) == 24


@pytest.mark.parametrize("bad", [3, 13])
def test_a_loss_that_is_no_number_takes_training_back(tmp_path, bad, capsys):
    """To the checkpoint before, or to the start; the batches since then are left out."""
    run = Sums(tmp_path, lambda batch: math.nan if batch == bad else 1.0, rollbacks=1)
    state, progress, finished = run()
    assert finished and int(state.step) == 24
    start, end = (0, 4) if bad == 3 else (8, 14)
    kept = [b for b in range(24 + end - start) if not start <= b < end]
    assert int(state.params["sum"]) == sum(kept)
    assert (progress.rolled_back, progress.skipped) == (1, end - start)
    assert [line["step"] for line in run.lines()] == [8, 16, 24]
    err = capsys.readouterr().err
    assert f"step {bad + 1}: loss nan" in err and f"back to step {start}, without" in err


def test_rollbacks_end(tmp_path):
    run = Sums(tmp_path, lambda batch: math.nan if batch >= 10 else 1.0, rollbacks=2)
    with pytest.raises(DivergedError, match="step 9: loss nan"):
        run()
    assert run.seen.count(10) == 1, "the same batches again"
    with pytest.raises(DivergedError, match=r"step 11: loss nan.*config.train.rollbacks"):
        Sums(tmp_path, run.loss)()


def test_a_spike_counts_as_diverged(tmp_path):
    def loss(batch):
        return 9.0 if batch == 12 else 2.0

    with pytest.raises(DivergedError, match=r"step 13: loss 9\.0"):
        Sums(tmp_path / "a", loss, spike=4.0)()
    assert Sums(tmp_path / "b", loss, spike=5.0)()[2]
    assert Sums(tmp_path / "c", loss, spike=4.0, rollbacks=1)()[2]


def test_what_a_resumed_run_needs_is_saved(tmp_path):
    run = Sums(tmp_path, lambda batch: math.nan if batch == 9 else 1.0, rollbacks=1, epochs=2.0)
    _, progress, _ = run()
    again = Sums(tmp_path, rollbacks=1)
    _state, found, _ = again()
    assert found.skipped == progress.skipped == 2 and again.seen[0] == 18
    assert dataclasses.asdict(found)["rolled_back"] == 1
