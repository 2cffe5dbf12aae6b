"""Checkpoints: Orbax behind one small wrapper.

A kill at any moment leaves the latest complete step restorable. What Orbax 0.12 needs for that:
steps are retired by a rename (a kill during plain deletion leaves half a step that still counts),
and what was renamed is removed at the next start.
"""

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from recjax.errors import InputError
from recjax.json_files import read_object

_TRASH = "trash"


@dataclasses.dataclass
class _LatestAndBest:
    """Which steps stay: the newest few and the best one."""

    latest: int
    best: int | None = None

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        newest = sorted(c.step for c in checkpoints)[-self.latest :]
        return [c.step in newest or c.step == self.best for c in checkpoints]


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: `WORKDIR/checkpoints`.
        keep: how many of the newest to keep, beside the best.
        read_only: open for reading; removes nothing.
    """

    def __init__(self, folder: Path, keep: int = 2, *, read_only: bool = False):
        self.folder = folder.absolute()
        self._policy = _LatestAndBest(keep)
        if not read_only:
            self.folder.mkdir(parents=True, exist_ok=True)
            if jax.process_index() == 0:
                shutil.rmtree(self.folder / _TRASH, ignore_errors=True)
        self._read_only = read_only
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        read_only = self._read_only
        return ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=None if read_only else self._policy,
                todelete_subdir=_TRASH,
                cleanup_tmp_directories=not read_only,
                create=False,
                read_only=read_only,
            ),
            item_names=("state", "meta"),
        )

    def save(self, step: int, state: Any, meta: dict[str, Any], best: int | None) -> None:
        """Starts saving a step in the background.

        Args:
            step: number of the step.
            state: a pytree of arrays.
            meta: what JSON can hold.
            best: the step that must be kept.
        """
        self._policy.best = best
        if step in self._manager.all_steps():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)
            ),
            force=True,
        )

    def latest(self) -> int | None:
        """The newest complete step, or None."""
        return max(self._steps(), default=None)

    def _steps(self) -> list[int]:
        complete = (s for s in self._manager.all_steps() if (self.folder / str(s)).is_dir())
        return [s for s in complete if (self.folder / str(s) / "_CHECKPOINT_METADATA").exists()]

    def meta(self, step: int) -> dict[str, Any]:
        """What was saved beside the arrays of a step."""
        self._require(step)
        items = ocp.args.Composite(meta=ocp.args.JsonRestore())
        return self._manager.restore(step, args=items).meta

    def restore(self, step: int, abstract: Any) -> Any:
        """The state of a step.

        Args:
            step: number of the step.
            abstract: the state as `jax.ShapeDtypeStruct`s with shardings, on any mesh.

        Raises:
            InputError: no such step, or a state of another model.
        """
        self._require(step)
        items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        try:
            return self._manager.restore(step, args=items).state
        except (ValueError, KeyError, TypeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise InputError(
                f"{self.folder / str(step)}: not a checkpoint of this model ({reason})"
            ) from error

    def _require(self, step: int) -> None:
        if step not in self._steps():
            raise InputError(f"{self.folder}: no complete checkpoint of step {step}")

    def wait(self) -> None:
        """Until what was started is on the disk."""
        self._manager.wait_until_finished()

    @contextlib.contextmanager
    def moving(self, folder: Path) -> Iterator[None]:
        """While the folder is moved to another place; nothing may be on its way there."""
        self._manager.close()
        yield
        self.folder = folder.absolute()
        self._manager = self._open()

    def preempted(self, step: int) -> bool:
        """Whether the scheduler told any process to stop (needs `jax.distributed`)."""
        return self._manager.reached_preemption(step)

    def close(self) -> None:
        self._manager.close()


def abstract_like(tree: Any, shardings: Any) -> Any:
    """A pytree's shapes and dtypes with shardings, for `Checkpoints.restore`."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings
    )


def read_json(path: Path, what: str) -> dict[str, Any]:
    """The object in a JSON file of a workdir; `InputError` naming it when it is missing or
    damaged."""
    if not path.exists():
        raise InputError(f"{path}: missing; expected {what}")
    return read_object(path)
