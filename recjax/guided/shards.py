"""Scores so far, on the disk: an interrupted command resumes from them.

    with Progress(folder, keys, settings, shard=10_000) as progress:
        for place in progress.open_places():
            progress.add(place, {"scores": [...]})
        rows = progress.rows()                       # by place, in order

A folder holds `settings.json` and the shards, JSON lines of `shard` keys each. A row is written
when it is known, so a crash loses the rows of one batch at most. Of a shard whose last line was cut
by a crash that line is scored again, and nothing else.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

from recjax.errors import InputError
from recjax.json_files import parse, read_object
from recjax.locks import Lock
from recjax.ranges import short
from recjax.replace import not_written, write_text

_SETTINGS = "settings.json"


class Progress:
    """The rows of n keys; a context manager, one process at a time.

    Args:
        folder: for the parts; made where there is none.
        keys: n raw ids in their order.
        settings: of how they are scored, JSON-ready; parts of other settings are refused.
        shard: keys of a file.
        overwrite: forget parts of other settings and damaged ones; without it they are an error.

    Raises:
        InputError: parts of other settings or keys, a damaged file, a folder that cannot be
            written or that another process writes.
    """

    def __init__(
        self,
        folder: Path,
        keys: Sequence[str],
        settings: Mapping[str, Any],
        *,
        shard: int = 10_000,
        overwrite: bool = False,
    ):
        digest = hashlib.sha256()
        for key in keys:
            digest.update(f"{key}\0".encode("utf-8", "surrogatepass"))
        self._folder, self._keys, self._shard = folder, keys, shard
        self._settings = {**settings, "keys": len(keys), "keys_sha256": digest.hexdigest()}
        self._settings["shard"] = shard
        self._file: IO[bytes] | None = None
        self._open = -1
        self._done = bytearray(len(keys))
        made = not folder.exists()
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise not_written(folder, error) from error
        self._lock = Lock(folder / "lock", folder)
        try:
            if not made:
                self._continue(overwrite)
            if not (folder / _SETTINGS).exists():
                write_text(folder / _SETTINGS, json.dumps(self._settings, indent=1) + "\n")
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is not None and not self.done:  # nothing that is worth to go on with
            self.remove()
        else:
            self.close()

    def close(self) -> None:
        """Releases the folder."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._lock.release()

    @property
    def done(self) -> int:
        """The number of keys that have a row."""
        return sum(self._done)

    def has(self, place: int) -> bool:
        """Whether a key has a row."""
        return bool(self._done[place])

    def open_places(self) -> Iterator[int]:
        """Places of the keys without a row, in order."""
        return (place for place, done in enumerate(self._done) if not done)

    def add(self, place: int, row: Mapping[str, Any]) -> None:
        """Writes the row of a key, and flushes it to the file."""
        shard = place // self._shard
        try:
            if shard != self._open or self._file is None:
                if self._file is not None:
                    self._file.close()
                self._file = self._path(shard).open("ab", buffering=0)
                self._open = shard
            line = json.dumps({"place": place, **row}, ensure_ascii=True) + "\n"
            self._file.write(line.encode())
        except OSError as error:
            raise not_written(self._path(shard), error) from error
        self._done[place] = 1

    def rows(self) -> Iterator[dict[str, Any] | None]:
        """The row of every key in order, None where it has none."""
        for first in range(0, len(self._keys), self._shard):
            rows = {row["place"]: row for row in self._read(first // self._shard)}
            for place in range(first, min(first + self._shard, len(self._keys))):
                yield rows.get(place)

    def remove(self) -> None:
        """Removes the folder's own files, once their rows stand elsewhere."""
        self.close()
        with contextlib.suppress(OSError):
            for path in [*self._shards(), self._folder / _SETTINGS]:
                path.unlink(missing_ok=True)
            self._folder.rmdir()

    def _shards(self) -> list[Path]:
        return sorted(self._folder.glob("[0-9][0-9][0-9][0-9][0-9]*.jsonl"))

    def _path(self, shard: int) -> Path:
        return self._folder / f"{shard:05d}.jsonl"

    def _continue(self, overwrite: bool) -> None:
        """Continues the shards that are there, or removes them."""
        known, parts = self._folder / _SETTINGS, self._shards()
        if not known.exists() and parts:
            raise InputError(f"{self._folder}: no {_SETTINGS}; expected a folder of scores")
        if not known.exists():
            return
        try:
            self._resume()
        except InputError:
            if not overwrite:
                raise
            self._done = bytearray(len(self._keys))
            for path in [*parts, known]:
                path.unlink(missing_ok=True)

    def _resume(self) -> None:
        """Marks the rows that are there; `InputError` where they are others' or damaged."""
        before = read_object(self._folder / _SETTINGS)
        for name in dict.fromkeys([*self._settings, *before]):
            now, then = self._settings.get(name), before.get(name)
            if json.loads(json.dumps(now)) != then:
                raise InputError(
                    f"{self._folder}: begun with another '{name}' ({short(then)}, now "
                    f"{short(now)}); the same command goes on, --overwrite starts anew"
                )
        for shard in range(-(-len(self._keys) // self._shard)):
            for row in self._read(shard, mend=True):
                self._done[row["place"]] = 1

    def _read(self, shard: int, mend: bool = False) -> Iterator[dict[str, Any]]:
        """The rows of a shard; `mend`: takes a last line off that was cut."""
        path = self._path(shard)
        if not path.exists():
            return
        first = shard * self._shard
        places = range(first, min(first + self._shard, len(self._keys)))
        try:
            with path.open("rb") as file:
                size = 0
                for number, line in enumerate(file, start=1):
                    if not line.endswith(b"\n"):
                        break
                    size += len(line)
                    row = parse(line, f"{path}:{number}")
                    if not isinstance(row, dict) or row.get("place") not in places:
                        raise InputError(f"{path}:{number}: expected a row of this shard")
                    yield row
            if mend and size < path.stat().st_size:
                os.truncate(path, size)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from None
