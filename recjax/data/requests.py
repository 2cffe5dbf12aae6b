"""Whom to recommend to: users and histories by their raw keys, as runs of flat item ids."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from recjax.config import close
from recjax.data.new_log import NewLog
from recjax.data.splits import Spans
from recjax.data.store import Store
from recjax.errors import InputError, shorten

# What a request may leave out, in words.
LEFT_OUT = {
    "unknown_users": "unknown users",
    "unknown_items": "items that the model does not know",
    "interactions": "interactions with these",
    "empty": "users or histories with nothing left",
    "unknown_among": "candidates that the model does not know",
}
_NAMED = 10  # keys that an error names; it counts the others
_LONGEST = 60  # letters of a key that an error shows


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
    """n histories to recommend for.

    Attributes:
        items: flat item ids.
        spans: history r is `items[starts[r]:stops[r]]`, oldest item first. Its `users` are numbers
            of users in the data (-1 = somebody else), or of the histories that were given.
        users: [n] raw keys of users of the data, or None.
        allowed: [I] bool by item id, which items may be recommended; None = all.
        of_log: [n] raw keys of a new log's users, or None.
        left_out: how much was unknown, by kind (`LEFT_OUT`); zeros are left out.
    """

    items: np.ndarray
    spans: Spans
    users: Sequence[str] | None
    allowed: np.ndarray | None
    of_log: Sequence[str] | None = None
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.spans)

    @property
    def keys(self) -> Sequence[str] | None:
        """[n] raw user keys; None where histories were given."""
        return self.users if self.of_log is None else self.of_log

    @property
    def names(self) -> Sequence[Any]:
        """[n] raw user keys, or the numbers of the histories, from 1."""
        return (self.spans.users + 1).tolist() if self.keys is None else self.keys

    def left_out_words(self) -> str:
        """What was left out, for people; "" = nothing."""
        return "; ".join(f"{LEFT_OUT[kind]}: {n:,}" for kind, n in self.left_out.items())


def read_request(
    store: Store,
    asked: Iterable[Any] | None = None,
    among: Iterable[Any] | None = None,
    *,
    named: Mapping[str, str] | None = None,
    log: NewLog | None = None,
    skip_unknown: bool = False,
) -> Request:
    """Looks up users, histories and candidates.

    Args:
        store: the data whose raw keys are meant.
        asked: user keys, each with all its items in the data (those of validation and test too);
            or histories, lists of item keys with the newest last, of anybody; None = all users.
            Keys are texts or whole numbers, and one list holds users alone or histories alone.
        among: keys of the items that may be recommended; None = all.
        named: what errors call `users`, `histories` and `among` (the names of files).
        log: a new log, whose users and histories are meant in place of the data's.
        skip_unknown: leave out and count unknown users, items and candidates, and histories of
            unknown items alone. Those of a log always are, but for users that are asked for.

    Raises:
        InputError: unknown users and items, empty histories (all in one error), nobody asked for
            or left, no candidate, something that is no key.
    """
    found = _Lookup(store, skip_unknown)
    argument_names = {"users": "users", "histories": "histories", "among": "among", **(named or {})}
    allowed = None if among is None else found.candidates(among, argument_names["among"])
    entries = None if asked is None else _entries(asked)
    keys: Sequence[str] | None = None
    if entries is None or isinstance(entries[0], str):
        keys, items, spans = found.users(entries, argument_names["users"], log)
    elif log is not None:
        raise InputError("histories: a log has its own; expected users of it, or nothing")
    else:
        items, spans = found.histories(entries, argument_names["histories"])
    if found.problems:
        raise InputError("; ".join(found.problems))
    full = np.flatnonzero(spans.stops > spans.starts)
    if len(full) < len(spans):  # of known items
        found.left_out["empty"] = len(spans) - len(full)
        spans = spans[full]
        keys = None if keys is None else [keys[n] for n in full.tolist()]
    left_out = {kind: found.left_out[kind] for kind in LEFT_OUT if found.left_out.get(kind)}
    own, of_log = (keys, None) if log is None else (None, keys)
    request = Request(items, spans, own, allowed, of_log, left_out)
    if not len(request):
        place = "" if log is None else f"{log.path}: "
        raise InputError(f"{place}nobody is left to recommend to; {request.left_out_words()}")
    return request


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


class _Lookup:
    """Looks up keys; what is unknown is a problem, or left out and counted.

    Attributes:
        problems: for one error.
        left_out: counts by kind.
    """

    def __init__(self, store: Store, skip_unknown: bool):
        self._store, self._skips = store, skip_unknown
        self.problems: list[str] = []
        self.left_out: dict[str, int] = {}

    def users(
        self, asked: list[str] | None, what: str, log: NewLog | None
    ) -> tuple[Sequence[str], np.ndarray, Spans]:
        """`(keys, items, spans)` of the users of the data, or of a log."""
        store = self._store
        if log is None:
            place, known, all_keys = "data", store.user_numbers, store.user_keys
            items, offsets, times = store.items, store.offsets, None
        else:
            place, all_keys = "log", log.user_keys
            known = {key: number for number, key in enumerate(all_keys)}
            items, offsets, times = log.items, log.offsets, log.timestamps
            self.left_out |= {"unknown_items": log.unknown, "interactions": log.dropped}
        keys: Sequence[str] = all_keys
        numbers = np.arange(len(all_keys))
        if asked is not None:
            keys = self._known(asked, known, "user", what, "unknown_users", place)
            numbers = np.array([known.get(key, 0) for key in keys], np.int64)
        owners = numbers
        if log is not None:
            owners = np.array([store.user_numbers.get(key, -1) for key in keys], np.int64)
        spans = Spans(owners.astype(np.int32), offsets[numbers], offsets[numbers + 1], times)
        return keys, items, spans

    def histories(self, histories: list[list[str]], what: str) -> tuple[np.ndarray, Spans]:
        """`(items, spans)`; of a history with unknown items alone an empty span, where they are
        left out."""
        known = self._store.item_ids
        empty = [str(n) for n, history in enumerate(histories, start=1) if not history]
        given = [key for history in histories for key in history]
        keys = set(self._known(given, known, "item", what, "unknown_items"))
        if empty:
            more = f", ... ({len(empty)})" if len(empty) > _NAMED else ""
            self.problems.append(
                f"{what}: number {', '.join(empty[:_NAMED])}{more} is empty; expected an item at "
                "least"
            )
        left = [[known.get(key, 0) for key in history if key in keys] for history in histories]
        ends = np.cumsum([len(history) for history in left], dtype=np.int64)
        starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]])
        items = np.array([item for history in left for item in history], np.int32)
        return items, Spans(np.arange(len(ends), dtype=np.int32), starts, ends)

    def candidates(self, among: Any, what: str) -> np.ndarray:
        """[I] bool."""
        keys, known = _keys(among, what), self._store.item_ids
        if not keys:
            raise InputError(f"{what}: no item that may be recommended; the list is empty")
        keys = self._known(keys, known, "item", what, "unknown_among")
        if not keys:
            raise InputError(f"{what}: no item that may be recommended; the data have none of them")
        allowed = np.zeros(self._store.n_items, bool)
        allowed[[known.get(key, 0) for key in keys]] = True
        return allowed

    def _known(
        self,
        keys: list[str],
        known: Mapping[str, int],
        kind: str,
        what: str,
        count: str,
        place: str = "data",
    ) -> list[str]:
        """The keys that are known, where others are left out; else all."""
        unknown = [key for key in keys if key not in known]
        if unknown and self._skips:
            self.left_out[count] = len(set(unknown))
            return [key for key in keys if key in known]
        if unknown:
            problem = f"{what}: {_unknown(unknown, kind, known, place)}"
            items = self._store.item_ids
            if kind == "user" and place == "data" and all(key in items for key in unknown):
                problem += " (they are items: a history is a list of its own, as in [['a', 'b']])"
            self.problems.append(problem)
        return keys


def _unknown(keys: list[str], kind: str, known: Iterable[str], place: str) -> str:
    different = list(dict.fromkeys(keys))
    count = len(different)
    names = ", ".join(map(_short, different[:_NAMED]))
    more = f" and {count - _NAMED} more" if count > _NAMED else ""
    are = f"{kind} that is" if count == 1 else f"{kind}s that are"
    similar = close(different[0], known) if count == 1 else None
    hint = "" if similar is None else f"; did you mean {_short(similar)}?"
    return f"{count:,} {are} not in the {place}: {names}{more}{hint}"


def _short(value: Any) -> str:
    """A value in an error: of bounded length, texts in quotes."""
    if isinstance(value, str | bytes):
        return f"'{shorten(str(value), _LONGEST)}'"
    return (
        shorten(repr(value), _LONGEST) if isinstance(value, int | float) else type(value).__name__
    )
