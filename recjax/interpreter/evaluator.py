"""The evaluator of interpreters: the answers about histories that were not trained on."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from recjax.errors import InputError
from recjax.frozen import Windows, holds_sequences
from recjax.interpreter.measure import figures, measure
from recjax.text.tasks import Task
from recjax.typing import Params


class Interpretation:
    """Measures an interpreter: what it says of histories that it was not trained on.

    `NAME/residual/...` is about the newest window of every sequence, `NAME/windows/residual/...`
    about windows that end anywhere in one; in validation the windows alone are measured, as
    `validation/residual/...`. Where the split holds out targets alone, and not whole sequences, the
    windows would be the newest ones, and are left out. See `recjax.interpreter.measure` for the
    figures.

    All these ask the first prompt of the table. Validation asks every prompt: each one's main
    figure is `validation/residual/prompt1/accuracy` (`recovery/prompt1/mean`), and the lowest of
    them `validation/residual/worst/accuracy`.

    Args:
        run: the interpreter's.
        name: "validation" or "test".
    """

    def __init__(self, run: Any, name: Literal["validation", "test"]):
        self._run, self.name = run, name
        any_window = run.sample(run.windows(name, newest=False))
        self._parts: dict[str, Windows] = {name: any_window}
        if name == "test":
            self._parts = {name: run.windows(name, newest=True)}
            if holds_sequences(run.recommender):
                self._parts[f"{name}/windows"] = any_window

    @property
    def _asked(self) -> list[tuple[str, Task, Windows]]:
        tasks = self._run.config.ask.tasks
        return [(part, task, w) for part, w in self._parts.items() for task in tasks]

    @property
    def count(self) -> int:
        """How many answers there are."""
        return sum(len(w) * len(self._forms(task)) for _, task, w in self._asked)

    def _forms(self, task: Task) -> range:
        """The prompts that are measured."""
        return range(self._run.bridge.questions.forms(task) if self.name == "validation" else 1)

    def check(self) -> None:
        """Raises `InputError` where a part of the split has nothing to ask about."""
        if not all(map(len, self._parts.values())):
            raise InputError(f"the {self.name} split has no history of two items to ask about")

    @property
    def metric_names(self) -> list[str]:
        """The names that `run` gives."""
        names = []
        for part, task, _ in self._asked:
            measured = figures(task).names
            names += [f"{part}/{task}/{m}" for m in measured]
            if len(self._forms(task)) > 1:
                forms = [f"prompt{form}" for form in self._forms(task)]
                names += [f"{part}/{task}/{form}/{measured[0]}" for form in (*forms, "worst")]
        return names

    def run(
        self, params: Params, progress: Callable[[int], Any] = lambda n: None
    ) -> dict[str, float]:
        """Metrics by name, by greedy decoding."""
        reader = self._run.reader(params)
        out: dict[str, float] = {}
        for part, task, windows in self._asked:
            states = self._run.histories(windows).states(np.arange(len(windows)), task.backs)
            main = figures(task).names[0]
            each = []
            for form in self._forms(task):
                answers = reader.read(states, task, form=form, progress=progress)
                measured = measure(task, answers, windows).metrics()
                each.append(measured[main])
                if form == 0:
                    out |= {f"{part}/{task}/{key}": value for key, value in measured.items()}
            if len(each) > 1:
                out |= {f"{part}/{task}/prompt{k}/{main}": value for k, value in enumerate(each)}
                out[f"{part}/{task}/worst/{main}"] = min(each)
        return out
