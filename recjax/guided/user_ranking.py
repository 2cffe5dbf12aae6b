"""Evaluates a policy: how well users' scores rank the items that they chose next.

Letters: U users, A aspects.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from recjax.errors import InputError
from recjax.evaluation.shards import fetch, shards_of, split_batch
from recjax.guided.rewards import TASKS, Task
from recjax.ranges import Checked, Count, Size
from recjax.typing import Array

# `(params, batch, data) -> (expected ratings [B A], the reward of each of `TASKS` [B n], whether an
# answer is read [B])`.
RankedFn = Callable[[Any, Mapping[str, Any], Any], tuple[Array, Array, Array]]


@dataclasses.dataclass(frozen=True)
class PolicyEvaluationConfig(Checked):
    """Section `evaluation`."""

    batch_size: Size = 64  # users at a time
    max_examples: Count = 0  # the first so many users; 0 = all


@dataclasses.dataclass(frozen=True, eq=False)
class PolicyEvaluator:
    """The users' expected ratings, and how they rank the items that follow.

    Metrics: `NAME/users/auc` over users with liked and other items, where there are any,
    `NAME/full/mrr` of the next items among all but the history, `NAME/users/loss` = 1 - the task's;
    where answers are written freely `NAME/users/read`, the share of drawn ones that are read to
    their end.

    Attributes:
        config: how many users, and how many at a time.
        name: prefix of the metric names.
        task: of `recjax.guided.rewards.TASKS`.
        users: `UserExamples.at` of the part.
        data: what `ranked` reads.
        ranked: the model.
        free: whether answers are written freely.
        sharding: how users are split over devices (`recjax.evaluation.shards`).
    """

    config: PolicyEvaluationConfig
    name: str
    task: str
    users: Mapping[str, np.ndarray]
    data: Any
    ranked: RankedFn
    free: bool = False
    sharding: NamedSharding | None = None

    @functools.cached_property
    def examples(self) -> np.ndarray:
        """The users that are measured."""
        return self.users["users"][: self.config.max_examples or None]

    @property
    def count(self) -> int:
        """How many examples there are."""
        return len(self.examples)

    @property
    def metric_names(self) -> list[str]:
        """The names that `run` gives."""
        names = [*(t.metric for t in self._tasks.values()), "users/loss"]
        return [f"{self.name}/{name}" for name in names + ["users/read"] * self.free]

    def check(self) -> None:
        """Whether the data have what the task needs.

        Raises:
            InputError: the task "liked" where no user has liked and other items.
        """
        if TASKS[self.task].rated and not self._mixed.any():
            raise InputError(
                f"config.reward.task: '{self.task}' needs users with liked and other items among "
                "config.users.targets; there is none (are there ratings?)"
            )

    @property
    def _tasks(self) -> dict[str, Task]:
        """The tasks that can be measured; the run's own is refused by `check` if it is not."""
        mixed = self._mixed.any()
        return {name: task for name, task in TASKS.items() if mixed or not task.rated}

    @functools.cached_property
    def _mixed(self) -> np.ndarray:
        """[U] users with liked and other items among their targets."""
        liked = self.users["liked"][: len(self.examples)]
        count = liked.sum(1)
        return np.asarray((count > 0) & (count < liked.shape[1]))

    @functools.cached_property
    def _jitted(self) -> RankedFn:
        return jax.jit(self.ranked)

    def _rated(
        self, params: Any, progress: Callable[[int], Any] = lambda n: None
    ) -> Iterator[tuple[np.ndarray, ...]]:
        count, shards = len(self.examples), shards_of(self.sharding)
        size = -(-min(self.config.batch_size, count) // shards) * shards
        for first in range(0, count, size):
            rows = np.minimum(np.arange(first, first + size), count - 1)
            batch = {name: array[rows] for name, array in self.users.items()}
            results = fetch(self._jitted(params, split_batch(batch, self.sharding), self.data))
            done = min(size, count - first)
            yield tuple(array[:done] for array in results)
            progress(done)

    def ratings(self, params: Any) -> np.ndarray:
        """Expected ratings [U A]."""
        return np.concatenate([ratings for ratings, *_ in self._rated(params)])

    def run(self, params: Any, progress: Callable[[int], Any] = lambda n: None) -> dict[str, float]:
        """Metrics by name; `progress` gets the number of users done."""
        _, rewards, read = map(np.concatenate, zip(*self._rated(params, progress), strict=True))
        means = {}
        for (name, task), values in zip(TASKS.items(), rewards.T, strict=True):
            if name in self._tasks:
                means[name] = float((values[self._mixed] if task.rated else values).mean())
        values = [*means.values(), 1.0 - means[self.task]] + [float(read.mean())] * self.free
        return dict(zip(self.metric_names, values, strict=True))
