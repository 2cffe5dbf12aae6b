"""Whom to recommend to: users and histories by their raw keys, as runs of flat item ids."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from recjax.config import close
from recjax.data.splits import Spans
from recjax.data.store import Store
from recjax.errors import InputError, shorten

_NAMED = 10  # keys that an error names; it counts the others
_LONGEST = 60  # letters of a key that an error shows


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
    """n histories to recommend for.

    Attributes:
        items: flat item ids.
        spans: history r is `items[starts[r]:stops[r]]`, oldest item first.
        users: [n] raw user keys, or None where histories were given.
        allowed: [I] bool by item id, which items may be recommended; None = all.
    """

    items: np.ndarray
    spans: Spans
    users: Sequence[str] | None
    allowed: np.ndarray | None

    def __len__(self) -> int:
        return len(self.spans)


def read_request(
    store: Store,
    asked: Iterable[Any] | None = None,
    among: Iterable[Any] | None = None,
    *,
    named: Mapping[str, str] | None = None,
) -> Request:
    """Looks up users, histories and candidates.

    Args:
        store: the data whose raw keys are meant.
        asked: user keys, each with all its items in the data (those of validation and test too);
            or histories, lists of item keys with the newest last, of anybody; None = all users.
            Keys are texts or whole numbers, and one list holds users alone or histories alone.
        among: keys of the items that may be recommended; None = all.
        named: what errors call `users`, `histories` and `among` (the names of files).

    Raises:
        InputError: unknown users and items, empty histories (all in one error), nobody asked for,
            no candidate, something that is no key.
    """
    argument_names = {"users": "users", "histories": "histories", "among": "among", **(named or {})}
    problems: list[str] = []
    allowed = (
        None if among is None else _candidates(store, among, argument_names["among"], problems)
    )
    if asked is None:
        numbers = np.arange(store.n_users)
        users: Sequence[str] | None = store.user_keys
        items, spans = store.items, _spans_of(store, numbers)
    else:
        entries = _entries(asked)
        if isinstance(entries[0], str):
            users = entries
            numbers = _users(store, entries, argument_names["users"], problems)
            items, spans = store.items, _spans_of(store, numbers)
        else:
            users = None
            items, spans = _histories(store, entries, argument_names["histories"], problems)
    if problems:
        raise InputError("; ".join(problems))
    return Request(items, spans, users, allowed)


def _spans_of(store: Store, numbers: np.ndarray) -> Spans:
    offsets = store.offsets
    return Spans(numbers.astype(np.int32), offsets[numbers], offsets[numbers + 1])


def _key(value: Any) -> str | None:
    """A raw key as the store has it, or None for what is no key."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return str(int(value))
    return None


def _listed(value: Any, what: str) -> list[Any]:
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise InputError(f"{what}: expected a list, got {_short(value)}")
    return list(value)


def _entries(asked: Any) -> list[Any]:
    """User keys as texts, or histories as lists of texts."""
    entries = _listed(asked, "users or histories")
    if not entries:
        raise InputError("users or histories: the list is empty")
    users = [_key(entry) for entry in entries]
    if None not in users:
        return users
    if any(user is not None for user in users):
        first = next(n for n, user in enumerate(users) if (user is None) != (users[0] is None))
        raise InputError(
            f"users or histories: number 1 is {_short(entries[0])}, number {first + 1} "
            f"{_short(entries[first])}; expected user keys alone, or lists of item keys alone"
        )
    return [_keys(entry, f"history {n}") for n, entry in enumerate(entries, start=1)]


def _keys(values: Any, what: str) -> list[str]:
    out = []
    for value in _listed(values, what):
        key = _key(value)
        if key is None:
            raise InputError(f"{what}: {_short(value)} is no item key (a text or a whole number)")
        out.append(key)
    return out


def _users(store: Store, keys: list[str], what: str, problems: list[str]) -> np.ndarray:
    known = store.user_numbers
    unknown = [key for key in keys if key not in known]
    if unknown:
        problem = f"{what}: {_unknown(unknown, 'user', known)}"
        if all(key in store.item_ids for key in unknown):
            problem += " (they are items: a history is a list of its own, as in [['a', 'b']])"
        problems.append(problem)
    return np.array([known.get(key, 0) for key in keys], np.int64)


def _histories(
    store: Store, histories: list[list[str]], what: str, problems: list[str]
) -> tuple[np.ndarray, Spans]:
    known = store.item_ids
    unknown = [key for history in histories for key in history if key not in known]
    if unknown:
        problems.append(f"{what}: {_unknown(unknown, 'item', known)}")
    empty = [str(n) for n, history in enumerate(histories, start=1) if not history]
    if empty:
        more = f", ... ({len(empty)})" if len(empty) > _NAMED else ""
        problems.append(
            f"{what}: number {', '.join(empty[:_NAMED])}{more} is empty; expected an item at least"
        )
    ids = [known.get(key, 0) for history in histories for key in history]
    ends = np.cumsum([len(history) for history in histories], dtype=np.int64)
    starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]])
    return np.array(ids, np.int32), Spans(np.arange(len(ends), dtype=np.int32), starts, ends)


def _candidates(store: Store, among: Any, what: str, problems: list[str]) -> np.ndarray:
    keys = _keys(among, what)
    if not keys:
        raise InputError(f"{what}: no item that may be recommended; the list is empty")
    unknown = [key for key in keys if key not in store.item_ids]
    if unknown:
        problems.append(f"{what}: {_unknown(unknown, 'item', store.item_ids)}")
    allowed = np.zeros(store.n_items, bool)
    allowed[[store.item_ids.get(key, 0) for key in keys]] = True
    return allowed


def _unknown(keys: list[str], kind: str, known: Iterable[str]) -> str:
    different = list(dict.fromkeys(keys))
    count = len(different)
    names = ", ".join(map(_short, different[:_NAMED]))
    more = f" and {count - _NAMED} more" if count > _NAMED else ""
    are = f"{kind} that is" if count == 1 else f"{kind}s that are"
    similar = close(different[0], known) if count == 1 else None
    hint = "" if similar is None else f"; did you mean {_short(similar)}?"
    return f"{count:,} {are} not in the data: {names}{more}{hint}"


def _short(value: Any) -> str:
    """A value in an error: of bounded length, texts in quotes."""
    if isinstance(value, str | bytes):
        return f"'{shorten(str(value), _LONGEST)}'"
    return (
        shorten(repr(value), _LONGEST) if isinstance(value, int | float) else type(value).__name__
    )
