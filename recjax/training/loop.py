"""The training loop: steps, validation, early stopping, checkpoints, signals.

    state, progress, finished = Loop(steps, batches, ...).run(state, progress)

While the devices work on a call of several steps, the next batch is made and the losses of the call
before are read. After a validation the loop judges (`recjax.training.criteria`) and saves.
"""

import collections
import dataclasses
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import jax
import numpy as np

from recjax.errors import InputError
from recjax.signals import Stop, Stopped, stopping
from recjax.training.checkpoint import Checkpoints
from recjax.training.criteria import Progress
from recjax.training.group import current
from recjax.training.input_wait import InputWait
from recjax.training.metrics import progress_bar
from recjax.training.optim import set_cooldown
from recjax.training.state import TrainState
from recjax.training.train_config import TrainConfig, total_steps, validation_steps


class DivergedError(RuntimeError):
    """The loss or the gradient is not finite, or the loss is far above its usual value."""


class Writer(Protocol):
    """Takes metrics by step."""

    def write(self, step: int, values: dict[str, Any], /) -> None:
        """Writes the metrics of one step."""


class _Pace:
    """Counts the work and the time since the last validation."""

    def __init__(self) -> None:
        self._begun, self.done, self.waited = time.perf_counter(), 0, InputWait()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._begun

    @property
    def rate(self) -> float:
        return self.done / self.seconds


