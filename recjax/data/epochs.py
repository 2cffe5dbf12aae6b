"""One shuffled epoch after another, as a function of the place in the stream."""

import dataclasses
import functools

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Epochs:
    """The numbers 0 .. count - 1 without end: each epoch has all of them, in an order of its own.

    Attributes:
        count: numbers of an epoch.
        seed: of the orders.
    """

    count: int
    seed: int

    @functools.lru_cache(maxsize=2)  # noqa: B019 - a batch spans at most two epochs
    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(self.count)

    def __call__(self, places: np.ndarray) -> np.ndarray:
        """The numbers [n] int64 at these places [n] of the stream."""
        epochs, inside = np.divmod(places, self.count)
        out = np.empty(len(places), np.int64)
        for epoch in np.unique(epochs):
            in_epoch = epochs == epoch
            out[in_epoch] = self._order(int(epoch))[inside[in_epoch]]
        return out
