"""Interpreters by their workdirs: opened, examined, asked about states in a file.

examine("runs/ml100k", StudyConfig(controls=True))          # what `recjax interpret` does
read_hidden("runs/ml100k", "states.npz")[0]["residual"]
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from recjax.array_files import read_npz
from recjax.data.requests import Request
from recjax.data.splits import Spans
from recjax.errors import InputError, printable
from recjax.frozen import open_recommender
from recjax.interpreter.examples import check_states
from recjax.interpreter.run import InterpreterRun
from recjax.interpreter.study import Study, StudyConfig
from recjax.report.sections import Cases, Text, write_results
from recjax.text.tasks import TASKS
from recjax.training.workdir import open_run

# The arrays of a file that a task is asked about, by `Task.backs`.
_ARRAYS = {(1, 0): ("before", "after"), (0,): ("hidden",)}


def open_interpreter(workdir: str | Path) -> InterpreterRun:
    """The run of a workdir; `InputError` where it is another system's."""
    run = open_run(workdir)
    if not isinstance(run, InterpreterRun):
        raise InputError(f"{workdir}: a run of another kind; expected an interpreter's")
    return run


def examine(
    workdir: str | Path,
    config: StudyConfig,
    step: int | None = None,
    say: Callable[[str], Any] = lambda line: None,
) -> dict[str, float]:
    """Examines a run; what is found goes to WORKDIR/results.json, which `recjax report` shows.

    Args:
        workdir: of an interpreter.
        config: what to examine.
        step: checkpoint; None = the best one.
        say: gets what the model says of the first sequences, line by line.
    """
    run = open_interpreter(workdir)
    params = run.restore(run.best_step() if step is None else step)
    study = Study(run, params, config)
    sections = study.examine()
    for case in (case for part in sections if isinstance(part, Cases) for case in part.cases):
        say(printable(f"{case.heading} (history: {', '.join(i.text for i in case.history)})"))
    write_results(
        Path(workdir) / "results.json", [summary(run, config.split, study.metrics), *sections]
    )
    return study.metrics


def summary(run: InterpreterRun, split: str, metrics: dict[str, float]) -> Text:
    """A few sentences about an examination of one part of the split."""
    lines = [run.describe() + "."]
    for task in run.config.ask.tasks:
        name, what = ("accuracy", "of the added items are named")
        if task.lists:
            name, what = ("more_than_3", "of the sequences have more than 3 named")
        key = f"{split}/sequences/{task}/greedy/{name}"
        if key in metrics:
            lines.append(f"{metrics[key]:.1%} {what} (greedy decoding, {split} sequences).")
    return Text("In short", "\n\n".join(lines))


def recommender_of(
    workdir: str | Path, interpreter: str | Path
) -> tuple[str, Callable[[np.ndarray], np.ndarray]]:
    """A trained recommender as `StudyConfig.versus`: its name, and its first item that is new.

    Args:
        workdir: of its run.
        interpreter: workdir of the interpreter that it is compared with.

    Raises:
        InputError: a run of another kind, of other data, or of another split (it may have been
            trained on what the interpreter is tested on).
    """
    run = open_recommender(workdir)
    other = open_interpreter(interpreter).recommender
    if run.store.fingerprint != other.store.fingerprint or run.config.split != other.config.split:
        raise InputError(f"{workdir}: other data or another split than {interpreter} is of")
    params = run.restore(run.best_step())

    def best(ids: np.ndarray) -> np.ndarray:
        lengths = (ids != 0).sum(axis=1)
        ends = np.cumsum(lengths)
        spans = Spans(np.arange(len(ids), dtype=np.int32), ends - lengths, ends)
        request = Request(ids[ids != 0], spans, None, None)
        return np.concatenate([top[:, 0] for top, _ in run.lists.stream(params, request, 1)])

    return run.config.model["name"], best


def read_hidden(
    workdir: str | Path, file: str | Path, step: int | None = None
) -> list[dict[str, str]]:
    """An interpreter's answers about states in a file.

    Args:
        workdir: of the interpreter.
        file: .npz with `before` and `after`, or with `hidden`: [n L D] or [n D] each.
        step: checkpoint; None = the best one.

    Returns:
        For each row `residual` or `recovery`: the answer.

    Raises:
        InputError: no such file, other arrays, those of a task that was not trained, states of
            another width, NaN.
    """
    run = open_interpreter(workdir)
    arrays = read_npz(file)
    shown = [task for task in TASKS.values() if set(arrays) == set(_ARRAYS[task.backs])]
    if not shown:
        found = ", ".join(sorted(arrays)) or "nothing"
        raise InputError(f"{file}: holds {found}; expected before and after, or hidden")
    (task,) = shown
    names = _ARRAYS[task.backs]
    run.config.ask.check_trained(task)
    bridge = run.bridge
    states = [
        check_states(arrays[n], f"{file}: {n}", length=bridge.length, dim=bridge.dim) for n in names
    ]
    if len(states) == 2 and len(states[0]) != len(states[1]):
        raise InputError(f"{file}: {len(states[0])} rows of before, {len(states[1])} of after")
    reader = run.reader(run.restore(run.best_step() if step is None else step))
    return [{task.name: a.text.strip()} for a in reader.read(np.stack(states, axis=1), task)]