@dataclasses.dataclass
class Loop:
    """Trains until its criteria hold, the epochs are done, or a signal arrives.

    Where a thread makes the batches, `input_wait` is written with the metrics: the share of the
    time since the last validation in which the devices waited for a batch.

    A signal is obeyed after the call that it arrives in, and between two batches of a validation;
    a run that resumes makes that validation first.

    Attributes:
        steps: `(state, batch) -> (state, metrics)` over the batch's steps; donates the state.
        batches: `(step, count) -> batch` on the devices.
        evaluate: `(state, check)` gives validation metrics by name; it calls `check` with anything
            after each batch.
        checkpoints: a checkpoint is saved at every validation.
        writer: takes the metrics.
        config: see `TrainConfig`.
        steps_per_epoch: of the training data.
        per_step: how many units a step takes.
        meta: saved with every checkpoint.
        unit: of the training data.
        saved: called after every checkpoint.
        cooldown: steps of the cool-down that ends training; see `recjax.training.criteria`.
        part: which part of the training a step belongs to; the losses of parts are also written
            apart (`loss/PART`).
        threaded: a thread makes the batches, because launching a call's kernels may keep this one
            as long as the device works. Not where `batches` computes on the devices: programs that
            two threads launch on several devices may wait for each other.
        restore: the newest checkpoint, or a fresh start where there is none: `config.rollbacks`
            needs it.
    """

    steps: Callable[..., tuple[TrainState, dict[str, Any]]]
    batches: Callable[[int, int], Any]
    evaluate: Callable[[TrainState, Callable[[Any], None]], dict[str, float]]
    checkpoints: Checkpoints
    writer: Writer
    config: TrainConfig
    _: dataclasses.KW_ONLY
    steps_per_epoch: int
    per_step: int
    meta: dict[str, Any]
    unit: str = "sequences"
    saved: Callable[[], None] = lambda: None
    cooldown: int = 0
    part: Callable[[int], str | None] = lambda step: None
    threaded: bool = True
    restore: Callable[[], tuple[TrainState, Progress]] | None = None

    def run(self, state: TrainState, progress: Progress) -> tuple[TrainState, Progress, bool]:
        """Trains.

        Args:
            state: where to start (`state.step` steps are done).
            progress: of an interrupted run, or a fresh one.

        Returns:
            `(state, progress, finished)`; `finished` is False after SIGINT or SIGTERM.

        Raises:
            DivergedError: naming the first step whose loss or gradient is not finite, or whose loss
                is a spike, where `config.rollbacks` are used up.
        """
        self._state, self._progress, self._step = state, progress, int(state.step)
        self._cap = total_steps(self.config.epochs, self.steps_per_epoch)
        self._every = validation_steps(self.config, self.steps_per_epoch)
        # Launched calls: first step, the step after the last, and metrics still being computed.
        self._unread: collections.deque[tuple[int, int, dict[str, Any]]] = collections.deque()
        if self._may_go_on and progress.cooling is not None and progress.cap:
            self._cool(None)
        # The best validation that the newest checkpoint tells of, and the one being saved.
        self._standing = self._tried = (progress.best_step, progress.best_value)
        self._pace = _Pace()
        self._bar = progress_bar(self._cap, self._step, "training", "step")
        maker = ThreadPoolExecutor(1, "batches")
        with self._bar, maker as self._maker, stopping() as self._stop:
            try:
                self._train()
            except Stopped:
                finished = False
            else:
                finished = True
            self._end_saving()
        return self._state, progress, finished

    def _train(self) -> None:
        """Trains to the end. A signal raises `Stopped`, after this step's save has begun."""
        progress = self._progress
        going = self._step < self._last and self._may_go_on
        self._batch = self._ask()(None) if going else None
        progress.cap = 0 if going else progress.cap
        self._pace = _Pace()  # without the first batch
        if going or progress.pending:
            leave(self._stop)
        elif self._step:
            by = "its criteria" if progress.stopped else "its cap"
            self._say(f"nothing to train: {by} ended this run at step {self._step}")
        if progress.pending:
            self._validate()
            leave(self._stop)
        while self._batch is not None:
            if (
                self.cooldown
                and progress.cooling is None
                and self._step >= self._cap - self.cooldown
            ):
                self._cool(self._step)
            first, self._step = self._step, self._step + self._taken
            following = self._ask()
            self._state, metrics = self.steps(self._state, self._batch)
            self._unread.append((first, self._step, metrics))
            # The device works on this call while the next batch is made and the last call's
            # metrics are read, so that it has the next call when this one ends.
            self._batch = following(metrics)
            due = self._step % self._every == 0 or self._batch is None
            left = current().agreed(self._stop.received is not None)
            try:
                self._read(0 if due or left else 1)
            except DivergedError as error:
                self._go_back(error)
                continue
            try:
                if due:
                    progress.pending = True
                    self._validate()
                if due or left:
                    leave(self._stop)
            except Stopped:
                if self._batch is None and not progress.pending:
                    return
                self._save()
                raise

    @property
    def _may_go_on(self) -> bool:
        return self._progress.may_go_on(self._cap, self.config.patience, bool(self.config.goals))

    @property
    def _last(self) -> int:
        """The step that ends training, as far as is known."""
        cooling = self._progress.cooling
        return self._cap if cooling is None else min(self._cap, cooling + self.cooldown)

    @property
    def _ahead(self) -> int:
        """Steps of the next call; 0 at the end."""
        step, ends = self._step, [self._last, self._step - self._step % self._every + self._every]
        if self.cooldown and self._progress.cooling is None and self._cap - self.cooldown > step:
            ends.append(self._cap - self.cooldown)
        return max(0, min(self.config.steps_per_call, *(end - step for end in ends)))

    def _ask(self) -> Callable[[Any], Any]:
        """Begins to make the next call's batch, in a thread if `threaded`.

        Returns:
            `running -> batch`, None at the end of training. `running` are the arrays that the
            devices work on meanwhile.
        """
        self._taken = taken = self._ahead
        step = self._step + self._progress.skipped
        if not taken:
            return lambda running: None
        if not self.threaded:
            return lambda running: self.batches(step, taken)
        upcoming = self._maker.submit(self.batches, step, taken)
        return lambda running: self._pace.waited.result(upcoming, running)

    def _read(self, unread: int) -> None:
        """Reads the losses of all launched calls but the last `unread`."""
        while len(self._unread) > unread:
            first, end, metrics = self._unread.popleft()
            try:
                losses = _checked(metrics, first, self.config.spike * self._progress.usual)
            except DivergedError:
                self._unread.clear()
                self._step = end
                raise
            for at, loss in enumerate(losses.tolist(), start=first + self._progress.skipped):
                self._progress.note(loss, self.part(at))
            self._pace.done += len(losses) * self.per_step
            self._bar.update(len(losses))
            status = f"loss {self._progress.loss:.4f}, {self._pace.rate:,.0f} {self.unit}/s"
            self._bar.set_postfix_str(status, refresh=False)

    def _validate(self) -> None:
        """Measures, judges and saves. Where training ends here, the next batch becomes None."""
        progress, step = self._progress, self._step
        pace, said = self._pace, ""
        timed: dict[str, float] = {}
        if pace.done:  # a validation that a resumed run makes first has no pace
            timed[f"{self.unit}_per_second"] = round(pace.rate, 1)
            said = f", {pace.rate:,.0f} {self.unit}/s"
            if self.threaded:
                timed["input_wait"] = round(pace.waited.seconds / pace.seconds, 4)
        values = self.evaluate(self._state, lambda done: leave(self._stop))
        progress.pending = False
        epoch = step / self.steps_per_epoch
        self.writer.write(step, {**progress.mean_losses(), "epoch": epoch, **timed, **values})
        if self.checkpoints.wait():
            self._standing = self._tried
        else:  # the best parameters may have been those that were not saved
            progress.best_step, progress.best_value = self._standing
        config = self.config
        may_end = progress.judge(
            values, step, metric=config.metric, patience=config.patience, goals=config.goals
        )
        if may_end and not (self.cooldown and self._batch is not None):
            self._batch = None
        elif may_end:
            self._cool(step)
            if self._taken > self._ahead:
                self._batch = self._ask()(None)
        if self._batch is None:
            progress.cap = self._cap
        best = "the best" if progress.best_step == step else f"best: step {progress.best_step}"
        cooling = "; cooling down" if may_end and self._batch is not None else ""
        self._say(
            f"step {step} (epoch {epoch:.1f}): loss {progress.loss:.4f}, {config.metric} "
            f"{values[config.metric]:.4f} ({best}){said}{cooling}"
        )
        progress.usual = progress.loss
        progress.losses.clear()
        self._tried = (progress.best_step, progress.best_value)
        self._save()
        self._pace = _Pace()

    def _cool(self, start: int | None) -> None:
        """Begins the cool-down at step `start`; None takes it back."""
        self._progress.cooling = start
        opt_state = set_cooldown(self._state.opt_state, start is not None)
        self._state = dataclasses.replace(self._state, opt_state=opt_state)

    def _go_back(self, error: DivergedError) -> None:
        """Restores the newest checkpoint; the batches since then are skipped.

        Raises:
            DivergedError: the given one, where no rollback is left.
        """
        progress, limit = self._progress, self.config.rollbacks
        if progress.rolled_back >= limit or self.restore is None:
            raise error
        self.checkpoints.wait()
        del self._state  # before another one is read
        self._state, old = self.restore()
        old.skipped = progress.skipped + self._step - int(self._state.step)
        old.rolled_back = progress.rolled_back + 1
        vars(progress).update(vars(old))
        self._step = int(self._state.step)
        self._standing = self._tried = (progress.best_step, progress.best_value)
        self._say(
            f"{str(error).partition(';')[0]}; back to step {self._step}, without the batches since "
            f"then ({progress.rolled_back} of config.train.rollbacks={limit})"
        )
        self._bar.reset(self._cap)
        self._bar.update(self._step)
        self._batch = self._ask()(None)

    def _save(self) -> None:
        meta = {**self.meta, "progress": dataclasses.asdict(self._progress)}
        best = self._progress.best_step
        if not self.checkpoints.save(self._step, self._state, meta, best):
            self.checkpoints.amend(self._step, meta)  # it stands there since before its validation
        self.saved()

    def _end_saving(self) -> None:
        if not self.checkpoints.wait():
            self._save()
            if not self.checkpoints.wait():
                raise InputError(f"cannot write {self.checkpoints.folder}: the disk is full")

    def _say(self, line: str) -> None:
        if jax.process_index() == 0:
            self._bar.write(line, file=sys.stderr)


def leave(stop: Stop) -> None:
    """Raises `Stopped` on all processes alike if any has got a signal."""
    if current().agreed(stop.received is not None):
        raise Stopped(stop.received or signal.SIGTERM)


def _checked(metrics: dict[str, Any], first: int, limit: float = 0.0) -> np.ndarray:
    """The losses [n] of a call's steps.

    Raises:
        DivergedError: at the first loss or gradient that is not finite, or loss above `most`
            (0 = no limit).
    """
    host = {key: np.asarray(value) for key, value in metrics.items()}
    bad = ~(np.isfinite(host["loss"]) & np.isfinite(host["grad_norm"]))
    bad |= (host["loss"] > limit) & (limit > 0)
    if bad.any():
        k = int(bad.argmax())
        raise DivergedError(
            f"step {first + k + 1}: loss {host['loss'][k]}, gradient norm {host['grad_norm'][k]}; "
            "the last checkpoint is untouched. Train anew, with a lower config.optim.learning_rate "
            "or with config.optim.clip_norm=1: in another --workdir, or with --overwrite; or rerun "
            "the command with config.train.rollbacks=3"
        )
    return host["loss"]
