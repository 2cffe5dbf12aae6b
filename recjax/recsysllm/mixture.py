"""Streams of training samples: each family's, and their mixture with text about behaviour."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from recjax.data.ragged import row_numbers, row_positions
from recjax.data.splits import Spans
from recjax.errors import InputError
from recjax.recsysllm.passages import Passage
from recjax.recsysllm.prompts import FAMILIES, PROMPTS, Family
from recjax.recsysllm.tasks import Tasks

_CYCLE = 1000  # passages in which the shares hold exactly


@dataclasses.dataclass(frozen=True, eq=False)
class FamilySamples:
    """The training samples of a family; passage = f(seed, place).

    Attributes:
        tasks: makes them.
        family: of `FAMILIES`.
        spans: runs that may be read.
    """

    tasks: Tasks
    family: Family
    spans: Spans

    @functools.cached_property
    def _all(self) -> tuple[np.ndarray, np.ndarray]:
        """Places that can be asked about, and the run of each."""
        sizes = self.spans.stops - self.spans.starts
        run, place = row_numbers(sizes), row_positions(sizes)
        least = 1 if self.family == "sequential" else 0
        chosen = place >= least
        return (place + self.spans.starts[run])[chosen], run[chosen]

    @functools.cached_property
    def _able(self) -> dict[str, np.ndarray]:
        """Which places each prompt can be asked about, by prompt."""
        ids = self.tasks.usable(self.family, self._all[0])
        return {id: self.tasks.able(PROMPTS[id], self._all[0]) for id in ids}

    @functools.cached_property
    def _members(self) -> np.ndarray:
        return np.flatnonzero(np.any(list(self._able.values()), axis=0))

    def __len__(self) -> int:
        return len(self._members)

    @functools.lru_cache(maxsize=2)  # noqa: B019 - a batch spans at most two epochs
    def _order(self, epoch: int) -> np.ndarray:
        number = FAMILIES.index(self.family)
        rng = np.random.default_rng([self.tasks.seed, 11 + number, epoch])
        return rng.permutation(self._members)

    def __call__(self, place: int) -> Passage:
        epoch, inside = divmod(place, len(self))
        member = int(self._order(epoch)[inside])
        number = FAMILIES.index(self.family)
        rng = np.random.default_rng([self.tasks.seed, 31 + number, epoch, inside])
        ids = [id for id, able in self._able.items() if able[member]]
        run = int(self._all[1][member])
        start, stop = int(self.spans.starts[run]), int(self.spans.stops[run])
        id = ids[int(rng.integers(len(ids)))]
        return self.tasks.passage(id, start, int(self._all[0][member]), stop, rng)


@dataclasses.dataclass(frozen=True, eq=False)
class Mixture:
    """Streams mixed by shares: in each 1,000 passages the shares hold but for rounding.

    Attributes:
        streams: by name, each with a length and a passage at each place.
        shares: of each, relative to their sum.
        seed: of the order.
    """

    streams: Mapping[str, Any]
    shares: Mapping[str, float]
    seed: int = 0

    @functools.cached_property
    def names(self) -> list[str]:
        """Names of the streams that have a share."""
        return [name for name in self.streams if self.shares[name] > 0]

    @functools.cached_property
    def _plan(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A cycle: which stream, how many of it come before, and how many of each stream."""
        shares = np.array([self.shares[name] for name in self.names])
        exact = shares / shares.sum() * _CYCLE
        counts = np.floor(exact).astype(int)
        rest = np.argsort(counts - exact, kind="stable")[: _CYCLE - counts.sum()]
        counts[rest] += 1
        which = np.random.default_rng([self.seed, 5]).permutation(row_numbers(counts))
        before = np.zeros(_CYCLE, int)
        for number in range(len(counts)):
            before[which == number] = np.arange(counts[number])
        return which, before, counts

    def __len__(self) -> int:
        """Passages in which the stream of the largest share is seen once."""
        largest = max(self.names, key=lambda name: self.shares[name])
        total = sum(self.shares[name] for name in self.names)
        return max(1, round(len(self.streams[largest]) * total / self.shares[largest]))

    def __call__(self, place: int) -> Passage:
        cycle, inside = divmod(place, _CYCLE)
        which, before, counts = self._plan
        number = int(which[inside])
        own = cycle * int(counts[number]) + int(before[inside])
        return self.streams[self.names[number]](own)


def mixture(
    tasks: Tasks, spans: Spans, samples: Callable[..., FamilySamples] = FamilySamples
) -> Mixture:
    """A run's training data.

    Args:
        tasks: makes passages.
        spans: runs that may be read.
        samples: `(tasks, family, spans) -> samples` of a family.

    Raises:
        InputError: a family whose fields the data lack, or without a sample.
    """
    config = tasks.config
    streams: dict[str, Any] = {"text": tasks.behaviour} if config.text else {}
    for family, share in config.shares.items():
        if share:
            streams[family] = samples(tasks, family, spans)
    for name, stream in streams.items():
        if not len(stream):
            raise InputError(
                f"config.text.tasks.{name}: no sample; expected sequences it can be told of"
            )
    shares: dict[str, float] = {"text": config.text}
    shares.update((name, share) for name, share in config.shares.items())
    return Mixture(streams, shares, tasks.seed)
