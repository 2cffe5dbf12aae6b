"""The training loop: steps, evaluation, early stopping, checkpoints, signals."""

import dataclasses
import math
import signal
import sys
import time
from collections.abc import Callable
from typing import Annotated, Any, Protocol

import jax
import numpy as np

from recjax.ranges import Checked, Count, Epochs, FieldError, Range, Size
from recjax.training.checkpoint import Checkpoints
from recjax.training.metrics import progress_bar
from recjax.training.state import TrainState

Devices = Annotated[int, Range(-1, 2**20)]


@dataclasses.dataclass(frozen=True)
class TrainConfig(Checked):
    batch_size: Size = 256  # sequences (documents) a step, over all devices
    epochs: Epochs = 200.0  # at most this many passes over them
    steps_per_call: Annotated[int, Range(1, 10_000)] = 16  # steps in one compiled call
    evaluate_every: Epochs = 1.0  # epochs between validations (and checkpoints)
    patience: Count = 0  # validations without a better metric before it stops; 0 = never
    # What "better" means: higher; lower where its name ends in "loss" or "perplexity".
    metric: str = "validation/full/ndcg@10"
    keep_checkpoints: Annotated[int, Range(1, 10_000)] = 2  # newest ones, beside the best
    mesh: tuple[Devices, Devices, Devices] = (
        -1,
        1,
        1,
    )  # devices over data, fsdp, tensor; -1 = what is left

    def __post_init__(self):
        super().__post_init__()
        if self.mesh.count(-1) > 1 or 0 in self.mesh:
            raise FieldError("mesh", f"expected sizes from 1 on, at most one -1, got {self.mesh}")


_LOWER_IS_BETTER = ("loss", "perplexity")


class DivergedError(RuntimeError):
    """The loss or the gradient is no number any more."""


class Writer(Protocol):
    def write(self, step: int, values: dict[str, Any], /) -> None: ...


@dataclasses.dataclass
class Progress:
    """What, beside the state, a resumed run needs; saved with every checkpoint.

    Attributes:
        best_step: step of the best validation, or None.
        best_value: its metric; negative where lower is better.
        stale: validations since then.
        stopped: early stopping has ended the run.
    """

    best_step: int | None = None
    best_value: float = -math.inf
    stale: int = 0
    stopped: bool = False


class _StopSignal:
    """Notes SIGTERM, so that the loop can save and leave in peace."""

    def __enter__(self):
        self.received = False
        try:
            self._old = signal.signal(signal.SIGTERM, self._note)
        except ValueError:  # not the main thread: no signals here
            self._old = None
        return self

    def _note(self, number, frame):
        del number, frame
        self.received = True

    def __exit__(self, *exc):
        if self._old is not None:
            signal.signal(signal.SIGTERM, self._old)


def total_steps(config: TrainConfig, steps_per_epoch: int) -> int:
    """The last step of the run, a multiple of the steps per call."""
    calls = math.ceil(config.epochs * steps_per_epoch / config.steps_per_call)
    return calls * config.steps_per_call


def fit(
    state: TrainState,
    steps: Callable[..., tuple[TrainState, dict[str, Any]]],
    batches: Callable[[int, int], Any],
    evaluate: Callable[[TrainState], dict[str, float]],
    checkpoints: Checkpoints,
    writer: Writer,
    config: TrainConfig,
    *,
    steps_per_epoch: int,
    progress: Progress,
    meta: dict[str, Any],
    unit: str = "sequences",
    saved: Callable[[], None] = lambda: None,
) -> tuple[TrainState, Progress, bool]:
    """Trains until the epochs are done, validation stops to improve, or SIGTERM arrives.

    Args:
        state: where to start (`state.step` steps are done).
        steps: `(state, batch) -> (state, metrics)` over `steps_per_call` steps; donates the state.
        batches: `(step, count) -> batch` on the devices.
        evaluate: validation metrics by name.
        checkpoints: a checkpoint is saved at every validation.
        writer: takes the metrics.
        config: see `TrainConfig`.
        steps_per_epoch: of the training data.
        progress: of an interrupted run, or a fresh one.
        meta: saved with every checkpoint.
        unit: what a step has `batch_size` of.
        saved: called after every checkpoint.

    Returns:
        `(state, progress, finished)`; `finished` is False after SIGTERM.

    Raises:
        DivergedError: naming the first step whose loss or gradient is not finite.
    """
    count = config.steps_per_call
    last = total_steps(config, steps_per_epoch)
    every = max(1, round(config.evaluate_every * steps_per_epoch / count)) * count
    step = int(state.step)

    def save() -> None:
        checkpoints.save(
            step, state, {**meta, "progress": dataclasses.asdict(progress)}, progress.best_step
        )
        saved()

    bar = progress_bar(last, step, "training", "step")
    with bar, _StopSignal() as stop:
        batch = batches(step, count) if step < last and not progress.stopped else None
        started, done = time.perf_counter(), 0
        while batch is not None:
            state, metrics = steps(state, batch)
            first, step = step, step + count
            # The device works on this call while the host makes the next batch.
            batch = batches(step, count) if step < last else None
            loss = _checked(metrics, first)
            done += count * config.batch_size
            elapsed = time.perf_counter() - started
            rate = done / elapsed
            bar.update(count)
            bar.set_postfix_str(f"loss {loss:.4f}, {rate:,.0f} {unit}/s", refresh=False)
            if step % every == 0 or step == last:
                values = evaluate(state)
                writer.write(
                    step,
                    {
                        "loss": loss,
                        "epoch": step / steps_per_epoch,
                        f"{unit}_per_second": round(rate, 1),
                        **values,
                    },
                )
                _judge(progress, values, step, config)
                if jax.process_index() == 0:
                    newest = progress.best_step == step
                    best = "the best" if newest else f"best: step {progress.best_step}"
                    bar.write(
                        f"step {step} (epoch {step / steps_per_epoch:.1f}): loss {loss:.4f}, "
                        f"{config.metric} {values[config.metric]:.4f} ({best}), "
                        f"{rate:,.0f} {unit}/s",
                        file=sys.stderr,
                    )
                save()
                started, done = time.perf_counter(), 0
                if progress.stopped:
                    break
            preempted = jax.process_count() > 1 and checkpoints.preempted(step)
            if (stop.received or preempted) and batch is not None:
                save()
                checkpoints.wait()
                return state, progress, False
    checkpoints.wait()
    return state, progress, True


def _checked(metrics: dict[str, Any], first: int) -> float:
    """The mean loss of a call; the first step that is not finite is an error."""
    host = {key: np.asarray(value) for key, value in metrics.items()}
    bad = ~(np.isfinite(host["loss"]) & np.isfinite(host["grad_norm"]))
    if bad.any():
        k = int(bad.argmax())
        raise DivergedError(
            f"step {first + k + 1}: loss {host['loss'][k]}, gradient norm {host['grad_norm'][k]}; "
            "the last checkpoint is untouched. Lower config.optim.learning_rate, or set "
            "config.optim.clip_norm"
        )
    return float(host["loss"].mean())


def _judge(progress: Progress, values: dict[str, float], step: int, config: TrainConfig) -> None:
    """Early stopping: is this validation the best one, or one too many without a better one?"""
    value = values[config.metric]
    if config.metric.rpartition("/")[2] in _LOWER_IS_BETTER:
        value = -value
    if value > progress.best_value:
        progress.best_step, progress.best_value, progress.stale = step, value, 0
        return
    progress.stale += 1
    progress.stopped = bool(config.patience) and progress.stale >= config.patience
