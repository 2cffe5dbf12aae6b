"""Filters of a raw log: ratings, times, repeated rows, k-core; `recjax.data.prepare` applies them.

Letters: N rows of the log, U users, I catalogue size.
"""

import dataclasses
from typing import Literal

import numpy as np

from recjax.data.interactions import InteractionLog, time_order
from recjax.errors import InputError


def select(log: InteractionLog, rows: np.ndarray) -> InteractionLog:
    """The log's rows (mask or indices), id maps untouched."""
    return dataclasses.replace(
        log,
        users=log.users[rows],
        items=log.items[rows],
        timestamps=None if log.timestamps is None else log.timestamps[rows],
        ratings=None if log.ratings is None else log.ratings[rows],
        nanoseconds=None if log.nanoseconds is None else log.nanoseconds[rows],
    )


def filter_ratings(log: InteractionLog, minimum: float) -> InteractionLog:
    """Interactions rated at least `minimum`; `InputError` where the log has no ratings."""
    if log.ratings is None:
        raise InputError("config.data.min_rating is set, but the source has no ratings")
    return select(log, log.ratings >= minimum)


def filter_times(log: InteractionLog, since: int, until: int) -> InteractionLog:
    """Interactions from `since` on and before `until`, in seconds; `InputError` without times."""
    if log.timestamps is None:
        raise InputError("config.data.since or until is set, but the source has no times")
    return select(log, (log.timestamps >= since) & (log.timestamps < until))


def _pairs(log: InteractionLog) -> np.ndarray:
    return log.users.astype(np.int64) * max(1, len(log.item_keys)) + log.items


def count_duplicates(log: InteractionLog) -> int:
    """Interactions of a user with an item that the same user had met before."""
    if not len(log):
        return 0
    pairs = _pairs(log)
    pairs.sort()
    return int(np.count_nonzero(pairs[1:] == pairs[:-1]))


def exact_duplicates(log: InteractionLog) -> np.ndarray:
    """Rows [n] of the user, item and time of an earlier one in the file; none without times."""
    if log.timestamps is None or not len(log):
        return np.zeros(0, np.int64)
    pairs = _pairs(log)
    order = np.argsort(pairs, kind="stable")
    same = pairs[order[1:]] == pairs[order[:-1]]
    repeated = np.append(same, False) | np.append(False, same)
    rows = np.sort(order[repeated])  # few in most logs
    columns = [log.timestamps[rows], pairs[rows]]
    if log.nanoseconds is not None:
        columns.insert(0, log.nanoseconds[rows])
    order = np.lexsort(columns)  # stable
    alike = np.ones(max(len(order) - 1, 0), bool)
    for column in columns:
        alike &= column[order[1:]] == column[order[:-1]]
    return np.sort(rows[order[1:][alike]])


def note_of_exact(count: int) -> str:
    """The note about rows that stand there twice."""
    return (
        f"{count:,} rows have user, item and time of another row; config.data.deduplicate=exact "
        "drops them"
    )


def deduplicate(log: InteractionLog, keep: Literal["first", "last", "exact"]) -> InteractionLog:
    """One interaction per (user, item): the first or the last in time (ties: in the file); or with
    "exact" one per (user, item, time).

    Raises:
        InputError: "exact" of a log without times.
    """
    if keep == "exact":
        if log.timestamps is None:
            raise InputError("config.data.deduplicate is 'exact', but the source has no times")
        return select(log, np.delete(np.arange(len(log)), exact_duplicates(log)))
    order = time_order(log)
    pairs = _pairs(log)[order]
    if keep == "last":
        pairs, order = pairs[::-1], order[::-1]
    _, first = np.unique(pairs, return_index=True)
    return select(log, np.sort(order[first]))


def k_core(log: InteractionLog, users: int, items: int) -> InteractionLog:
    """Drops users with fewer than `users` and items with fewer than `items` interactions,
    again and again until none is left to drop (counts interactions, repeated ones included)."""
    while True:
        of_user = np.bincount(log.users, minlength=len(log.user_keys))
        of_item = np.bincount(log.items, minlength=len(log.item_keys))
        keep = (of_user[log.users] >= users) & (of_item[log.items] >= items)
        if keep.all():
            return log
        log = select(log, keep)
