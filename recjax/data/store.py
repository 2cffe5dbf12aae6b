"""The prepared data set on disk: a folder of plain arrays that are memory-mapped when read.

    offsets.npy      [U+1] int64   user u's interactions are items[offsets[u]:offsets[u+1]]
    items.npy        [N] int32     item ids from 1, each user's in time order (0 is padding)
    timestamps.npy   [N] int64     seconds since the epoch, where the source has them
    ratings.npy      [N] float32   where the source has them
    users.jsonl      line u: the raw key of user u
    catalog.jsonl    line k: what is known of item k+1 ("id", "key", "title", ...)
    manifest.json    counts, statistics, source hashes, options, and every file's size and hash

The folder is written beside its place and renamed when all of it is on the disk, so one that
exists is whole.
"""

import collections
import dataclasses
import datetime
import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recjax.data.interactions import (
    Catalog,
    InteractionLog,
    compact,
    order_of_keys,
    statistics,
    time_order,
)
from recjax.data.verify import AGAIN, ALWAYS, ARRAYS, FORMAT_VERSION, check_files, read_manifest
from recjax.errors import InputError, printable
from recjax.json_files import read_object
from recjax.paths import home
from recjax.replace import new_folder, recovered

_SHARED = 0.02  # of the items may share titles before it is told


@dataclasses.dataclass(frozen=True, eq=False)
class Store:
    """A prepared data set, read lazily.

    Attributes:
        path: the folder.
        manifest: `manifest.json`.
    """

    path: Path
    manifest: dict[str, Any]

    def _array(self, name: str) -> np.ndarray | None:
        if f"{name}.npy" not in self.manifest["files"]:
            return None
        return np.load(self.path / f"{name}.npy", mmap_mode="r")

    def _required(self, name: str) -> np.ndarray:
        array = self._array(name)
        assert array is not None, name  # `open_store` has seen it
        return array

    @functools.cached_property
    def offsets(self) -> np.ndarray:
        """[U+1] int64."""
        return self._required("offsets")

    @functools.cached_property
    def items(self) -> np.ndarray:
        """[N] int32 item ids."""
        return self._required("items")

    @functools.cached_property
    def timestamps(self) -> np.ndarray | None:
        """[N] int64 seconds, or None."""
        return self._array("timestamps")

    @functools.cached_property
    def ratings(self) -> np.ndarray | None:
        """[N] float32, or None."""
        return self._array("ratings")

    @property
    def n_users(self) -> int:
        """Number of users."""
        return self.manifest["counts"]["users"]

    @property
    def n_items(self) -> int:
        """I: items and the padding."""
        return self.manifest["counts"]["items"] + 1

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of the data alone: the same data have it, whatever path or options made them."""
        hashes = {name: entry["sha256"] for name, entry in self.manifest["files"].items()}
        return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()

    @functools.cached_property
    def user_keys(self) -> list[str]:
        """[U] raw user ids."""
        return list(_read_jsonl(self.path / "users.jsonl", str, "a user's id"))

    @functools.cached_property
    def catalog(self) -> list[dict[str, Any] | None]:
        """[I] records by item id; None at 0."""
        file = self.path / "catalog.jsonl"
        records = list(_read_jsonl(file, dict, "an item's record"))
        for number, record in enumerate(records, start=1):
            titled = isinstance(record.get("title", 0), str | None)
            if not titled or record.get("id") != number or not isinstance(record.get("key"), str):
                raise InputError(
                    f"{file}:{number}: expected item {number} with its 'key' and 'title'; {AGAIN}"
                )
        return [None, *records]

    @functools.cached_property
    def titles(self) -> list[str | None]:
        """[I] titles by item id; None where unknown, and at 0."""
        return [record["title"] if record else None for record in self.catalog]

    @functools.cached_property
    def user_numbers(self) -> dict[str, int]:
        """Raw user id -> its place in `offsets`."""
        return {key: number for number, key in enumerate(self.user_keys)}

    @functools.cached_property
    def item_ids(self) -> dict[str, int]:
        """Raw item id -> item id."""
        return {record["key"]: id for id, record in enumerate(self.catalog) if record}


def _read_jsonl(path: Path, kind: type, expected: str) -> Iterator[Any]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                value = None
            if not isinstance(value, kind):
                raise InputError(f"{path}:{number}: expected {expected}; {AGAIN}")
            yield value


def open_store(path: str | Path) -> Store:
    """Opens a prepared data set.

    Raises:
        InputError: no store there, one of another format version, or one with a missing, truncated
            or changed file (`recjax.data.verify`); says to prepare it again.
    """
    path = home(path)
    recovered(path, store_files)
    if (path / "config.json").is_file() and not (path / "items.npy").exists():
        raise InputError(
            f"{path}: the workdir of a run; expected the folder of a prepared data set"
        )
    manifest = read_manifest(path)
    check_files(path, manifest)
    return Store(path, manifest)


def store_files(folder: Path) -> list[str] | None:
    """The names of a store's files, or None for a folder that is no store: whose `manifest.json`
    says so, or, where that is damaged, that has arrays of ours beside it."""
    if not (folder / "manifest.json").is_file():
        return None
    names = [*(f"{name}.npy" for name in ARRAYS), *ALWAYS, "manifest.json"]
    try:
        is_store = {"format_version", "files"} <= read_object(folder / "manifest.json").keys()
    except InputError:
        is_store = False
    is_store = is_store or all((folder / name).is_file() for name in ALWAYS)
    return list(dict.fromkeys(names)) if is_store else None


def hash_file(path: Path) -> dict[str, Any]:
    """`{"bytes", "sha256"}` of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def write_store(
    path: str | Path,
    log: InteractionLog,
    catalog: Catalog,
    manifest: dict[str, Any],
    *,
    overwrite: bool = False,
) -> Store:
    """Writes a log as a store. Ids follow the order of the raw keys, rows (user, time).

    Args:
        path: the folder to make.
        log: what remains after the filters; must not be empty.
        catalog: records of the log's items; others are dropped, missing ones get no title.
        manifest: entries to keep beside counts, statistics and file hashes.
        overwrite: replace what stands at `path`.

    Raises:
        InputError: nothing to write, something is there already (a folder that is no store is
            never replaced), the disk is full or not writable.
    """
    path = Path(path)
    if not len(log):
        raise InputError(
            f"{path}: no interaction is left to write; check the filters "
            "(min_rating, k_core_users, k_core_items) and the source"
        )
    log = compact(log)
    order = time_order(log)
    lengths = np.bincount(log.users, minlength=len(log.user_keys))
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    arrays = {
        "offsets": offsets,
        "items": log.items[order] + 1,
        "timestamps": None if log.timestamps is None else log.timestamps[order],
        "ratings": None if log.ratings is None else log.ratings[order],
    }
    with new_folder(path, overwrite=overwrite, known=store_files, sign=False) as folder:
        for name, array in arrays.items():
            if array is not None:
                np.save(folder / f"{name}.npy", array.astype(ARRAYS[name], copy=False))
        finish(folder, log.user_keys, log.item_keys, catalog, manifest)
    return open_store(path)


