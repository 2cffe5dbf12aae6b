"""Where a run's numbers go: JSON lines, TensorBoard, a progress bar."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from recjax.errors import InputError
from recjax.json_files import parse
from recjax.replace import not_written, write_text


class MetricWriter:
    """Appends metrics to `WORKDIR/metrics.jsonl` and to TensorBoard event files.

    Where the disk is full, that is told, training goes on, and the lines are written when there is
    room again.

    Args:
        workdir: the run's folder.
        step: the step that the run resumes from; what lies after it is dropped, for it will be
            written again.
    """

    def __init__(self, workdir: Path, step: int = 0):
        self._path = workdir / "metrics.jsonl"
        _drop_after(self._path, step)
        self._file = self._path.open("ab", buffering=0)
        self._waiting = b""  # lines that found no room
        self._board = _Board(workdir, step + 1 if step else None)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """One line: the step and its values."""
        self._waiting += json.dumps({"step": step, **values}).encode() + b"\n"
        try:
            self._append()
            self._board.write(step, values)
        except OSError as error:
            print(f"recjax: {not_written(self._path, error)}; training goes on", file=sys.stderr)

    def _append(self) -> None:
        end = os.fstat(self._file.fileno()).st_size
        try:
            while self._waiting:
                written = self._file.write(self._waiting)
                self._waiting = self._waiting[written:]
                end += written
        except OSError:
            # Half a line may stand; the rest of it follows, and nothing is written twice.
            os.ftruncate(self._file.fileno(), end)
            raise

    def flush(self) -> None:
        """Writes every waiting line to the file.

        Raises:
            InputError: it cannot be written.
        """
        try:
            self._append()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise not_written(self._path, error) from error

    def close(self) -> None:
        """Closes the files."""
        self._file.close()
        self._board.close()


def _drop_after(path: Path, step: int) -> None:
    """Removes the lines after a step, the final line, and a line that a kill cut short.

    The file is shortened in place, which needs no room on the disk.
    """
    kept = [line for line in read_metrics(path) if line["step"] <= step]
    text = "".join(json.dumps(line) + "\n" for line in kept if not line.get("final")).encode()
    if path.exists() and path.read_bytes().startswith(text):
        os.truncate(path, len(text))
    else:
        write_text(path, text.decode())


class _Board:
    """TensorBoard's event files. tensorboardX's own writer has a thread that ends at the first
    error, and then waits for it without an end."""

    def __init__(self, workdir: Path, purge: int | None):
        hide = "torch" not in sys.modules
        if hide:  # where torch is installed, tensorboardX would load it in vain
            sys.modules["torch"] = None  # type: ignore[assignment]  # makes `import torch` fail
        try:
            from tensorboardX import event_file_writer, summary  # slow to import
            from tensorboardX.proto import event_pb2
        finally:
            if hide:
                del sys.modules["torch"]
        self._event, self._scalar = event_pb2.Event, summary.scalar
        self._writer = event_file_writer.EventsWriter(str(workdir / "events"))
        if purge is not None:
            log = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._writer.write_event(
                self._event(session_log=log, step=purge, wall_time=time.time())
            )

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """The numbers among the values."""
        for key, value in values.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                event = self._event(
                    summary=self._scalar(key, value), step=step, wall_time=time.time()
                )
                self._writer.write_event(event)
        self._writer.flush()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what found no room is in metrics.jsonl
            self._writer.close()


class NoWriter:
    """Stands in for `MetricWriter` on the processes that do not write."""

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes nothing."""
        del step, values

    def flush(self) -> None:
        """Does nothing."""
        pass

    def close(self) -> None:
        """Does nothing."""
        pass


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`: a step and numbers, by name.

    An empty list where there is no file. A last line that a kill cut short is left out.

    Raises:
        InputError: naming the file, line and key of what is no such line.
    """
    if not path.exists():
        return []
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    out = []
    for number, data in enumerate(lines, start=1):
        where = f"{path}:{number}"
        try:
            line = parse(data, where)
        except InputError:
            if number == len(lines):  # every whole line has an end
                break
            raise
        step = line.get("step") if isinstance(line, dict) else None
        if type(step) is not int or not 0 <= step < 2**63:
            raise InputError(f"{where}: expected an object with a whole number as its 'step'")
        for key, value in line.items():
            known = isinstance(value, bool | float | None)
            if not known and not (type(value) is int and abs(value) < 2**63):
                raise InputError(f"{where}: '{key}' is {value!r}; expected a number")
        out.append(line)
    return out


def progress_bar(total: int, done: int, what: str, unit: str) -> tqdm:
    """A progress bar on stderr with rate and time left.

    It is silent if stderr is no terminal and `RECJAX_PROGRESS` is not set.
    """
    quiet = not (sys.stderr.isatty() or os.environ.get("RECJAX_PROGRESS"))
    return tqdm(
        total=total,
        initial=done,
        desc=what,
        unit=unit,
        disable=quiet,
        file=sys.stderr,
        dynamic_ncols=True,
        mininterval=0.5,
    )


def group_metrics(metrics: Mapping[str, float]) -> dict[str, dict[str, dict[str, float]]]:
    """Metrics named `split/protocol/metric@k` as `{split/protocol: {metric: {k: value}}}`; k is ""
    where a metric has none."""
    groups: dict[str, dict[str, dict[str, float]]] = {}
    for name, value in metrics.items():
        head, _, last = name.rpartition("/")
        metric, _, cutoff = last.partition("@")
        groups.setdefault(head, {}).setdefault(metric, {})[cutoff] = value
    return groups


def format_table(metrics: Mapping[str, float]) -> str:
    """Metrics as one table for each split and protocol, with a row a metric and a column a cutoff.

    Metrics without cutoff have a column without a name.
    """
    lines = []
    for head, rows in group_metrics(metrics).items():
        cutoffs = list(dict.fromkeys(c for row in rows.values() for c in row))
        width = max(len(head), *(len(m) for m in rows))
        lines.append(f"{head:<{width}}" + "".join(f"{'@' + c if c else '':>9}" for c in cutoffs))
        for metric, row in rows.items():
            cells = (f"{row[c]:>9.4f}" if c in row else " " * 9 for c in cutoffs)
            lines.append(f"{metric:<{width}}" + "".join(cells))
        lines.append("")
    return "\n".join(lines).rstrip()
