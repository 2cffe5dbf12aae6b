"""Splits into training, validation and test: runs of the store's flat `items`.

Letters: U users, n runs or examples.
"""

import dataclasses
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from recjax.data.ragged import row_positions
from recjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Spans:
    """n half-open runs `[start, stop)` of the store's flat `items`.

    In training, `items[start:stop]` is all that may be seen, inputs and targets. In validation and
    test a run is one example: the history `items[start:stop]` and the target `items[stop]`.

    Attributes:
        users: [n] int32, whose run it is (0-based).
        starts: [n] int64.
        stops: [n] int64.
        times: [N] int64 seconds of the flat `items`, for a model that reads them; None = it does
            not, or nobody knows them.
    """

    users: np.ndarray
    starts: np.ndarray
    stops: np.ndarray
    times: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.users)

    def __getitem__(self, chosen: np.ndarray | slice) -> "Spans":
        users, starts, stops = self.users[chosen], self.starts[chosen], self.stops[chosen]
        return dataclasses.replace(self, users=users, starts=starts, stops=stops)


@dataclasses.dataclass(frozen=True)
class Split:
    """Training runs, validation examples, test examples."""

    train: Spans
    validation: Spans
    test: Spans

    def timed(self, times: np.ndarray) -> "Split":
        """The same runs with the times [N] of the flat items."""
        parts = (self.train, self.validation, self.test)
        return Split(*(dataclasses.replace(part, times=times) for part in parts))


def _all_users(offsets: ArrayLike) -> Spans:
    """Each user's whole run. `InputError` for what are no offsets."""
    ends = np.asarray(offsets)
    whole = ends.ndim == 1 and ends.size and np.issubdtype(ends.dtype, np.integer)
    if not whole or (ends[1:] < ends[:-1]).any():
        raise InputError(
            f"offsets: expected [U+1] whole numbers, none less than the one before; got {ends}"
        )
    ends = ends.astype(np.int64)
    return Spans(np.arange(len(ends) - 1, dtype=np.int32), ends[:-1], ends[1:])


def leave_one_out(offsets: ArrayLike) -> Split:
    """Each user's last item is the test target, the one before it the validation target.

    A test history includes the validation item. Users with fewer than three items train only.

    Leaks: training reads items that other users chose after a test interaction took place (there
    is no common time), so figures are higher than in live use.

    Args:
        offsets: [U+1] the store's offsets; items of a user are in time order.
    """
    runs = _all_users(offsets)
    short = runs.stops - runs.starts < 3
    train = dataclasses.replace(runs, stops=runs.stops - np.where(short, 0, 2))
    long_runs = runs[~short]
    return Split(
        train,
        dataclasses.replace(long_runs, stops=long_runs.stops - 2),
        dataclasses.replace(long_runs, stops=long_runs.stops - 1),
    )


def rolling(offsets: ArrayLike, last: int = 10, held: int = 1) -> Split:
    """Each user's last items are test targets, one after another; those before them validation.

    More examples than `leave_one_out` has, and so a finer comparison: the history of each is all
    that the user did before it. A user with few items has fewer test targets, then fewer
    validation targets: one item always stays for training, and with three items there is one of
    each. Users with fewer than three items train only. `rolling(offsets, 1, 1)` is
    `leave_one_out(offsets)`.

    Leaks: as `leave_one_out`; a test history includes earlier test targets.

    Args:
        offsets: [U+1].
        last: test targets of a user at most.
        held: validation targets of a user at most.
    """
    runs = _all_users(offsets)
    lengths = runs.stops - runs.starts
    short = lengths < 3
    tests = np.where(short, 0, np.minimum(last, lengths - 2))
    before = np.where(short, 0, np.minimum(held, lengths - 1 - tests))

    def examples(first: np.ndarray, counts: np.ndarray) -> Spans:
        users = np.repeat(runs.users, counts)
        return Spans(users, runs.starts[users], first[users] + row_positions(counts))

    ends = runs.stops - tests
    return Split(
        dataclasses.replace(runs, stops=ends - before),
        examples(ends - before, before),
        examples(ends, tests),
    )


def _ratios(ratios: tuple[int, ...]) -> np.ndarray:
    if len(ratios) != 3 or min(ratios) < 0 or ratios[0] == 0:
        raise InputError(f"config.split.ratios: expected (train, validation, test), got {ratios}")
    return np.cumsum(ratios) / sum(ratios)


