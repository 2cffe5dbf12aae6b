"""The training loop: steps, evaluation, early stopping, checkpoints, signals."""

import collections
import dataclasses
import functools
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Annotated, Any, Literal, Protocol

import jax
import numpy as np

from recjax.config import nearest
from recjax.errors import InputError
from recjax.ranges import Amount, Checked, Count, Epochs, FieldError, Range, Size
from recjax.sharded import MESH_AXES, RULES
from recjax.signals import Stop, Stopped, stopping
from recjax.training.checkpoint import Checkpoints
from recjax.training.criteria import Progress
from recjax.training.group import current
from recjax.training.input_wait import InputWait
from recjax.training.metrics import progress_bar
from recjax.training.optim import set_cooldown
from recjax.training.state import TrainState

Devices = Annotated[int, Range(-1, 2**20)]


@dataclasses.dataclass(frozen=True)
class TrainConfig(Checked):
    """Section `train`: batches, length, validation, checkpoints."""

    # Sequences (documents) a step, over all devices; all of them where they are fewer.
    batch_size: Size = 256
    # At most this many; an epoch is the number of steps that is nearest to one pass over them.
    epochs: Epochs = 200.0
    # Steps in one compiled call; the last call is shorter, and so are all where they would go
    # beyond the next validation.
    steps_per_call: Annotated[int, Range(1, 10_000)] = 16
    evaluate_every: Epochs = 1.0  # epochs between validations (and checkpoints)
    # Validations without a better metric before training ends, or cools down; 0 = no such end.
    patience: Count = 0
    # What "better" means: higher; lower where its name ends in "loss" or "perplexity".
    metric: str = "validation/full/ndcg@10"
    # Validation metrics and what they must reach (at most, where lower is better): training ends,
    # or cools down, when all hold, and with `patience` not before that has ended, too.
    goals: dict[str, Annotated[float, Range()]] = dataclasses.field(default_factory=dict)
    keep_checkpoints: Annotated[int, Range(1, 10_000)] = 2  # newest ones, beside the best
    # A loss or gradient that is no number ends training, or, so many times, takes it back to the
    # newest checkpoint; it goes on there with other batches. 0 = it ends.
    rollbacks: Count = 0
    # A step's loss counts as diverged, too, above so many times the mean loss between the two last
    # validations; 0 = never.
    spike: Amount = 0.0
    # Devices over data, fsdp, tensor; -1 = what is left.
    mesh: tuple[Devices, Devices, Devices] = (-1, 1, 1)
    # Mesh axes over which a logical axis is split, in place of those of `recjax.sharded.RULES`;
    # "length" are activations between layers, () is none.
    rules: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    # A batch's parts, one after the other: less memory for activations, the same gradient.
    accumulate: Annotated[int, Range(1, 10_000)] = 1
    # Of activations and gradients through them; parameters and optimiser stay in float32.
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self):
        super().__post_init__()
        if self.mesh.count(-1) > 1 or 0 in self.mesh:
            raise FieldError("mesh", f"expected sizes from 1 on, at most one -1, got {self.mesh}")
        for name, axes in self.rules.items():
            if name not in RULES:
                raise FieldError("rules", f"no logical axis '{name}'; {nearest(name, RULES)}")
            for axis in axes:
                if axis not in MESH_AXES:
                    raise FieldError("rules", f"no mesh axis '{axis}'; {nearest(axis, MESH_AXES)}")
            if len(set(axes)) < len(axes):
                raise FieldError("rules", f"'{name}' names an axis twice: {axes}")


class DivergedError(RuntimeError):
    """The loss or the gradient is no number any more, or far above what it was."""


class Writer(Protocol):
    """Takes metrics by step."""

    def write(self, step: int, values: dict[str, Any], /) -> None:
        """Writes the metrics of one step."""


def total_steps(epochs: float, steps_per_epoch: int) -> int:
    """The steps of a run, at least one: a step that epochs do not reach is not taken."""
    return max(1, int(epochs * steps_per_epoch + 1e-6))


def validation_steps(config: TrainConfig, steps_per_epoch: int) -> int:
    """Steps between validations: whole calls, or one call that is as much shorter."""
    wanted, count = config.evaluate_every * steps_per_epoch, config.steps_per_call
    return round(wanted / count) * count if wanted >= count else max(1, round(wanted))


