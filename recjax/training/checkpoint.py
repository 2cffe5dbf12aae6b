"""Checkpoints: Orbax behind one small wrapper.

A kill at any moment leaves the latest complete step restorable. Orbax 0.12 writes steps in the
background; this module does the rest: it signs a complete step with checksums, looks at them
before it restores one, and retires old steps by a rename (a kill during plain deletion leaves half
a step that still counts). A save that fails for want of room is told, and the next one tries again.
"""

import contextlib
import errno
import json
import logging
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from recjax.errors import InputError, one_line
from recjax.json_files import read_object
from recjax.replace import write_text
from recjax.training.checksums import damage, write_checksums
from recjax.training.group import current

_TRASH = "trash"


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: `WORKDIR/checkpoints`.
        keep: how many of the newest to keep, beside the best.
        read_only: open for reading; removes nothing.
    """

    def __init__(self, folder: Path, keep: int = 2, *, read_only: bool = False):
        self.folder = folder.absolute()
        self._keep, self._read_only = keep, read_only
        self._whole: set[int] = set()  # steps whose files were checked, or written here
        self._warned: set[int] = set()  # damaged steps that were named on stderr
        self._saving: threading.Thread | None = None
        self._tried: int | None = None  # the step that was saved last
        self._failed: BaseException | None = None  # the error of that save
        if not read_only:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._empty_trash()
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        with _quiet() if self._read_only else contextlib.nullcontext():
            return ocp.CheckpointManager(
                self.folder,
                options=ocp.CheckpointManagerOptions(
                    # Retiring is ours: Orbax also retires steps after a save that failed.
                    preservation_policy=preservation_policy.PreserveAll(),
                    cleanup_tmp_directories=not self._read_only,
                    create=False,
                    read_only=self._read_only,
                ),
                item_names=("state", "meta"),
            )

    def save(self, step: int, state: Any, meta: dict[str, Any], best: int | None) -> bool:
        """Starts saving a step in the background, when the save before it has ended.

        Args:
            step: number of the step.
            state: a pytree of arrays.
            meta: what JSON can hold.
            best: the step that must be kept.

        Returns:
            False where the step is there already.
        """
        self.wait()
        if step in self.steps():
            return False
        self._tried, self._failed = step, None
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)
                ),
                force=True,
            )
        except Exception as error:  # TensorStore and Orbax have many kinds
            self._failed = error
            return True
        self._saving = threading.Thread(target=self._complete, args=(step, best))
        self._saving.start()
        return True

    def amend(self, step: int, meta: dict[str, Any]) -> None:
        """Writes other `meta` of a step that is complete; its files stay as they are."""
        if current().index == 0:
            write_text(self._amended(step), json.dumps(meta))

    def _amended(self, step: int) -> Path:
        return self.folder / f".{step}.json"

    def _complete(self, step: int, best: int | None) -> None:
        try:
            self._manager.wait_until_finished()
            if current().index == 0:
                if step not in self.steps():
                    raise OSError(errno.EIO, "Orbax has not completed the step")
                write_checksums(self.folder / str(step))
                self._whole.add(step)
                keep = {*self.steps()[-self._keep :], best}
                for old in self.steps():
                    if old not in keep:
                        self._retire(old)
                self._empty_trash()
        except BaseException as error:
            self._failed = error

    def wait(self) -> bool:
        """Waits until the started save is on the disk; returns whether it is.

        A save that found no room prints one warning and returns False. Other errors are raised.
        """
        if self._saving is not None:
            self._saving.join()
            self._saving = None
        error, step = self._failed, self._tried
        if step is None:
            return error is None
        self._tried = None
        reason = None if error is None else _full(error)
        if error is not None and reason is None:
            raise error
        reasons = current().gather(f"the checkpoint of step {step}", reason)
        reason = next((r for r in reasons if r is not None), None)
        if reason is None:
            return True
        self._failed = self._failed or OSError(errno.ENOSPC, reason)
        with contextlib.suppress(Exception):
            self._manager.close()
        if current().index == 0:
            _warn(
                f"{self.folder / str(step)}: the checkpoint was not saved ({reason}); training "
                "goes on, and the next save tries again"
            )
            # It may be complete but for its checksums.
            shutil.rmtree(self.folder / str(step), ignore_errors=True)
        current().gather("what was half written")
        self._manager = self._open()  # removes what was half written
        return False

    def _retire(self, step: int) -> None:
        """Moves a step into the trash, by one rename."""
        trash = self.folder / _TRASH
        trash.mkdir(exist_ok=True)
        name = str(step)
        while (trash / name).exists():
            name += "-"
        os.rename(self.folder / str(step), trash / name)
        self._amended(step).unlink(missing_ok=True)

    def _empty_trash(self) -> None:
        if current().index == 0:
            empty_trash(self.folder)

    def steps(self) -> list[int]:
        """The complete steps, in order."""
        if not self.folder.is_dir():
            return []
        names = [p.name for p in self.folder.iterdir() if p.name.isdecimal()]
        complete = (int(n) for n in names if (self.folder / n / "_CHECKPOINT_METADATA").exists())
        return sorted(complete)

    def latest(self) -> int | None:
        """The newest complete step whose files are whole, or None where there is no step.

        Damaged steps are named on stderr, and removed if the folder is open for writing.

        Raises:
            InputError: all steps are damaged.
        """
        step = self._latest() if current().index == 0 else None
        if not self._read_only:
            self._manager.reload()  # it knows damaged steps that have just gone
        return current().gather("the newest checkpoint", step)[0]

    def _latest(self) -> int | None:
        damaged: dict[int, str] = {}
        for step in reversed(self.steps()):
            fault = self._damage(step)
            if fault is None:
                for bad, reason in damaged.items():
                    if bad not in self._warned:
                        _warn(f"{self.folder / str(bad)}: damaged ({reason}); step {step} is used")
                    self._warned.add(bad)
                    if not self._read_only:
                        self._retire(bad)
                return step
            damaged[step] = fault
        if damaged:
            step, reason = next(iter(damaged.items()))
            raise InputError(
                f"{self.folder / str(step)}: damaged ({reason}), and no older step is whole; "
                "train --overwrite starts again"
            )
        return None

    def whole(self, step: int) -> bool:
        """Whether a step is complete and its files are undamaged."""
        return step in self.steps() and self._damage(step) is None

    def _damage(self, step: int) -> str | None:
        if step in self._whole:
            return None
        fault = damage(self.folder / str(step))
        if fault is None:
            self._whole.add(step)
        return fault

    def meta(self, step: int) -> dict[str, Any]:
        """The record beside the arrays of a step."""
        self._require(step)
        amended = self._amended(step)
        return read_object(
            amended if amended.exists() else self.folder / str(step) / "meta" / "metadata"
        )

    def restore(self, step: int, abstract: Any, *, padded: bool = False) -> Any:
        """The state of a step.

        Args:
            step: number of the step.
            abstract: the state as `jax.ShapeDtypeStruct`s with shardings, on any mesh.
            padded: arrays may have more or fewer rows than were saved: 0 behind them, or those cut.

        Raises:
            InputError: no such step, a damaged one, or a state of another model.
        """
        items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract, strict=not padded))
        with self._reading(step):
            return self._manager.restore(step, args=items).state

    def restore_part(self, step: int, abstract: dict[str, Any], *, padded: bool = False) -> Any:
        """As `restore`, of some fields of the state alone; the others are not read."""

        def wanted(leaf: jax.ShapeDtypeStruct) -> ocp.ArrayRestoreArgs:
            return ocp.ArrayRestoreArgs(
                sharding=leaf.sharding, global_shape=leaf.shape, dtype=leaf.dtype, strict=not padded
            )

        items = ocp.args.PyTreeRestore(
            abstract, restore_args=jax.tree.map(wanted, abstract), partial_restore=True
        )
        with self._reading(step), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            return reader.restore(self.folder / str(step) / "state", args=items)

    @contextlib.contextmanager
    def _reading(self, step: int) -> Iterator[None]:
        self._require(step)
        try:
            yield
        except Exception as error:  # TensorStore and Orbax have many kinds
            reason = " ".join(str(error).split())[:300]
            raise InputError(
                f"{self.folder / str(step)}: not a checkpoint of this model ({reason})"
            ) from error

    def _require(self, step: int) -> None:
        steps = self.steps()
        if step not in steps:
            raise InputError(f"{self.folder}: no complete checkpoint of step {step}")
        fault = self._damage(step) if current().index == 0 else None
        if fault is not None:
            others = ", ".join(str(s) for s in steps if s != step) or "none"
            raise InputError(f"{self.folder / str(step)}: damaged ({fault}); other steps: {others}")

    @contextlib.contextmanager
    def moving(self, folder: Path) -> Iterator[None]:
        """Closes the checkpoints while the caller moves their folder to `folder`.

        No save may be under way.
        """
        self._manager.close()
        yield
        self.folder = folder.absolute()
        self._manager = self._open()

    def close(self) -> None:
        """Ends a save that was started, and closes; `wait` is what raises a save's errors."""
        if self._saving is not None:
            self._saving.join()
        with contextlib.suppress(Exception):
            self._manager.close()


def empty_trash(folder: Path) -> None:
    """Deletes the retired steps of a run."""
    shutil.rmtree(folder / _TRASH, ignore_errors=True)


def _warn(line: str) -> None:
    print(f"recjax: {one_line(line)}", file=sys.stderr)


_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the quota is used up"}


def _full(error: BaseException) -> str | None:
    """The reason why a save found no room; None if it failed for another reason."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _FULL:
            return _FULL[cause.errno]
        for number, text in _FULL.items():  # TensorStore's errors are text
            if os.strerror(number) in str(cause):
                return text
        cause = cause.__cause__ or cause.__context__
    return None


def read_json(path: Path, what: str) -> dict[str, Any]:
    """The object in a JSON file of a workdir; `InputError` naming it when it is missing or
    damaged."""
    if not path.exists():
        raise InputError(f"{path}: missing; expected {what}")
    return read_object(path)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences Orbax's warnings, which it prints for every folder that is only read."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(max(level, logging.ERROR))
    try:
        yield
    finally:
        logger.setLevel(level)
