"""Raw interaction logs in memory: columns, id maps, order, statistics.

Letters: N rows of the log, U users, I catalogue size. Here ids are *codes*, 0-based, in order of
first appearance; the padding-based ids (0 pads, items from 1) are made by `recjax.data.store`.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recjax.data.keys import Found, Keys, KeyTable, Texts
from recjax.data.spill import Column, forget, parts, spills
from recjax.errors import InputError

# Raw item key -> what is known of the item. `title` (str or None) is always there; readers add
# what their source has: `genres`, `year`, `brand`, `categories`, `description`, ...
Catalog = dict[str, dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class InteractionLog:
    """One raw log, a row an interaction, in file order.

    Attributes:
        users: [N] int32, index into `user_keys`.
        items: [N] int32, index into `item_keys`.
        timestamps: [N] int64, seconds since the epoch, or None where the source has no times
            (file order is then the time order).
        ratings: [N] float32, or None.
        nanoseconds: [N] int32, the times' parts below a second, or None where all are 0. They
            order the rows and are not stored.
        user_keys: [U] raw user ids; while `recjax.data.spill.spilling`, `Keys` where the reader
            uses `LogBuilder`.
        item_keys: raw item ids of the log (items nobody touched are not in the log).
    """

    users: np.ndarray
    items: np.ndarray
    timestamps: np.ndarray | None
    ratings: np.ndarray | None
    user_keys: Sequence[str]
    item_keys: Sequence[str]
    nanoseconds: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.users)


_ROWS = 1 << 18  # whose keys are texts until they are coded together


class BadRows:
    """Counts malformed rows and stops at the first one over the limit.

    Args:
        limit: how many bad rows are tolerated (`config.data.skip_bad_rows`). 0 stops at the first;
            None does, too, where no key says how many.
    """

    def __init__(self, limit: int | None = None):
        self.limit = limit or 0
        self._hint = (
            "" if limit is None else (f" ({limit} bad rows tolerated: --config.data.skip_bad_rows)")
        )
        self.count = 0
        self.examples: list[str] = []  # the first few, for the manifest

    def report(self, path: Path, line: int, reason: str) -> None:
        """Notes one bad row; raises `InputError` naming file and line when it is one too many."""
        self.count += 1
        message = f"{path}:{line}: {reason}"
        if self.count > self.limit:
            raise InputError(f"{message}{self._hint}")
        if len(self.examples) < 10:
            self.examples.append(message)


class LogBuilder:
    """Grows an `InteractionLog` by rows with compact columns."""

    def __init__(self, *, timestamps: bool, ratings: bool):
        self._users, self._items = Column("i", np.int32), Column("i", np.int32)
        self._timestamps = Column("q", np.int64) if timestamps else None
        self._nanoseconds = Column("i", np.int32)
        self._ratings = Column("f", np.float32) if ratings else None
        self._all = (self._users, self._items, self._timestamps, self._nanoseconds, self._ratings)
        self._user_table, self._item_table = KeyTable(), KeyTable()
        self._new_users: list[str] = []  # of rows whose other columns are there already
        self._new_items: list[str] = []

    def add(
        self,
        user: str,
        item: str,
        timestamp: int = 0,
        rating: float = 0.0,
        nanoseconds: int = 0,
    ) -> None:
        """Adds one interaction; columns the log does not have are ignored."""
        self._new_users.append(user)
        self._new_items.append(item)
        if self._timestamps is not None:
            if nanoseconds:  # few files have any
                self._fill_nanoseconds()
                self._nanoseconds.append(nanoseconds)
            self._timestamps.append(timestamp)
        if self._ratings is not None:
            self._ratings.append(rating)
        if len(self._new_users) >= _ROWS:
            self._code()

    def extend(
        self,
        users: Texts,
        items: Texts,
        timestamps: np.ndarray | None = None,
        ratings: np.ndarray | None = None,
        nanoseconds: np.ndarray | None = None,
        check: Callable[[Found], None] | None = None,
    ) -> None:
        """Adds many interactions [n]; the columns that the log has.

        `check` sees the users that were looked up, and the items; where it raises an error, nothing
        is added.
        """
        self._code()
        found = self._user_table.find(users), self._item_table.find(items)
        if check is not None:
            for some in found:
                check(some)
        self._users.extend(self._user_table.add(found[0]))
        self._items.extend(self._item_table.add(found[1]))
        if self._timestamps is not None and timestamps is not None:
            if nanoseconds is not None and nanoseconds.any():
                self._fill_nanoseconds()
                self._nanoseconds.extend(nanoseconds)
            self._timestamps.extend(timestamps)
        if self._ratings is not None and ratings is not None:
            self._ratings.extend(ratings)
        self._spill()

    def _code(self) -> None:
        """Codes of the keys that are texts still."""
        for table, column, new in (
            (self._user_table, self._users, self._new_users),
            (self._item_table, self._items, self._new_items),
        ):
            column.extend(table.add(table.find(Texts.of(new))))
            new.clear()
        self._spill()

    def _spill(self) -> None:
        for column in self._all:
            if column is not None:
                column.spill()

    def _fill_nanoseconds(self) -> None:
        """Zeros for the rows so far that have none."""
        rows = len(self._timestamps or ())
        self._nanoseconds.zeros(rows - len(self._nanoseconds))

    def build(self) -> InteractionLog:
        """The log of all rows so far."""
        self._code()
        if len(self._nanoseconds):
            self._fill_nanoseconds()
        nanoseconds = self._nanoseconds.array()
        return InteractionLog(
            users=self._users.array(),
            items=self._items.array(),
            timestamps=None if self._timestamps is None else self._timestamps.array(),
            ratings=None if self._ratings is None else self._ratings.array(),
            user_keys=_kept(self._user_table.keys()),
            item_keys=_kept(self._item_table.keys()),
            nanoseconds=nanoseconds if len(nanoseconds) else None,
        )


def _kept(keys: Keys) -> Sequence[str]:
    """Keys as texts, where the log is to be in memory."""
    return keys if spills() else list(keys)


def time_order(log: InteractionLog) -> np.ndarray:
    """[N] int64 order by (user, time), stable: equal times stay in file order."""
    users = log.users
    if log.timestamps is None:
        return np.argsort(users, kind="stable")
    if log.nanoseconds is not None:
        return np.lexsort((log.nanoseconds, log.timestamps, users))
    same_user = users[1:] == users[:-1]
    if not np.any(users[1:] < users[:-1]) and not np.any(
        same_user & (log.timestamps[1:] < log.timestamps[:-1])
    ):
        return np.arange(len(users))  # sorted already: simulated and exported logs are
    by_time = np.argsort(log.timestamps, kind="stable")
    return by_time[np.argsort(users[by_time], kind="stable")]


def out_of_order(log: InteractionLog) -> int:
    """Rows whose time lies before that of the same user's previous row in the file."""
    if log.timestamps is None or len(log) < 2:
        return 0
    order = np.argsort(log.users, kind="stable")
    users, times = log.users[order], log.timestamps[order]
    earlier = times[1:] < times[:-1]
    if log.nanoseconds is not None:
        below = log.nanoseconds[order]
        earlier |= (times[1:] == times[:-1]) & (below[1:] < below[:-1])
    return int(np.count_nonzero((users[1:] == users[:-1]) & earlier))


