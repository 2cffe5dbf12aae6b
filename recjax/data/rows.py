"""Batches of rows that stand for themselves (ratings, reviews): shuffled epochs, by step."""

import abc
import functools
from collections.abc import Mapping

import numpy as np

from recjax.data.epochs import Epochs
from recjax.data.pipeline import step_size


def some_rows(count: int, most: int, seed: int) -> np.ndarray:
    """[n] at most `most` of the rows 0 .. count - 1 (0 = all), drawn once and in order."""
    if not 0 < most < count:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))


class RowBatches(abc.ABC):
    """n rows, and batches of them: one shuffled epoch after another; a batch = f(step).

    Attributes:
        batch_size: rows a step; all of them where they are fewer.
        seed: of the shuffles.
        multiple: of a step's rows.
        process: this process, and how many there are; each makes its part of a step.
    """

    batch_size: int
    seed: int
    multiple: int
    process: tuple[int, int]

    @property
    @abc.abstractmethod
    def arrays(self) -> Mapping[str, np.ndarray]:
        """The arrays of a batch, by name: [n ...]."""

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    @property
    def per_step(self) -> int:
        """Rows of a step."""
        return step_size(self.batch_size, len(self), self.multiple)

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every row is seen about once."""
        return max(1, round(len(self) / self.per_step))

    @functools.cached_property
    def _epochs(self) -> Epochs:
        return Epochs(len(self), self.seed)

    def __call__(self, step: int, count: int = 1) -> dict[str, np.ndarray]:
        """This process's part of steps step .. step + count - 1: [K B ...]."""
        number, processes = self.process
        share = self.per_step // processes
        steps = (step + np.arange(count)[:, None]) * self.per_step
        chosen = self._epochs((steps + number * share + np.arange(share)).reshape(-1))
        return {
            name: array[chosen].reshape(count, share, *array.shape[1:])
            for name, array in self.arrays.items()
        }
