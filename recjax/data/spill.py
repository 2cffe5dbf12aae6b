"""Logs larger than memory: rows on the disk, keys packed in memory.

While `spilling` is active, `LogBuilder` puts the columns of the rows that it is given into files,
and gives them back as memory maps. `grouped` deals the rows to buckets of neighbouring users, each
of which fits into memory: there they are sorted, filtered and counted. What stays in memory is a
key of each user and item (`recjax.data.keys`), and a few numbers of each.
"""

import contextlib
import contextvars
import dataclasses
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from recjax.memory import forget

BUCKET_ROWS = 1 << 20  # rows of a bucket, where no user has more
_CHUNK = 1 << 20  # rows that are read at a time
_folder: contextvars.ContextVar[Path | None] = contextvars.ContextVar("spill", default=None)


@contextlib.contextmanager
def spilling(beside: Path) -> Iterator[Path]:
    """Rows of logs that are read go to a temporary folder, which ends with the block.

    Args:
        beside: a folder on a disk with room for 20 bytes a row, twice.
    """
    with tempfile.TemporaryDirectory(prefix=".spill-", dir=beside) as name:
        token = _folder.set(Path(name))
        try:
            yield Path(name)
        finally:
            _folder.reset(token)


def spills() -> bool:
    """Whether rows go to the disk."""
    return _folder.get() is not None


def parts(array: np.ndarray) -> Iterator[np.ndarray]:
    """An array, a million rows after another; what was read of a mapped file leaves the memory."""
    for start in range(0, len(array), _CHUNK):
        yield array[start : start + _CHUNK]
        forget(array)


class Column:
    """Numbers that are appended one by one; on the disk while `spilling`."""

    def __init__(self, kind: str, dtype: Any):
        from array import array

        self._new = array(kind)
        self._dtype, self._file, self._length = np.dtype(dtype), None, 0
        self.append: Any = self._new.append  # the way of millions of rows
        if (folder := _folder.get()) is not None:
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - read by `array`

    def __len__(self) -> int:
        return self._length + len(self._new)

    def spill(self) -> None:
        """Puts what is in memory on the disk, where that is wanted."""
        if self._file is not None:
            self._new.tofile(self._file)
            self._length += len(self._new)
            del self._new[:]

    def extend(self, values: np.ndarray) -> None:
        """Appends many."""
        self._new.frombytes(np.ascontiguousarray(values, self._dtype).tobytes())

    def zeros(self, count: int) -> None:
        """Appends zeros."""
        while count > 0:
            some = min(count, _CHUNK)
            self._new.frombytes(bytes(some * self._new.itemsize))
            self.spill()
            count -= some

    def array(self) -> np.ndarray:
        """All numbers."""
        if self._file is None or not len(self):
            return np.array(self._new, self._dtype)
        self.spill()
        self._file.flush()
        return np.memmap(self._file, self._dtype, "r", shape=(len(self),))


@dataclasses.dataclass(frozen=True)
class Rows:
    """Some rows of a log, in file order or sorted; columns that the log lacks are None.

    Attributes:
        users, items: [n] int32.
        timestamps, ratings, nanoseconds: [n], or None.
    """

    users: np.ndarray
    items: np.ndarray
    timestamps: np.ndarray | None
    ratings: np.ndarray | None
    nanoseconds: np.ndarray | None

    def take(self, which: Any) -> "Rows":
        """Some of the rows."""
        columns = (getattr(self, f.name) for f in dataclasses.fields(self))
        taken: Any = (None if column is None else column[which] for column in columns)
        return Rows(*taken)


def grouped(log: Any, ranks: np.ndarray, folder: Path) -> "Buckets":
    """Deals a log's rows to buckets on the disk.

    Args:
        log: an `InteractionLog`; its columns may be memory maps.
        ranks: [U] places from 0 of the log's users; each place has a row.
        folder: for the buckets.
    """
    counts = np.zeros(ranks.max() + 1, np.int32)
    for part in parts(log.users):
        np.add.at(counts, ranks[part], np.int32(1))  # of another type it takes ten times as long
    # [U]: neighbours share a bucket; one user may have more rows than a bucket.
    bucket = (np.cumsum(counts, dtype=np.int64) - counts) // BUCKET_ROWS
    bucket = np.cumsum(np.diff(bucket, prepend=0) > 0, dtype=np.int32)
    buckets = Buckets(folder, int(bucket[-1]) + 1)
    columns = log.users, log.items, log.timestamps, log.ratings, log.nanoseconds
    present = [column for column in columns if column is not None]
    for chunks in zip(*map(parts, present), strict=True):
        arrays = iter(chunks)
        taken: Any = [None if column is None else next(arrays) for column in columns]
        rows = dataclasses.replace(Rows(*taken), users=ranks[taken[0]])
        bucket_of_row = bucket[rows.users]
        order = np.argsort(bucket_of_row, kind="stable")
        ends = np.searchsorted(bucket_of_row[order], np.arange(buckets.count + 1))
        for number in np.flatnonzero(np.diff(ends)):
            buckets.append(int(number), rows.take(order[ends[number] : ends[number + 1]]))
    return buckets


class Buckets:
    """Rows on the disk, by bucket.

    Attributes:
        count: of buckets.
    """

    def __init__(self, folder: Path, count: int):
        self._folder, self.count = folder, count
        self._there: dict[str, np.dtype] = {}

    def _files(self, number: int) -> Iterator[tuple[str, Path]]:
        for field in dataclasses.fields(Rows):
            yield field.name, self._folder / f"{number}.{field.name}"

    def append(self, number: int, rows: Rows) -> None:
        """Adds rows to a bucket."""
        for name, file in self._files(number):
            values = getattr(rows, name)
            if values is not None:
                self._there[name] = values.dtype
                with file.open("ab") as out:
                    out.write(np.ascontiguousarray(values).tobytes())

    def replace(self, number: int, rows: Rows) -> None:
        """Puts other rows in a bucket's place."""
        for _, file in self._files(number):
            file.unlink(missing_ok=True)
        self.append(number, rows)

    def read(self, number: int, columns: Collection[str] | None = None) -> Rows:
        """A bucket's rows, with the named columns alone (None: with all)."""
        out: Any = (
            np.fromfile(file, self._there[name])
            if name in self._there and (columns is None or name in columns)
            else None
            for name, file in self._files(number)
        )
        return Rows(*out)