def order_of_keys(offsets: np.ndarray, items: np.ndarray, timestamps: np.ndarray) -> str | None:
    """A note where rows of equal times stand in the order of the items' keys; None elsewhere.

    Files that are grouped or sorted by item have them so (Amazon's reviews, MovieLens from 20M on).
    A sequential model learns that order and not what people do.

    Args:
        offsets: [U+1].
        items: [N] ids, in the order of their keys.
        timestamps: [N].
    """
    ties = rising = 0
    for first in range(0, len(items), _ROWS):
        some = slice(first, first + _ROWS + 1)
        step, same = np.diff(items[some]), np.diff(timestamps[some]) == 0
        starts = offsets[(offsets > first) & (offsets <= first + len(step))]
        same[starts - first - 1] = False  # another user's
        ties += int(np.count_nonzero(same & (step != 0)))
        rising += int(np.count_nonzero(same & (step > 0)))
        forget(items)
        forget(timestamps)
    if ties < 100 or rising < 0.75 * ties:
        return None
    return (
        f"{ties:,} rows have the time of the same user's row before, and {rising / ties:.0%} of "
        "them stand in the order of the item keys, as in the file: a sequential model learns that "
        "order, too, and looks better for it"
    )


def compact(log: InteractionLog) -> InteractionLog:
    """New codes in order of the raw keys (numbers by value, else text), unused keys dropped.

    Order of keys, not of appearance, so that an id says nothing about time.
    """

    def renumber(codes: np.ndarray, keys: Sequence[str]) -> tuple[np.ndarray, list[str]]:
        used = np.flatnonzero(np.bincount(codes, minlength=len(keys)))
        chosen = [keys[i] for i in used.tolist()]
        order = np.array(key_order(chosen), np.int64)
        new = np.zeros(len(keys), np.int32)
        new[used[order]] = np.arange(len(order), dtype=np.int32)
        return new[codes], [chosen[i] for i in order.tolist()]

    users, user_keys = renumber(log.users, log.user_keys)
    items, item_keys = renumber(log.items, log.item_keys)
    return dataclasses.replace(
        log, users=users, items=items, user_keys=user_keys, item_keys=item_keys
    )