def fit(
    state: TrainState,
    steps: Callable[..., tuple[TrainState, dict[str, Any]]],
    batches: Callable[[int, int], Any],
    evaluate: Callable[[TrainState, Callable[[Any], None]], dict[str, float]],
    checkpoints: Checkpoints,
    writer: Writer,
    config: TrainConfig,
    *,
    steps_per_epoch: int,
    per_step: int,
    progress: Progress,
    meta: dict[str, Any],
    unit: str = "sequences",
    saved: Callable[[], None] = lambda: None,
    cooldown: int = 0,
    part: Callable[[int], str | None] = lambda step: None,
    threaded: bool = True,
    restore: Callable[[], tuple[TrainState, Progress]] | None = None,
) -> tuple[TrainState, Progress, bool]:
    """Trains until its criteria hold, the epochs are done, or a signal arrives.

    Where a thread makes the batches, `input_wait` is written with the metrics: the share of the
    time since the last validation in which the devices waited for a batch.

    A signal is obeyed after the call that it arrives in, and between two batches of a validation;
    a run that resumes makes that validation first.

    Args:
        state: where to start (`state.step` steps are done).
        steps: `(state, batch) -> (state, metrics)` over the batch's steps; donates the state.
        batches: `(step, count) -> batch` on the devices.
        evaluate: `(state, check)` gives validation metrics by name; it calls `check` with anything
            after each batch.
        checkpoints: a checkpoint is saved at every validation.
        writer: takes the metrics.
        config: see `TrainConfig`.
        steps_per_epoch: of the training data.
        progress: of an interrupted run, or a fresh one.
        meta: saved with every checkpoint.
        per_step: what a step takes of them.
        unit: what that is.
        saved: called after every checkpoint.
        cooldown: steps of the cool-down that ends training; see `recjax.training.criteria`.
        part: which part of the training a step belongs to; the losses of parts are also written
            apart (`loss/PART`).
        threaded: a thread makes the batches, because launching a call's kernels may keep this one
            as long as the device works. Not where `batches` computes on the devices: programs that
            two threads launch on several devices may wait for each other.
        restore: the newest checkpoint, or a fresh start where there is none: `config.rollbacks`
            needs it.

    Returns:
        `(state, progress, finished)`; `finished` is False after SIGINT or SIGTERM.

    Raises:
        DivergedError: naming the first step whose loss or gradient is not finite, or whose loss is
            a spike, where `config.rollbacks` are used up.
    """
    count = config.steps_per_call
    cap = total_steps(config.epochs, steps_per_epoch)
    every = validation_steps(config, steps_per_epoch)
    step, taken, done = int(state.step), 0, 0
    batch: Any = None
    upcoming: Future | None = None  # the next batch, where a thread makes it
    unread: collections.deque[tuple[int, int, dict[str, Any]]] = collections.deque()
    started, waited = time.perf_counter(), InputWait()
    if progress.may_go_on(cap) and progress.cooling is not None and progress.cap:
        progress.cooling = None
        state = _cooled(state, None)
    standing = tried = (progress.best_step, progress.best_value)  # of the newest checkpoint

    def last() -> int:
        return cap if progress.cooling is None else min(cap, progress.cooling + cooldown)

    def cool() -> None:
        nonlocal state
        progress.cooling = step
        state = _cooled(state, step)

    def ahead() -> int:
        """Steps of the next call; 0 at the end."""
        cooling = cap - cooldown if cooldown and progress.cooling is None else 0
        ends = [last(), step - step % every + every, *([cooling] if cooling > step else [])]
        return max(0, min(count, *(end - step for end in ends)))

    def asked() -> Callable[[], Any]:
        """Gives a function of the next call's batch; a thread makes it from now on, or the call."""
        nonlocal taken, upcoming
        taken, upcoming = ahead(), None
        if not taken:
            return lambda: None
        if threaded:
            upcoming = maker.submit(batches, step + progress.skipped, taken)
            return upcoming.result
        return functools.partial(batches, step + progress.skipped, taken)

    def validated() -> None:
        """Measures, judges and saves; `batch` is None where training ends here."""
        nonlocal batch, tried, standing, started, done, waited
        elapsed = time.perf_counter() - started
        values = evaluate(state, functools.partial(leave, stop))
        progress.pending = False
        writer.write(
            step,
            {
                **progress.mean_losses(),
                "epoch": step / steps_per_epoch,
                f"{unit}_per_second": round(done / elapsed, 1),
                **({"input_wait": round(waited.seconds / elapsed, 4)} if threaded else {}),
                **values,
            },
        )
        if checkpoints.wait():
            standing = tried
        else:  # the best parameters may have been those that were not saved
            progress.best_step, progress.best_value = standing
        may_end = progress.judge(
            values,
            step,
            metric=config.metric,
            patience=config.patience,
            goals=config.goals,
        )
        if may_end and cooldown and batch is not None:
            cool()
            batch = batch if taken <= ahead() else asked()()
        elif may_end:
            batch = None
        if batch is None:
            progress.cap = cap
        if jax.process_index() == 0:
            newest = progress.best_step == step
            best = "the best" if newest else f"best: step {progress.best_step}"
            bar.write(
                f"step {step} (epoch {step / steps_per_epoch:.1f}): "
                f"loss {progress.loss:.4f}, "
                f"{config.metric} {values[config.metric]:.4f} ({best}), "
                f"{done / elapsed:,.0f} {unit}/s" + ("; cooling down" if may_end and batch else ""),
                file=sys.stderr,
            )
        progress.usual = progress.loss
        progress.losses.clear()
        tried = (progress.best_step, progress.best_value)
        save()
        started, done, waited = time.perf_counter(), 0, InputWait()

    def back(error: DivergedError) -> None:
        """To the newest checkpoint; the batches since then are not seen again."""
        nonlocal state, step, standing, tried
        if progress.rolled_back >= config.rollbacks or restore is None:
            raise error
        checkpoints.wait()
        state, old = restore()
        old.skipped = progress.skipped + step - int(state.step)
        old.rolled_back = progress.rolled_back + 1
        vars(progress).update(vars(old))
        step = int(state.step)
        standing = tried = (progress.best_step, progress.best_value)
        if jax.process_index() == 0:
            bar.write(
                f"{str(error).partition(';')[0]}; back to step {step}, without the batches since "
                f"then ({progress.rolled_back} of config.train.rollbacks={config.rollbacks})",
                file=sys.stderr,
            )
        bar.reset(cap)
        bar.update(step)

    def read(kept: int) -> None:
        """Takes down the losses of the calls that were launched, but for the last `kept`."""
        nonlocal done, step
        while len(unread) > kept:
            first, end, metrics = unread.popleft()
            try:
                losses = _checked(metrics, first, config.spike * progress.usual)
            except DivergedError:
                unread.clear()
                step = end
                raise
            for at, loss in enumerate(losses.tolist(), start=first + progress.skipped):
                progress.note(loss, part(at))
            done += len(losses) * per_step
            bar.update(len(losses))
            rate = done / (time.perf_counter() - started)
            bar.set_postfix_str(f"loss {progress.loss:.4f}, {rate:,.0f} {unit}/s", refresh=False)

    def save() -> None:
        told = {**meta, "progress": dataclasses.asdict(progress)}
        if not checkpoints.save(step, state, told, progress.best_step):
            checkpoints.amend(step, told)  # it stands there since before its validation
        saved()

    def end_saving() -> None:
        if not checkpoints.wait():
            save()
            if not checkpoints.wait():
                raise InputError(f"cannot write {checkpoints.folder}: the disk is full")

    bar = progress_bar(cap, step, "training", "step")
    with bar, ThreadPoolExecutor(1, "batches") as maker, stopping() as stop:
        going = step < last() and progress.may_go_on(cap)
        batch = asked()() if going else None
        progress.cap = 0 if going else progress.cap
        started, done = time.perf_counter(), 0
        if current().agreed(stop.received is not None) and (batch is not None or progress.pending):
            return state, progress, False
        try:
            if progress.pending:
                validated()
                leave(stop)
        except Stopped:  # it stands so on the disk
            end_saving()
            return state, progress, False
        while batch is not None:
            if cooldown and progress.cooling is None and step >= cap - cooldown:
                cool()
            first, step = step, step + taken
            following = asked()
            state, metrics = steps(state, batch)
            unread.append((first, step, metrics))
            # The device works on this call while the next batch is made and the last call's
            # metrics are read, so that it has the next call when this one ends.
            batch = following() if upcoming is None else waited.result(upcoming, metrics)
            ends = step % every == 0 or batch is None
            left = current().agreed(stop.received is not None)
            try:
                read(0 if ends or left else 1)
            except DivergedError as error:
                back(error)
                batch = asked()()
                continue
            try:
                if ends:
                    progress.pending = True
                    validated()
                    leave(stop)
                if left:
                    raise Stopped(stop.received or signal.SIGTERM)
            except Stopped:
                if batch is None and not progress.pending:
                    break
                save()
                end_saving()
                return state, progress, False
    end_saving()
    return state, progress, True