def finish(
    folder: Path,
    user_keys: Sequence[str],
    item_keys: Sequence[str],
    catalog: Catalog,
    manifest: dict[str, Any],
) -> None:
    """Writes what a store has beside its arrays, which are in the folder already."""
    _write_lines(folder / "users.jsonl", map(json.JSONEncoder().encode, user_keys))
    _write_lines(folder / "catalog.jsonl", _records(item_keys, catalog))
    n_items = len(item_keys) + 1
    warnings = list(manifest.get("warnings", []))
    untitled = sum(not catalog.get(key, {}).get("title") for key in item_keys)
    if untitled:
        warnings.append(f"{untitled} of {n_items - 1} items have no title")
    titles = [str(catalog.get(key, {}).get("title") or "") for key in item_keys]
    count = collections.Counter(filter(None, titles))
    shared = sum(number for number in count.values() if number > 1)
    if shared > _SHARED * len(titles):
        warnings.append(
            f"{shared} of {n_items - 1} items share their title with another one; is the column "
            "the item's title?"
        )

    def array(name: str) -> Any:
        file = folder / f"{name}.npy"
        return np.load(file, mmap_mode="r") if file.exists() else None

    offsets, timestamps = array("offsets"), array("timestamps")
    tied = None if timestamps is None else order_of_keys(offsets, array("items"), timestamps)
    warnings += [tied] if tied else []
    duplicates = manifest.get("duplicates", {})
    repeats = duplicates.get("found", 1) and duplicates.get("kept") not in ("first", "last")
    full = {
        "format_version": FORMAT_VERSION,
        "counts": {
            "users": len(user_keys),
            "items": n_items - 1,
            "interactions": int(offsets[-1]),
        },
        "statistics": statistics(
            offsets, n_items, timestamps, array("ratings"), array("items") if repeats else None
        ),
        **manifest,
        "warnings": warnings,
        "files": {f.name: hash_file(f) for f in sorted(folder.iterdir())},
    }
    text = json.dumps(full, indent=2, ensure_ascii=False) + "\n"
    (folder / "manifest.json").write_text(text, encoding="utf-8")


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    # Half of a surrogate pair, which scraped titles do hold, has no UTF-8 and becomes "?".
    with path.open("w", encoding="utf-8", errors="replace") as file:
        file.writelines(line + "\n" for line in lines)


def _records(keys: Iterable[str], catalog: Catalog) -> Iterator[str]:
    encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=str).encode  # dates
    for index, key in enumerate(keys, start=1):
        known = catalog.get(key, {})
        own = {"id": index, "key": key, "title": known.get("title") or None}
        record = own | known | own  # first in order, and a source's own "id" does not win
        try:
            yield encode(record)
        except ValueError as error:
            raise InputError(f"item {key!r}: its record has no JSON form ({error})") from None


def format_statistics(store: Store) -> str:
    """The store's statistics as a table."""
    s = store.manifest["statistics"]
    length = s["length"]
    rows = [
        ("users", f"{s['users']:,}"),
        ("items", f"{s['items']:,}"),
        ("interactions", f"{s['interactions']:,}"),
        ("density", f"{s['density']:.4%}"),
        (
            "a user's length",
            f"{length['min']} .. {length['max']}, mean {length['mean']:.2f}, "
            f"median {length['median']:g}",
        ),
    ]
    if "time" in s:
        first, last = (_date(s["time"][k]) for k in ("first", "last"))
        rows.append(("time", f"{first} .. {last}"))
    if "rating" in s:
        rows.append(("mean rating", f"{s['rating']['mean']:.2f}"))
    bad, duplicates = store.manifest.get("bad_rows", {}), store.manifest.get("duplicates", {})
    if bad.get("count"):
        rows.append(("bad rows skipped", f"{bad['count']:,}"))
    if duplicates.get("found"):
        kept = duplicates["kept"]
        more = "; config.data.deduplicate=last leaves one of each" if kept == "keep" else ""
        rows.append(("repeated (user, item)", f"{duplicates['found']:,} ({kept}{more})"))
    rows += [("note", printable(str(text))) for text in store.manifest.get("warnings", [])]
    return "\n".join(f"{name:<22}{value}" for name, value in rows)


def _date(seconds: int) -> str:
    try:
        return datetime.datetime.fromtimestamp(seconds, datetime.UTC).date().isoformat()
    except (ValueError, OverflowError, OSError):
        return str(seconds)
