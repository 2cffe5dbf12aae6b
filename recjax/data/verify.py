"""Whether the files of a prepared data set are those that were written.

Every file's bytes have the hash that the manifest tells, and the arrays fit together: offsets from
0 to N, items of the catalogue, a user's times rising. Large stores are read for it once a machine:
what was found good is remembered in the user's cache folder (`$XDG_CACHE_HOME/recjax/stores`), by
the manifest's hash and each file's size and time.
"""

import contextlib
import hashlib
import json
import os
import uuid
from pathlib import Path
from typing import Any

import numpy as np

from recjax.errors import InputError
from recjax.json_files import read_object
from recjax.memory import forget

FORMAT_VERSION = 1
ARRAYS = {"offsets": np.int64, "items": np.int32, "timestamps": np.int64, "ratings": np.float32}
ALWAYS = ("offsets.npy", "items.npy", "users.jsonl", "catalog.jsonl")
_SMALL = 1 << 24  # bytes; a smaller store is read each time, in a few milliseconds
_PART = 1 << 22  # values of an array looked at together
AGAIN = "run `recjax prepare --overwrite`"

_SECTION, _TEXT, _LIST = (dict, "a section"), (str, "a text"), (list, "a list")
_COUNT, _NUMBER = (int, "a whole number"), ((int, float), "a number")
_COUNTED = ("users", "items", "interactions")
# Keys of a manifest that are read; without the first ones it is none.
_NEEDED: dict[str, Any] = {
    "files": _SECTION,
    **{f"counts.{name}": _COUNT for name in _COUNTED},
    **{f"statistics.{name}": _COUNT for name in _COUNTED},
    "statistics.density": _NUMBER,
    **{f"statistics.length.{name}": _NUMBER for name in ("min", "median", "mean", "max")},
}
_OPTIONAL: dict[str, Any] = {
    "source": _SECTION,
    "options": _SECTION,
    "options.options": _SECTION,
    "bad_rows": _SECTION,
    "bad_rows.count": _COUNT,
    "bad_rows.limit": _COUNT,
    "duplicates": _SECTION,
    "duplicates.found": _COUNT,
    "duplicates.kept": _TEXT,
    "warnings": _LIST,
    "statistics.time.first": _COUNT,
    "statistics.time.last": _COUNT,
    "statistics.rating.mean": _NUMBER,
}
_NOTHING = object()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a store, with all that this library reads of it.

    Raises:
        InputError: naming the file, and the key that is missing or holds something else; another
            format version.
    """
    file = folder / "manifest.json"
    if not file.is_file():
        raise InputError(
            f"{folder}: no prepared data set there (manifest.json is missing); "
            "run `recjax prepare` first; of a run whose data were moved, "
            "`recjax train --workdir=RUN --config.data.store=DIR`"
        )
    try:
        manifest = read_object(file)
    except InputError as error:
        raise InputError(f"{error}; {AGAIN}") from None
    version = _at(manifest, "format_version")
    if version is _NOTHING:
        raise InputError(f"{file}: no 'format_version': not of a prepared data set; {AGAIN}")
    if type(version) is not int or version != FORMAT_VERSION:
        raise InputError(
            f"{folder}: format version {version!r}, this recjax reads {FORMAT_VERSION}; {AGAIN}"
        )
    for key, (kind, expected) in (_NEEDED | _OPTIONAL).items():
        value = _at(manifest, key)
        if value is not _NOTHING or key in _NEEDED:
            _check(file, key, value, kind, expected)
    for name in (*ALWAYS, *manifest["files"]):
        if name not in ALWAYS and name.removesuffix(".npy") not in ARRAYS:
            raise InputError(f"{file}: 'files' lists {name!r}, which no store has; {AGAIN}")
        entry = manifest["files"].get(name, _NOTHING)
        _check(file, f"files.{name}", entry, *_SECTION)
        for key, (kind, expected) in (("bytes", _COUNT), ("sha256", _TEXT)):
            _check(file, f"files.{name}.{key}", entry.get(key, _NOTHING), kind, expected)
    return manifest


def _at(manifest: Any, key: str) -> Any:
    for part in key.split("."):
        if not isinstance(manifest, dict) or part not in manifest:
            return _NOTHING
        manifest = manifest[part]
    return manifest


def _check(file: Path, key: str, value: Any, kind: Any, expected: str) -> None:
    if not isinstance(value, kind) or isinstance(value, bool) or (kind is int and value < 0):
        shown = "missing" if value is _NOTHING else repr(value)[:60]
        raise InputError(f"{file}: '{key}' is {shown}; expected {expected}; {AGAIN}")


def check_files(folder: Path, manifest: dict[str, Any]) -> None:
    """Whether a store's files are whole and unchanged.

    Raises:
        InputError: naming the file, and what is wrong with it.
    """
    files: dict[str, list[int]] = {}
    for name, entry in manifest["files"].items():
        file = folder / name
        state = file.stat() if file.is_file() else None
        if state is None or state.st_size != entry["bytes"]:
            size = "missing" if state is None else f"{state.st_size} bytes"
            raise InputError(f"{file}: {size}, expected {entry['bytes']} bytes; {AGAIN}")
        files[name] = [state.st_size, state.st_mtime_ns]
    text = json.dumps(manifest, sort_keys=True)
    good = {"manifest": hashlib.sha256(text.encode()).hexdigest(), "files": files}
    large = sum(size for size, _ in files.values()) > _SMALL
    memory = _memory(folder) if large else None
    if memory is not None and _remembered(memory) == good:
        return
    for name, entry in manifest["files"].items():
        try:
            with (folder / name).open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise InputError(f"{folder / name}: cannot be read ({error.strerror})") from None
        if digest != entry["sha256"]:
            raise InputError(
                f"{folder / name}: changed since it was prepared, or damaged (its sha256 is not "
                f"the manifest's); {AGAIN}"
            )
    _check_arrays(folder, manifest)
    if memory is not None:
        _remember(memory, good)


def _check_arrays(folder: Path, manifest: dict[str, Any]) -> None:
    """Whether the arrays fit the counts and each other."""
    users, items, rows = (manifest["counts"][n] for n in ("users", "items", "interactions"))
    arrays: dict[str, np.ndarray] = {}
    for name, dtype in ARRAYS.items():
        file = folder / f"{name}.npy"
        if file.name not in manifest["files"]:
            continue
        length = users + 1 if name == "offsets" else rows
        try:
            array = np.load(file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            reason = " ".join(str(error).split())[:100]
            raise InputError(f"{file}: not an array of numpy ({reason}); {AGAIN}") from None
        if array.dtype != dtype or array.shape != (length,):
            raise InputError(
                f"{file}: {array.dtype} {list(array.shape)}; expected {np.dtype(dtype)} "
                f"[{length}]; {AGAIN}"
            )
        arrays[name] = array
    offsets = arrays["offsets"]
    if offsets[0] != 0 or offsets[-1] != rows or (np.diff(offsets) < 0).any():
        raise InputError(f"{folder}/offsets.npy: expected numbers rising from 0 to {rows}; {AGAIN}")
    for begin in range(0, rows, _PART):
        part = slice(begin, begin + _PART)
        ids = arrays["items"][part]
        if ids.min() < 1 or ids.max() > items:
            raise InputError(
                f"{folder}/items.npy: ids from {ids.min()} to {ids.max()}; expected 1 to {items}; "
                f"{AGAIN}"
            )
        if "timestamps" in arrays:
            times = arrays["timestamps"][max(0, begin - 1) : begin + _PART]
            falls = np.flatnonzero(times[1:] < times[:-1]) + max(0, begin - 1) + 1
            if (offsets[np.searchsorted(offsets, falls)] != falls).any():  # not a user's first
                raise InputError(
                    f"{folder}/timestamps.npy: a user's times fall; expected them to rise; {AGAIN}"
                )
        if "ratings" in arrays and not np.isfinite(arrays["ratings"][part]).all():
            raise InputError(f"{folder}/ratings.npy: not finite; expected numbers; {AGAIN}")
        for array in arrays.values():
            forget(array)
    for name, count in (("users", users), ("catalog", items)):
        file = folder / f"{name}.jsonl"
        with file.open("rb") as lines:
            there = sum(1 for _ in lines)
        if there != count:
            raise InputError(f"{file}: {there} lines; expected {count}; {AGAIN}")


def _memory(folder: Path) -> Path | None:
    """The file that remembers a store, or None where there is no home."""
    try:
        cache = os.environ.get("XDG_CACHE_HOME")
        root = Path(cache) if cache else Path.home() / ".cache"
        name = hashlib.sha256(str(folder.resolve()).encode(errors="replace")).hexdigest()
    except (OSError, RuntimeError):
        return None
    return root / "recjax" / "stores" / f"{name[:32]}.json"


def _remembered(memory: Path) -> Any:
    try:
        return json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _remember(memory: Path, good: dict[str, Any]) -> None:
    temporary = memory.with_suffix(f".{uuid.uuid4().hex[:8]}")
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time alone
        memory.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_text(json.dumps(good), encoding="utf-8")
            temporary.replace(memory)
        finally:
            temporary.unlink(missing_ok=True)