def _floor(count: float) -> int:
    """Floor; a whole number that rounding left a little too low counts as itself."""
    return int(np.floor(count + 1e-9))


def chronological_sequences(
    offsets: ArrayLike,
    timestamps: np.ndarray | None,
    ratios: tuple[int, ...] = (8, 1, 1),
    by: Literal["end", "start", "user"] = "end",
) -> Split:
    """RecInterpreter's split (section 4.1.1): whole sequences, sorted, cut by ratio.

    One sequence a user, sorted (ties: in order of users) and cut at the floors of the cumulative
    ratios: ML-100K's 943 become 754, 94 and 95. A validation or test sequence is one example
    whose target is its last item.

    The paper sorts "in chronological order" and does not say by which time. On ML-100K its
    popularity baseline (the ten most frequent items of the training windows), which recovers
    nothing of 74.74 % of the test sequences, comes out with `by="user"` alone (80.00 % by "end",
    64.21 % by "start"), and then training knows all last items of the test (85.26 % and 97.89 %).
    (Four items tie for the tenth place by "user": 73.68 to 76.84 %, the first of them gives 74.74.)

    Leaks: a training sequence may overlap in time with test sequences (by "end" it only ends
    earlier); no test user is seen in training.

    Args:
        offsets: [U+1].
        timestamps: [N]; None will do for "user".
        ratios: shares of training, validation and test.
        by: the time of the last interaction ("end"), of the first ("start"), or the order in
            which the data set numbers its users ("user").
    """
    cuts = _ratios(ratios)
    runs = _all_users(offsets)
    order = np.arange(len(runs))
    if by != "user":
        if timestamps is None:
            raise InputError(
                "config.split.name: 'chronological_sequences' needs timestamps; this data set has "
                "none"
            )
        when = runs.stops - 1 if by == "end" else runs.starts
        order = np.argsort(np.asarray(timestamps)[when], kind="stable")
    first, second = (_floor(len(order) * c) for c in cuts[:2])

    def examples(users: np.ndarray) -> Spans:
        chosen = runs[np.sort(users)]
        chosen = chosen[chosen.stops - chosen.starts >= 2]
        return dataclasses.replace(chosen, stops=chosen.stops - 1)

    return Split(
        runs[np.sort(order[:first])], examples(order[first:second]), examples(order[second:])
    )


def chronological_time(
    offsets: ArrayLike,
    timestamps: np.ndarray | None,
    ratios: tuple[int, ...] = (8, 1, 1),
    cuts: tuple[int, int] | None = None,
) -> Split:
    """Two cuts in time for everybody: training before both, validation between them, then test.

    The cuts are quantiles of all timestamps, or given. Training runs are each user's interactions
    before the first cut; each interaction of the validation (test) window that has a history is
    one example, and its history is everything of that user before it.

    Leaks: nothing of the future into training. A test history includes interactions of the
    validation and test windows that came before its target. Items first seen after the cut are
    targets that no model without content can rank.

    Args:
        offsets: [U+1].
        timestamps: [N], rising within a user.
        ratios: shares of the interactions.
        cuts: in place of shares, the first second of validation and of test.

    Raises:
        InputError: there are no timestamps, or nothing lies before the first cut.
    """
    if timestamps is None:
        raise InputError(
            "config.split.name: 'chronological_time' needs timestamps; this data set has none"
        )
    times = np.asarray(timestamps)
    if cuts is None:
        # One more time, after all others: a share of 0 is empty.
        ordered = np.append(np.sort(times), times.max() + 1)
        first, second = (ordered[_floor(len(times) * c)] for c in _ratios(ratios)[:2])
    else:
        first, second = cuts
        if not (times < first).any():
            raise InputError(
                f"config.split.validation_from: nothing is before it, {first} in seconds; the log "
                f"has {times.min()} to {times.max()}"
            )
    runs = _all_users(offsets)
    owner = np.repeat(runs.users, runs.stops - runs.starts)
    place = np.arange(len(times), dtype=np.int64)
    before = np.bincount(owner[times < first], minlength=len(runs))
    train = dataclasses.replace(runs, stops=runs.starts + before)

    def examples(window: np.ndarray) -> Spans:
        starts = runs.starts[owner]
        chosen = window & (place > starts)
        return Spans(owner[chosen], starts[chosen], place[chosen])

    return Split(
        train[before > 0],
        examples((times >= first) & (times < second)),
        examples(times >= second),
    )
