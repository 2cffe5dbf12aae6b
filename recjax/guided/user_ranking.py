"""How users' scores rank the items that the users chose next: the evaluation of a policy.

Letters: U users, A aspects.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from recjax.errors import InputError
from recjax.ranges import Checked, Count, Size
from recjax.typing import Array

# `(params, batch, data) -> (expected ratings [B A], (AUC, reciprocal rank) [B 2], whether there is
# an AUC [B])`.
RankedFn = Callable[[Any, Mapping[str, Any], Any], tuple[Array, Array, Array]]


@dataclasses.dataclass(frozen=True)
class PolicyEvaluationConfig(Checked):
    """Section `evaluation`."""

    batch_size: Size = 64  # users at a time
    max_examples: Count = 0  # the first so many users; 0 = all


@dataclasses.dataclass(frozen=True, eq=False)
class PolicyEvaluator:
    """The users' expected ratings, and how they rank the items that follow.

    Metrics: `NAME/users/auc` over users with liked and other items, `NAME/full/mrr` of the next
    items among all but the history, `NAME/users/loss` = 1 - the task's.

    Attributes:
        config: how many users, and how many at a time.
        name: prefix of the metric names.
        task: "liked" or "next".
        users: `UserExamples.at` of the part.
        data: what `ranked` reads.
        ranked: the model.
    """

    config: PolicyEvaluationConfig
    name: str
    task: str
    users: Mapping[str, np.ndarray]
    data: Any
    ranked: RankedFn

    @functools.cached_property
    def examples(self) -> np.ndarray:
        """The users that are measured."""
        return self.users["users"][: self.config.max_examples or None]

    @property
    def metric_names(self) -> list[str]:
        """The names that `run` gives."""
        return [f"{self.name}/users/auc", f"{self.name}/full/mrr", f"{self.name}/users/loss"]

    def check(self) -> None:
        """Whether the data have what the task needs.

        Raises:
            InputError: the task "liked" where no user has liked and other items.
        """
        liked = self.users["liked"][: len(self.examples)]
        if self.task == "liked" and not (liked.any(1) & ~liked.all(1)).any():
            raise InputError(
                "config.reward.task: 'liked' needs users with liked and other items among "
                "config.users.targets; there is none (are there ratings?)"
            )

    @functools.cached_property
    def _jitted(self) -> RankedFn:
        return jax.jit(self.ranked)

    def _rated(
        self, params: Any, progress: Callable[[int], Any] = lambda n: None
    ) -> Iterator[tuple[np.ndarray, ...]]:
        count = len(self.examples)
        size = min(self.config.batch_size, count)
        for first in range(0, count, size):
            rows = np.minimum(np.arange(first, first + size), count - 1)
            batch = {name: array[rows] for name, array in self.users.items()}
            found = self._jitted(params, batch, self.data)
            done = min(size, count - first)
            yield tuple(np.asarray(array)[:done] for array in found)
            progress(done)

    def ratings(self, params: Any) -> np.ndarray:
        """Expected ratings [U A]."""
        return np.concatenate([ratings for ratings, _, _ in self._rated(params)])

    def run(self, params: Any, progress: Callable[[int], Any] = lambda n: None) -> dict[str, float]:
        """Metrics by name; `progress` gets the number of users done."""
        found = list(self._rated(params, progress))
        values = np.concatenate([values for _, values, _ in found])
        some = np.concatenate([some for _, _, some in found])
        area = float(values[some, 0].mean()) if some.any() else 0.5
        rank = float(values[:, 1].mean())
        loss = 1.0 - (area if self.task == "liked" else rank)
        return dict(zip(self.metric_names, (area, rank, loss), strict=True))
