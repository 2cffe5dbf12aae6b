"""Measures how much of the states is said: residual accuracy, recovered items, baselines.

A title counts for all items that have it: two items of one title cannot be told apart in words.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from recjax.evaluation.intervals import wilson
from recjax.frozen import Windows
from recjax.interpreter.reader import Answer
from recjax.text.tasks import Task


@dataclasses.dataclass(frozen=True)
class Residual:
    """Which added items were named (Table 2).

    Attributes:
        right: [n] bool, after normalisation of titles (`recjax.text.titles`).
        strict: [n] bool, letter by letter.
        outside: [n] bool, no title of the catalogue was named.
    """

    # Of the metrics, the main one first.
    names: ClassVar[tuple[str, ...]] = ("accuracy", "strict", "outside")
    right: np.ndarray
    strict: np.ndarray
    outside: np.ndarray

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy (Wilson's)."""
        return wilson(int(self.right.sum()), len(self.right))

    def metrics(self) -> dict[str, float]:
        """`names`, shares of the examples."""
        shares = (self.right.mean(), self.strict.mean(), self.outside.mean())
        return dict(zip(self.names, map(float, shares), strict=True))


def measure_residual(answers: Sequence[Answer], newest: np.ndarray) -> Residual:
    """Residual answers against the items that were added [n]."""
    pairs = list(zip(answers, newest.tolist(), strict=True))
    return Residual(
        np.array([item in answer.items for answer, item in pairs]),
        np.array([item in answer.strict_items for answer, item in pairs]),
        np.array([not answer.known for answer, _ in pairs]),
    )


@dataclasses.dataclass(frozen=True)
class Recovery:
    """How many items of each history were named (Figure 4).

    Attributes:
        counts: [n] different items of the history that are among the named ones.
        strict: [n] the same, letter by letter.
        named: [n] titles that were said.
        outside: [n] of them, titles that the catalogue has not.
        window: W.
    """

    # Of the metrics, the main one first.
    names: ClassVar[tuple[str, ...]] = (
        "mean", "strict", "none", "more_than_3", "more_than_5", "outside",
    )  # fmt: skip
    counts: np.ndarray
    strict: np.ndarray
    named: np.ndarray
    outside: np.ndarray
    window: int

    @property
    def distribution(self) -> np.ndarray:
        """[W + 1] share of the histories by the number of recovered items."""
        return np.bincount(self.counts, minlength=self.window + 1) / len(self.counts)

    def metrics(self) -> dict[str, float]:
        """The metrics of `names`; `outside` is a share of the given answers."""
        counts, outside = self.counts, self.outside.sum() / max(1, self.named.sum())
        shares = [(counts == 0).mean(), (counts > 3).mean(), (counts > 5).mean()]
        values = [counts.mean(), self.strict.mean(), *shares, outside]
        return dict(zip(self.names, map(float, values), strict=True))


def figures(task: Task) -> type[Residual] | type[Recovery]:
    """The measure of a task's answers."""
    return Recovery if task.lists else Residual


def _recovered(histories: np.ndarray, named: Sequence[frozenset[int]]) -> np.ndarray:
    pairs = zip(histories.tolist(), named, strict=True)
    return np.array([len((set(row) - {0}) & items) for row, items in pairs])


def measure_recovery(answers: Sequence[Answer], windows: Windows) -> Recovery:
    """Recovery answers against the histories."""
    histories = windows.ids()
    return Recovery(
        _recovered(histories, [answer.items for answer in answers]),
        _recovered(histories, [answer.strict_items for answer in answers]),
        np.array([len(answer.named) for answer in answers]),
        np.array([sum(not one.items for one in answer.named) for answer in answers]),
        windows.window,
    )


def measure(task: Task, answers: Sequence[Answer], windows: Windows) -> Residual | Recovery:
    """Measures answers to a task against the windows that they are about."""
    if figures(task) is Residual:
        return measure_residual(answers, windows.newest)
    return measure_recovery(answers, windows)


def popularity_recovery(items: np.ndarray, windows: Windows) -> Recovery:
    """The baseline of Figure 4: the same popular items as the answer for every history."""
    histories = windows.ids()
    counts = _recovered(histories, [frozenset(items.tolist())] * len(histories))
    titles = np.full(len(histories), len(items))
    return Recovery(counts, counts, titles, np.zeros_like(titles), windows.window)
