"""Keys of users and items by the million: text as rows of numbers, with a code for each.

A key's UTF-8 bytes stand in 64-bit words, the first byte highest, padded with zeros: such words
are ordered as the texts are. A key of 9 to 16 bytes takes 16 bytes, and about 11 for its code and
its place in a hash table; as a text in a dictionary it would take 127 (measured). All work is done
for many keys at a time. Keys hold no zero bytes.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np

from recjax.data.ragged import row_starts

_MASKS = np.array([(2**64 - 1) & ~(2 ** (64 - 8 * n) - 1) for n in range(9)], np.uint64)
_PART = 1 << 16  # keys that are looked at together, where that is all the same
_FULL = 0.6  # of a hash table's slots
_ODD = np.uint64(0x9E3779B97F4A7C15)
_PLAIN = np.array([n == 0 or (n < 128 and chr(n).isalnum()) for n in range(256)])


class Texts:
    """Pieces of a buffer of UTF-8 bytes.

    Args:
        raw: the buffer; 8 bytes that belong to no text end it.
        starts, lengths: [n] of the texts.
    """

    def __init__(self, raw: bytes, starts: np.ndarray, lengths: np.ndarray):
        self.starts, self.lengths = starts, lengths
        self._words: np.ndarray = np.ndarray((len(raw) - 7,), ">u8", raw, strides=(1,))

    @classmethod
    def of(cls, texts: Sequence[str]) -> "Texts":
        """Texts of Python's."""
        parts = [text.encode() for text in texts]
        lengths = np.fromiter(map(len, parts), np.int64, len(parts))
        return cls(b"".join(parts) + bytes(8), row_starts(lengths), lengths)

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def widths(self) -> np.ndarray:
        """[n] how many words each one fills; 1 at the least."""
        return np.maximum((self.lengths + 7) // 8, 1)

    def words(self, rows: Any, width: int) -> np.ndarray:
        """[m width] uint64: the first words of some of the texts."""
        starts, lengths = self.starts[rows], self.lengths[rows]
        out = np.empty((len(starts), width), np.uint64)
        for number in range(width):
            there = np.clip(lengths - 8 * number, 0, 8)
            at = np.minimum(starts + 8 * number, len(self._words) - 1)
            out[:, number] = self._words[at].astype(np.uint64) & _MASKS[there]
        return out


def as_bytes(words: np.ndarray) -> np.ndarray:
    """[n 8 width] uint8 of words [n width]; zeros pad."""
    return words.astype(">u8").view(np.uint8)


def as_texts(words: np.ndarray) -> list[str]:
    """The texts of words [n width]."""
    raw = np.ascontiguousarray(words.astype(">u8")).view(f"S{8 * words.shape[1]}")
    return [text.decode() for text in raw[:, 0].tolist()]


def are_plain(words: np.ndarray) -> np.ndarray:
    """[n] bool: nothing but letters and digits of ASCII in words [n width]."""
    return _PLAIN[as_bytes(words)].all(1)


def as_numbers(words: np.ndarray) -> np.ndarray | None:
    """[n] int64 of decimal digits in words [n width]; None where a text holds others, or none, or
    more than 18."""
    digits, value = as_bytes(words), np.zeros(len(words), np.int64)
    is_digit = digits != 0
    plain = ~is_digit | ((digits >= ord("0")) & (digits <= ord("9")))
    if not plain.all() or not is_digit[:, 0].all() or is_digit[:, 18:].any():
        return None
    for place in range(min(18, digits.shape[1])):
        more = value * 10 + digits[:, place] - ord("0")
        value = np.where(is_digit[:, place], more, value)
    return value


def distinct(words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first row [k] of each distinct one of words [n width], in their order; and the number
    [n] of each row among them."""
    order = np.lexsort(words.T[::-1])
    ordered = words[order]
    new = np.ones(len(words), bool)
    new[1:] = (ordered[1:] != ordered[:-1]).any(1)
    inverse = np.empty(len(words), np.int64)
    inverse[order] = np.cumsum(new) - 1
    return order[new], inverse


def _grown(array: np.ndarray, rows: int) -> np.ndarray:
    out = np.empty((rows, *array.shape[1:]), array.dtype)
    out[: len(array)] = array
    return out


class _Kind:
    """Keys of one number of words.

    Attributes:
        words: [n width] uint64.
        codes: [n] int32.
    """

    def __init__(self, width: int):
        self._words, self._codes = np.empty((0, width), np.uint64), np.empty(0, np.int32)
        self._count = 0
        self._slots = np.full(16, -1, np.int32)

    @property
    def words(self) -> np.ndarray:
        return self._words[: self._count]

    @property
    def codes(self) -> np.ndarray:
        return self._codes[: self._count]

    def _homes(self, words: np.ndarray) -> np.ndarray:
        """[n] the slots where the search for keys begins."""
        hashes = np.zeros(len(words), np.uint64)
        for column in words.T:
            hashes = (hashes ^ column) * _ODD
            hashes ^= hashes >> np.uint64(32)
        return (hashes & np.uint64(len(self._slots) - 1)).astype(np.int64)

    def find(self, words: np.ndarray) -> np.ndarray:
        """[n] places of keys among `words`; -1 of those that are not there."""
        out = np.full(len(words), -1, np.int32)
        left, at = np.arange(len(words)), self._homes(words)
        while len(left):
            places = self._slots[at]
            is_used = places >= 0
            left, at, places = left[is_used], at[is_used], places[is_used]
            same = (self._words[places] == words[left]).all(1)
            out[left[same]] = places[same]
            left, at = left[~same], (at[~same] + 1) % len(self._slots)
        return out

    def insert(self, words: np.ndarray, codes: np.ndarray) -> None:
        """Adds distinct keys that are not there."""
        begin, end = self._count, self._count + len(words)
        if end > len(self._words):
            room = max(end, len(self._words) * 5 // 4)
            self._words = _grown(self._words, room)
            self._codes = _grown(self._codes, room)
        self._words[begin:end], self._codes[begin:end] = words, codes
        self._count = end
        if end > _FULL * len(self._slots):
            size = len(self._slots)
            while end > _FULL * size:
                size *= 2
            self._slots, begin = np.full(size, -1, np.int32), 0
        for start in range(begin, end, _PART):
            self._place(np.arange(start, min(start + _PART, end), dtype=np.int32))

    def _place(self, new: np.ndarray) -> None:
        at = self._homes(self._words[new])
        while len(new):
            free = self._slots[at] < 0
            self._slots[at[free]] = new[free]  # of several for one slot the last stays
            left = self._slots[at] != new
            new, at = new[left], (at[left] + 1) % len(self._slots)


@dataclasses.dataclass(frozen=True)
class _New:
    """Keys of one number of words that a table does not have.

    Attributes:
        words: [k width], distinct.
        first: [k] where each is met first.
        rows, number: [m] where they are met, and which of the k it is.
    """

    words: np.ndarray
    first: np.ndarray
    rows: np.ndarray
    number: np.ndarray


@dataclasses.dataclass(frozen=True)
class Found:
    """Keys that were looked up.

    Attributes:
        codes: [n] int32; -1 of keys that the table does not have.
        new: these.
    """

    codes: np.ndarray
    new: list[_New]


class KeyTable:
    """Codes of keys, in the order in which they are added."""

    def __init__(self) -> None:
        self._kinds: dict[int, _Kind] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def find(self, texts: Texts) -> Found:
        """Looks keys up; nothing is added."""
        codes, new = np.full(len(texts), -1, np.int32), []
        widths = texts.widths
        for width in np.flatnonzero(np.bincount(widths, minlength=1)).tolist():
            rows = np.flatnonzero(widths == width)
            words = texts.words(rows, width)
            kind = self._kinds.get(width)
            if kind is not None:
                places = kind.find(words)
                known = places >= 0
                codes[rows[known]] = kind.codes[places[known]]
                rows, words = rows[~known], words[~known]
            if len(rows):
                first, number = distinct(words)
                new.append(_New(words[first], rows[first], rows, number))
        return Found(codes, new)

    def add(self, found: Found) -> np.ndarray:
        """[n] int32 codes of keys; new ones get the next, in the order of the rows.

        Args:
            found: what `find` has found since the last `add`.
        """
        if not found.new:
            return found.codes
        codes = found.codes.copy()
        first = np.concatenate([new.first for new in found.new])
        given = np.empty(len(first), np.int32)
        given[np.argsort(first)] = self._count + np.arange(len(first))
        self._count += len(first)
        for new in found.new:
            own, given = given[: len(new.first)], given[len(new.first) :]
            width = new.words.shape[1]
            self._kinds.setdefault(width, _Kind(width)).insert(new.words, own)
            codes[new.rows] = own[new.number]
        return codes

    def keys(self) -> "Keys":
        """All keys, by code."""
        kinds, places = np.empty(self._count, np.uint16), np.empty(self._count, np.int32)
        for number, kind in enumerate(self._kinds.values()):
            kinds[kind.codes], places[kind.codes] = number, np.arange(len(kind.codes))
        return Keys([kind.words for kind in self._kinds.values()], kinds, places)


class Keys(Sequence[str]):
    """Many keys; each becomes a text when it is asked for.

    Args:
        words: of the keys, by their number of words: [n width] each.
        kinds, places: [n] which of `words` has a key, and in which row.
    """

    def __init__(self, words: list[np.ndarray], kinds: np.ndarray, places: np.ndarray):
        self._words, self._kinds, self._places = words, kinds, places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> "Keys": ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.take(index)
        return as_texts(self._words[self._kinds[index]][[self._places[index]]])[0]

    def take(self, which: Any) -> "Keys":
        """Some of the keys (indices or a mask)."""
        return Keys(self._words, self._kinds[which], self._places[which])

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _PART):
            part = slice(start, start + _PART)
            kinds, places = self._kinds[part], self._places[part]
            texts = np.empty(len(kinds), object)
            for number in np.unique(kinds):
                there = kinds == number
                texts[there] = as_texts(self._words[number][places[there]])
            yield from texts.tolist()

    def _word(self, number: int, which: np.ndarray) -> np.ndarray:
        """[m] uint64: a word of some of the keys, 0 behind their ends."""
        out = np.zeros(len(which), np.uint64)
        kinds, places = self._kinds[which], self._places[which]
        for kind, words in enumerate(self._words):
            if number < words.shape[1]:
                there = kinds == kind
                out[there] = words[places[there], number]
        return out

    def numbers(self) -> np.ndarray | None:
        """[n] int64 where all keys are digits, at most 18; else None."""
        if any(words.shape[1] > 3 for words in self._words):
            return None
        out = np.empty(len(self), np.int64)
        for start in range(0, len(self), _PART):
            part = slice(start, start + _PART)
            for kind in np.unique(self._kinds[part]):
                there = np.flatnonzero(self._kinds[part] == kind) + start
                values = as_numbers(self._words[kind][self._places[there]])
                if values is None:
                    return None
                out[there] = values
        return out

    def order(self) -> np.ndarray:
        """[n] int64 places of the keys in the order of their text."""
        # By the first word; those that share it by the second one; and so on.
        out = np.arange(len(self))
        tied, group, depth = np.arange(len(self)), np.zeros(len(self), np.int64), 0
        while len(tied):
            words = self._word(depth, out[tied])
            order = np.lexsort((words, group))
            out[tied] = out[tied[order]]
            words = words[order]  # groups stay where they are
            new = np.ones(len(tied), bool)
            new[1:] = (words[1:] != words[:-1]) | (group[1:] != group[:-1])
            group = np.cumsum(new)
            alone = new & np.append(new[1:], True)
            tied, group, depth = tied[~alone], group[~alone], depth + 1
        return out
