"""A run's folder: held by one process, and replaced only when its successor stands."""

import json
import os
import time
from collections.abc import Collection
from pathlib import Path

from recjax.errors import InputError
from recjax.locks import Lock
from recjax.replace import Replacement, not_written, recovered
from recjax.training.group import current

_LOCK = ".lock"
_SEEN = 10.0  # seconds in which all processes see what process 0 has made
# What runs write, as patterns of `recjax.replace.Known`.
RUN_FILES = (
    "config.json", "manifest.json", "metrics.jsonl", "results.json", "report.html", "fusion.json",
    "events.out.tfevents.*", "checkpoints/*", "tokenizer/*", "hf/*", "adapter/*", _LOCK,
    ".*.recjax-tmp",
)  # fmt: skip


def run_files(folder: Path) -> Collection[str] | None:
    """The names of what a run writes, or None for a folder that is no run's."""
    try:
        record = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        ours = {"config", "versions", "git_commit"} <= record.keys()
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    return RUN_FILES if ours else None


class Claim:
    """The right to write a run; process 0 has it for all.

    A folder that is free, or that has the run which goes on, is written in place. Where the run is
    to replace another one, it is written beside it and moves when `stands` is called.

    Args:
        workdir: the run's folder; made where it is missing.
        overwrite: replace a run that stands there.

    Attributes:
        folder: where the run is written now.

    Raises:
        InputError: another process holds it, it cannot be written, or it has files in it which
            recjax did not write and which a run would write over or `overwrite` would delete; one
            of several processes does not see it.
    """

    def __init__(self, workdir: Path, *, overwrite: bool = False):
        self.workdir = self.folder = workdir
        self._lead = current().index == 0
        self._locks: list[Lock] = []
        self._next: Replacement | None = None
        self._made: list[Path] = []
        tag, locked = 0, False
        if self._lead:
            try:
                tag = self._take(overwrite)
                locked = os.path.exists(self._locks[-1].file)
            except BaseException:
                self.abandon()
                raise
        tag, locked = current().gather("the workdir", [tag, locked])[0]
        if tag:
            self.folder = _successor(workdir, tag)
        if not self._lead:
            self._see(_LOCK if locked else "")

    def _see(self, name: str) -> None:
        """Waits until a file of process 0 is visible here: a network disk may show it late."""
        end = time.monotonic() + _SEEN
        while not os.path.exists(self.folder / name):
            if time.monotonic() > end:
                raise InputError(
                    f"{self.workdir}: process {current().index} does not see there what process 0 "
                    "has made; expected a folder that all hosts share, by the same path"
                )
            time.sleep(0.1)
        if not os.access(self.folder, os.W_OK):
            raise InputError(f"cannot write {self.workdir}: not by process {current().index}")

    def _take(self, overwrite: bool) -> int:
        """Locks the folder; returns the number in the successor's hidden name, 0 if none."""
        place = recovered(self.workdir, run_files)
        try:
            missing = [p for p in (place, *place.parents) if not p.exists()]
            place.mkdir(parents=True, exist_ok=True)
            self._made = missing
        except FileExistsError:
            raise InputError(f"cannot write {self.workdir}: is a file") from None
        except OSError as error:
            raise not_written(self.workdir, error) from error
        self._locks.append(Lock(place / _LOCK, self.workdir))
        try:
            held = {path.name for path in place.iterdir()} - {_LOCK}
        except OSError as error:
            raise not_written(self.workdir, error) from error
        ours = run_files(place) is not None
        if not ours and (overwrite or "config.json" in held) and held:
            raise InputError(
                f"{self.workdir}: not a workdir of `recjax train`, and never replaced; choose "
                "another --workdir"
            )
        taken = held & {name.partition("/")[0] for name in RUN_FILES}
        if not ours and taken:
            raise InputError(
                f"{self.workdir}: holds {min(taken)}, but no run (config.json is missing); choose "
                "another --workdir"
            )
        if not overwrite or not held:
            return 0
        tag = 1 + int.from_bytes(os.urandom(4), "little") % (2**32 - 1)
        self._next = Replacement(self.workdir, overwrite=True, known=run_files, tag=f"{tag:08x}")
        self._locks.append(Lock(self._next.folder / _LOCK, self.workdir))
        return tag

    @property
    def pending(self) -> bool:
        """Whether the run has yet to take its place."""
        return self.folder != self.workdir

    def stands(self) -> None:
        """Moves the run to its place; it has a checkpoint, and all its files are closed."""
        if self._next is not None:
            try:
                self._next.swap()
            except OSError as error:
                raise not_written(self.workdir, error) from error
            self._locks[-1].file = self._next.place / _LOCK
            self._next.close()
            self._next = None
        current().gather("the run in its place")
        self.folder = self.workdir

    def abandon(self) -> None:
        """Gives up a run that has not begun, and removes the folders that were made for it."""
        self.release()
        for folder in self._made:
            try:
                folder.rmdir()
            except OSError:  # somebody has put something there
                break

    def release(self) -> None:
        """Unlocks the folder; removes a run that has not taken its place."""
        if self._next is not None:
            self._next.close()
            self._next = None
        for lock in self._locks:
            lock.release()
        self._locks = []


def _successor(workdir: Path, tag: int) -> Path:
    place = workdir.resolve()
    return place.with_name(f".{place.name}.{tag:08x}.recjax-tmp")
