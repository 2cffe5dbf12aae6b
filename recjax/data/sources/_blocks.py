"""The plain beginning of a large csv file, thousands of rows at a time.

A block is plain if each of its lines has all fields, none of them quoted, and if nothing in it is
malformed. All else is left to the reader of rows, which has the errors: it goes on behind the last
plain block.
"""

import codecs
import gzip
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from recjax.data.interactions import LogBuilder
from recjax.data.keys import Found, Texts, are_plain, as_numbers, as_texts, distinct
from recjax.data.sources._lines import ZIP, open_raw
from recjax.data.sources._times import TimeUnit, moment_of
from recjax.data.sources._values import key, number, text

_BLOCK = 1 << 22  # bytes
_LONGEST = 4096  # bytes of a field that counts


class Places(NamedTuple):
    """The fields of a line, and the places of those that count; -1 = there is none.

    Attributes:
        fields: how many there are.
        time: the name of the column of times; see `recjax.data.sources._times.moment_of`.
        unit: of times that are numbers.
        where: of other fields that count: their places, and which texts in them keep a row.
    """

    fields: int
    user: int
    item: int
    timestamp: int
    rating: int
    time: str
    unit: TimeUnit
    where: tuple[tuple[int, Callable[[str], bool]], ...] = ()


def add_blocks(
    path: Path,
    separator: str,
    quoted: bool,
    log: LogBuilder,
    places_of: Callable[[list[str]], tuple[Places, bool] | None],
) -> tuple[int, int]:
    """Adds the rows of a csv file's plain beginning.

    Args:
        path: plain or gzip.
        separator: one character.
        quoted: whether fields may stand in double quotes.
        log: takes the rows.
        places_of: from the first line's fields; and whether that line is a header. None: no block
            is to be read.

    Returns:
        How many bytes and lines were read, the header among them; (0, 0) if none.
    """
    if len(separator) != 1 or not separator.isascii() or separator in '"\r\n':
        return 0, 0
    done = lines = 0
    try:
        with open_raw(path) as file:
            first = file.readline(1 << 16)
            if first.startswith(ZIP):
                return 0, 0
            text = first.decode().removeprefix("\ufeff").rstrip("\r\n")
            if not first.endswith(b"\n") or not text.strip() or "\r" in text or "\0" in text:
                return 0, 0
            if quoted and '"' in text:
                return 0, 0
            found = places_of(text.split(separator))
            if found is None:
                return 0, 0
            places, header = found
            if header:
                done, lines = len(first), 1
            else:
                done = len(codecs.BOM_UTF8) if first.startswith(codecs.BOM_UTF8) else 0
                file.seek(done)
            rest = b""
            while block := file.read(_BLOCK):
                lines_of, end, rest = (rest + block).rpartition(b"\n")
                rows = _add(lines_of + end, separator, quoted, log, places)
                if not rows:  # not plain, or a very long line
                    break
                done, lines = done + len(lines_of) + 1, lines + rows
    except (OSError, EOFError, gzip.BadGzipFile, zlib.error, UnicodeDecodeError):
        pass  # the reader of rows meets it behind the rows that were added, and tells of it
    return (done, lines) if lines else (0, 0)


def _add(block: bytes, separator: str, quoted: bool, log: LogBuilder, places: Places) -> int:
    """Adds a block's rows and says how many they are; 0 where it is not plain."""
    block = block.replace(b"\r\n", b"\n")
    if not block or b"\r" in block or b"\0" in block or (quoted and b'"' in block):
        return 0
    mark, raw = ord(separator), np.frombuffer(block, np.uint8)
    marks = np.flatnonzero((raw == mark) | (raw == 10))
    if len(marks) % places.fields:
        return 0
    starts = np.append(0, marks[:-1] + 1).reshape(-1, places.fields)
    ends = marks.reshape(-1, places.fields)
    if (raw[ends[:, :-1]] != mark).any() or (raw[ends[:, -1]] != 10).any():
        return 0
    padded = block + bytes(8)

    def column(place: int) -> Texts:
        lengths = ends[:, place] - starts[:, place]
        if lengths.max() > _LONGEST:
            raise ValueError("expected shorter fields")
        return Texts(padded, starts[:, place], lengths)

    try:
        if not block.isascii():
            block.decode()
        rows = len(ends)
        for place, keeps in places.where:
            kept = _kept(column(place), keeps)
            starts, ends = starts[kept], ends[kept]
            if not len(ends):
                return rows
        seconds = below = ratings = None
        if places.timestamp >= 0:
            seconds, below = _times(column(places.timestamp), places)
        if places.rating >= 0:
            ratings = _ratings(column(places.rating))
        log.extend(
            column(places.user), column(places.item), seconds, ratings, below, check=_check_keys
        )
    except ValueError:  # UnicodeDecodeError is one
        return 0
    return rows


def _kept(given: Texts, keeps: Callable[[str], bool]) -> np.ndarray:
    """[n] bool: the rows whose text keeps them; a `ValueError` of a very long one."""
    width = int(given.widths.max())
    if width > 16:
        raise ValueError("expected a shorter text")
    words = given.words(slice(None), width)
    first, which = distinct(words)
    return np.array([keeps(text(cell)) for cell in as_texts(words[first])])[which]


def _check_keys(found: Found) -> None:
    """A `ValueError` where a new key is not its text as it stands."""
    for new in found.new:
        # Longer than the words for what is missing, shorter than ids may be.
        long = new.words[:, 0] & 0xFFFFFF != 0 if new.words.shape[1] < 125 else False
        for cell in as_texts(new.words[~(are_plain(new.words) & long)]):
            if key(cell) != cell:
                raise ValueError(cell)


def _ratings(given: Texts) -> np.ndarray:
    """[n] float32 numbers; a `ValueError` of a text that is none, or very long."""
    width = int(given.widths.max())
    if width > 8:
        raise ValueError("expected a number")
    words = given.words(slice(None), width)
    first, which = distinct(words)
    return np.array([number(cell) for cell in as_texts(words[first])], np.float32)[which]


def _times(given: Texts, places: Places) -> tuple[np.ndarray, np.ndarray | None]:
    """Seconds, and nanoseconds where there may be any.

    Raises:
        ValueError: of a value that is no time, or a very long text.
    """
    width = int(given.widths.max())
    if width > 16:
        raise ValueError("expected a time")
    words = given.words(slice(None), width)
    if places.unit == "s" and given.lengths.max() < 12:
        seconds = as_numbers(words)
        if seconds is not None:
            return seconds, None
    times = [moment_of(places.time, one, places.unit) for one in as_texts(words)]
    found = np.array(times, np.int64)
    return found[:, 0], found[:, 1]
