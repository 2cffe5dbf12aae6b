"""Raw interaction logs in memory: columns, id maps, filters, statistics.

Letters: N rows of the log, U users, I catalogue size. Here ids are *codes*, 0-based, in order of
first appearance; the padding-based ids (0 pads, items from 1) are made by `recjax.data.store`.
"""

import dataclasses
from array import array
from pathlib import Path
from typing import Any

import numpy as np

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
        user_keys: [U] raw user ids.
        item_keys: raw item ids of the log (items nobody touched are not in the log).
    """

    users: np.ndarray
    items: np.ndarray
    timestamps: np.ndarray | None
    ratings: np.ndarray | None
    user_keys: list[str]
    item_keys: list[str]

    def __len__(self) -> int:
        return len(self.users)


class BadRows:
    """Counts malformed rows and stops at the first one over the limit.

    Args:
        limit: how many bad rows are tolerated (`--skip-bad-rows N`). 0 stops at the first.
    """

    def __init__(self, limit: int = 0):
        self.limit = limit
        self.count = 0
        self.examples: list[str] = []  # the first few, for the manifest

    def report(self, path: Path, line: int, reason: str) -> None:
        """Notes one bad row; raises `InputError` naming file and line when it is one too many."""
        self.count += 1
        message = f"{path}:{line}: {reason}"
        if self.count > self.limit:
            tolerated = f" ({self.limit} bad rows tolerated)" if self.limit else ""
            raise InputError(message + tolerated)
        if len(self.examples) < 10:
            self.examples.append(message)


class LogBuilder:
    """Grows an `InteractionLog` row by row with compact columns."""

    def __init__(self, *, timestamps: bool, ratings: bool):
        self._users, self._items = array("i"), array("i")
        self._timestamps = array("q") if timestamps else None
        self._ratings = array("f") if ratings else None
        self._user_codes: dict[str, int] = {}
        self._item_codes: dict[str, int] = {}

    def add(self, user: str, item: str, timestamp: int = 0, rating: float = 0.0) -> None:
        """Adds one interaction; columns the log does not have are ignored."""
        self._users.append(self._user_codes.setdefault(user, len(self._user_codes)))
        self._items.append(self._item_codes.setdefault(item, len(self._item_codes)))
        if self._timestamps is not None:
            self._timestamps.append(timestamp)
        if self._ratings is not None:
            self._ratings.append(rating)

    def build(self) -> InteractionLog:
        return InteractionLog(
            users=np.array(self._users, np.int32),
            items=np.array(self._items, np.int32),
            timestamps=None if self._timestamps is None else np.array(self._timestamps, np.int64),
            ratings=None if self._ratings is None else np.array(self._ratings, np.float32),
            user_keys=list(self._user_codes),
            item_keys=list(self._item_codes),
        )