def leave(stop: Stop, done: Any = None) -> None:
    """Between two batches, on all processes alike: raises `Stopped` if any has got a signal."""
    del done
    if current().agreed(stop.received is not None):
        raise Stopped(stop.received or signal.SIGTERM)


def _cooled(state: TrainState, start: int | None) -> TrainState:
    return dataclasses.replace(state, opt_state=set_cooldown(state.opt_state, start))


def _checked(metrics: dict[str, Any], first: int, most: float = 0.0) -> np.ndarray:
    """The losses of a call's steps; the first one that is not finite, or above `most` (0 = any),
    is an error."""
    host = {key: np.asarray(value) for key, value in metrics.items()}
    bad = ~(np.isfinite(host["loss"]) & np.isfinite(host["grad_norm"]))
    bad |= (host["loss"] > most) & (most > 0)
    if bad.any():
        k = int(bad.argmax())
        raise DivergedError(
            f"step {first + k + 1}: loss {host['loss'][k]}, gradient norm {host['grad_norm'][k]}; "
            "the last checkpoint is untouched. Train anew, with a lower config.optim.learning_rate "
            "or with config.optim.clip_norm=1: in another --workdir, or with --overwrite; or rerun "
            "the command with config.train.rollbacks=3"
        )
    return host["loss"]
