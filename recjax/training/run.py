"""The common part of runs: a workdir, checkpoints, training that resumes, the test at the end."""

import contextlib
import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from recjax.config import nearest, to_plain
from recjax.errors import InputError
from recjax.memory import check_memory, host_bytes
from recjax.sharded import RULES, Axes
from recjax.signals import Stop, Stopped, stopping
from recjax.training.checkpoint import Checkpoints
from recjax.training.claim import Claim
from recjax.training.criteria import Progress
from recjax.training.loop import Loop, leave
from recjax.training.metrics import MetricWriter, NoWriter
from recjax.training.optim import OptimConfig, averaged
from recjax.training.saved_run import SavedRun
from recjax.training.state import TrainState, trained_of
from recjax.training.system import load_system
from recjax.training.train_config import TrainConfig, whole_calls
from recjax.training.trainable import Trainable
from recjax.typing import Params


class Run(SavedRun, Trainable):
    """A run in its workdir; a system says what is trained and how it is measured.

    Args:
        config: the run's, with `seed` and the sections `train` and `optim`.
        store: the data, with a `manifest` and a `fingerprint`.
        workdir: the run's folder, or None for a run that keeps nothing.

    Attributes:
        config, store, workdir: see above.
        mesh: the devices.
    """

    unit = "sequences"  # what a step takes

    _train: TrainConfig

    def __init__(self, config: Any, store: Any, workdir: Path | None = None):
        self._train = config.train
        super().__init__(config, store, workdir, self._train.mesh)

    @property
    def seed(self) -> int:
        """See `Trainable`."""
        return self.config.seed

    @property
    def logical_rules(self) -> Mapping[str, Axes]:
        """See `Trainable`."""
        return {**RULES, **self._train.rules}

    @property
    def padded(self) -> bool:
        """Whether tables may have rows behind their last one, of which the mesh has the number."""
        return False

    @property
    def parts_of_batch(self) -> int:
        """See `Trainable`."""
        return self._train.accumulate

    @property
    def dtype(self) -> str:
        """See `Trainable`."""
        return self._train.dtype

    @property
    def optim(self) -> OptimConfig:
        """See `Trainable`."""
        return self.config.optim

    @property
    def cooldown(self) -> int:
        """See `Trainable`."""
        epochs = self.optim.cooldown_epochs
        return whole_calls(epochs * self.batches.steps_per_epoch, self._train) if epochs else 0

    def check(self) -> None:
        """Finds out what training would find out only later; `start_run` calls it first.

        A system adds what only it can know. Nothing is written.

        Raises:
            InputError: naming the key: data and settings that do not fit each other.
        """
        for name in self.parts:
            evaluator = self.evaluator(name)
            evaluator.check()
            names = evaluator.metric_names
            asked = (("metric", self._train.metric), *(("goals", g) for g in self._train.goals))
            for key, metric in asked if name == "validation" else ():
                if metric not in names:
                    raise InputError(
                        f"config.train.{key}: no metric '{metric}' among what "
                        f"config.evaluation computes; {nearest(metric, names)}"
                    )
        if self.optim.cooldown_epochs > self._train.epochs:
            raise InputError(
                f"config.optim.cooldown_epochs: {self.optim.cooldown_epochs:g}, more than "
                f"config.train.epochs={self._train.epochs:g}; expected that at most"
            )
        self._check_memory()  # and that model, batches and optimiser go together
        self._check_newest()

    def needed_bytes(self) -> dict[str, int]:
        """Bytes that a device needs at the least, by the key that asks for them.

        The state and its gradient; a system adds its batches. Nothing is allocated.
        """
        state = self.abstract_state()
        size = sum(
            math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
            for leaf in jax.tree.leaves((state, trained_of(state.params, self.trained)))
        )
        return {self._largest_size(): size}

    def _largest_size(self) -> str:
        """The key of the model's largest number: what makes it large."""
        name = load_system(self.config.system).learns
        section = to_plain(getattr(self.config, name))
        sizes = {k: section[k] for k in section if type(section[k]) is int}
        return f"config.{name}.{max(sizes, key=lambda k: sizes[k])}"

    def _check_memory(self) -> None:
        device = jax.local_devices()[0]
        limit = (device.memory_stats() or {}).get("bytes_limit")
        if device.platform == "cpu":  # all share the host's
            host = host_bytes()
            limit = None if host is None else host // jax.local_device_count()
        check_memory(self.needed_bytes(), limit)

    def part(self, step: int) -> str | None:
        """Which part of the training a step belongs to, where steps differ in what they ask."""
        del step
        return None

    def _advice(self, progress: Progress) -> str:
        """One line about goals that were not met."""
        goals = "; ".join(progress.unmet)
        return (
            f"training ended before its goals held, at its cap of {self._train.epochs:g} epochs: "
            f"{goals}. Raise config.train.epochs and rerun the command to go on"
        )

    def restore(self, step: int) -> Params:
        """All parameters of the model: those of a checkpoint, and the frozen ones."""
        self._meta(self.checkpoints, step)
        return self._best(self.checkpoints, step)

    def _best(self, checkpoints: Checkpoints, step: int) -> Params:
        """The parameters that a checkpoint recommends with; the optimiser's state is not read."""
        if self.optim.average:
            return self.measured(self._state(checkpoints, step))
        abstract = {"params": self.abstract_state().params}
        return self.whole(checkpoints.restore_part(step, abstract, padded=self.padded)["params"])

    def _state(self, checkpoints: Checkpoints, step: int) -> TrainState:
        """The state of a checkpoint.

        Those of earlier versions have optimiser state of kept parameters, too; it is dropped.
        """
        try:
            return checkpoints.restore(step, self.abstract_state(), padded=self.padded)
        except InputError:
            own = self.abstract_state().params.keys()
            if own == self.trained:
                raise
            with contextlib.suppress(InputError):
                old = checkpoints.restore(step, self.abstract_state(own))
                opt_state = jax.tree.map(
                    lambda node: trained_of(node, self.trained) if isinstance(node, dict) else node,
                    old.opt_state,
                    is_leaf=lambda node: isinstance(node, dict) and node.keys() == own,
                )
                return dataclasses.replace(old, opt_state=opt_state)
            raise

    def whole(self, params: Params) -> Params:
        """All parameters of the model: those of a state, and the frozen ones."""
        return {**self.frozen, **params}

    def measured(self, state: TrainState) -> Params:
        """All parameters that a state recommends with: with `config.optim.average`, averages."""
        return self.whole({**state.params, **averaged(state.opt_state)})

    def train(self) -> dict[str, Any]:
        """Trains, or resumes, or notices that all is done; then tests the best checkpoint.

        Returns:
            The final line of `metrics.jsonl`: test metrics by name, `step` (of the best
            checkpoint), and `finished` False when SIGINT or SIGTERM (`stopped_by`) stopped it
            early.
        """
        assert self.workdir is not None
        claim = self.claim = self.claim or Claim(self.workdir)
        try:
            with stopping() as stop:
                out = self._trained(stop, claim)
        finally:
            claim.release()
            self.claim = None
        return out if out["finished"] else {**out, "stopped_by": stop.name or "SIGTERM"}

    def _trained(self, stop: Stop, claim: Claim) -> dict[str, Any]:
        assert self.workdir is not None
        validation = self.evaluator("validation")
        checkpoints = Checkpoints(self.workdir / "checkpoints", self._train.keep_checkpoints)
        writer: MetricWriter | NoWriter = NoWriter()
        try:
            state, progress = self._newest(checkpoints)
            if jax.process_index() == 0:
                # A pending validation writes the line of its step.
                writer = MetricWriter(self.workdir, int(state.step) - progress.pending)
            loop = Loop(
                self.make_steps(),
                self.place,
                lambda state, check: validation.run(self.measured(state), check),
                checkpoints,
                writer,
                self._train,
                steps_per_epoch=self.batches.steps_per_epoch,
                per_step=self.batches.per_step,
                meta=self.identity,
                unit=self.unit,
                saved=lambda: self._take_place(claim, checkpoints),
                cooldown=self.cooldown,
                part=self.part,
                threaded=self.threaded,
                restore=lambda: self._newest(checkpoints),
            )
            state, progress, finished = loop.run(state, progress)
            del loop
            if not finished:
                return {"step": int(state.step), "finished": False}
            step, params = int(state.step), self.measured(state)
            del state  # the optimiser's part goes; the devices need not hold two states
            if progress.best_step not in (None, step):
                step, params = progress.best_step, {}
                params = self._best(checkpoints, step)
            try:
                values = self.evaluator(self.parts[-1]).run(params, lambda done: leave(stop))
            except Stopped:  # all is saved
                return {"step": step, "finished": False}
            ending = {"goals_met": progress.met} if self._train.goals else {}
            writer.write(step, {"final": True, **ending, **values})
            writer.flush()
            result = {"step": step, "finished": True, **ending, **values, **self.finish(params)}
            if progress.unmet:
                result["advice"] = self._advice(progress)
            return result
        finally:
            writer.close()
            checkpoints.close()

    def _newest(self, checkpoints: Checkpoints) -> tuple[TrainState, Progress]:
        """The newest checkpoint, or a fresh start."""
        latest = checkpoints.latest()
        if latest is None:
            return self.init_state(), Progress()
        progress = Progress(**self._meta(checkpoints, latest)["progress"])
        best = progress.best_step
        if best is not None and not checkpoints.whole(best):
            progress.best_step, progress.best_value = None, -math.inf
        return self._state(checkpoints, latest), progress