def key_numbers(keys: Sequence[str]) -> np.ndarray | None:
    """[n] int64 where all keys are numbers of digits, at most 18; else None."""
    if isinstance(keys, Keys):
        return keys.numbers()
    if all(key.isascii() and key.isdigit() and len(key) < 19 for key in keys):
        return np.array(keys, np.int64)
    return None


def key_order(keys: Sequence[str]) -> list[int] | np.ndarray:
    """Places of keys in their order: of numbers by value, else of text."""
    numbers = key_numbers(keys)
    if numbers is not None:
        return np.argsort(numbers, kind="stable")
    if isinstance(keys, Keys):
        return keys.order()
    return sorted(range(len(keys)), key=keys.__getitem__)


def _different(offsets: np.ndarray, items: np.ndarray, n_items: int) -> int:
    """How many different pairs of a user and an item there are."""
    count = first = 0
    while first < len(offsets) - 1:
        last = max(first + 1, int(np.searchsorted(offsets, offsets[first] + _ROWS, "right")) - 1)
        users = np.repeat(np.arange(last - first), np.diff(offsets[first : last + 1]))
        count += len(np.unique(users * n_items + items[offsets[first] : offsets[last]]))
        forget(items)
        first = last
    return count


def statistics(
    offsets: np.ndarray,
    n_items: int,
    timestamps: np.ndarray | None = None,
    ratings: np.ndarray | None = None,
    items: np.ndarray | None = None,
) -> dict[str, Any]:
    """The figures of a data set's table in a paper.

    Args:
        offsets: [U+1].
        n_items: I, padding included.
        items: [N] ids, where users may repeat items: density counts each pair once.
        timestamps: [N] or None.
        ratings: [N] or None.
    """
    lengths = np.diff(offsets)
    pairs = int(offsets[-1]) if items is None else _different(offsets, items, n_items)
    out: dict[str, Any] = {
        "users": len(lengths),
        "items": n_items - 1,
        "interactions": int(offsets[-1]),
        "density": float(pairs / max(1, len(lengths) * (n_items - 1))),
        "length": {
            "min": int(lengths.min()),
            "median": float(np.median(lengths)),
            "mean": float(lengths.mean()),
            "max": int(lengths.max()),
        },
    }
    if timestamps is not None:
        ends = [(part.min(), part.max()) for part in parts(timestamps)]
        out["time"] = {"first": int(min(ends)[0]), "last": int(max(last for _, last in ends))}
    if ratings is not None:
        total = math.fsum(np.sum(part, dtype=np.float64) for part in parts(ratings))
        out["rating"] = {"mean": total / len(ratings)}
    return out
