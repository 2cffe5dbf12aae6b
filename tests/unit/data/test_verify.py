"""Prepared data that is not what was written."""

import hashlib
import json
import os

import numpy as np
import pytest

from recjax.data import verify
from recjax.data.interactions import LogBuilder
from recjax.data.store import open_store, write_store
from recjax.errors import InputError

AGAIN = "run `recjax prepare --overwrite`"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A store of 3 users and 3 items, and a cache folder of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    log = LogBuilder(timestamps=True, ratings=True)
    for user, item, time in (
        ("u", "a", 5),
        ("u", "b", 9),
        ("v", "c", 1),
        ("v", "a", 2),
        ("w", "b", 3),
    ):
        log.add(user, item, time, 1.0)
    titles = {"a": {"title": "A"}, "b": {"title": "B"}, "c": {"title": None}}
    write_store(tmp_path / "s", log.build(), titles, {})
    return tmp_path / "s"


def edit(folder, change):
    """Changes the manifest in place."""
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text())
    change(manifest)
    file.write_text(json.dumps(manifest))


def sign(folder, name):
    """Makes the manifest tell of a file as it stands."""
    data = (folder / name).read_bytes()
    entry = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    edit(folder, lambda manifest: manifest["files"].update({name: entry}))


def refused(folder, message):
    with pytest.raises(InputError) as error:
        open_store(folder)
    said = str(error.value)
    assert message in said and AGAIN in said and "\n" not in said


@pytest.mark.parametrize("name", [*verify.ALWAYS, "timestamps.npy", "ratings.npy"])
def test_any_changed_byte_is_seen(folder, name):
    file = folder / name
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    state = file.stat()
    file.write_bytes(data)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    refused(folder, f"{file}: changed since it was prepared, or damaged")


def test_a_changed_title_is_seen(folder):
    file = folder / "catalog.jsonl"
    file.write_text(file.read_text().replace('"title": "A"', '"title": "X"'))
    refused(folder, "catalog.jsonl: changed since it was prepared")


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("items", [1, 2, 3, 1, 4], "4; expected 1 to 3"),
        ("items", [0, 2, 3, 1, 2], "items.npy: ids from 0 to "),
        ("items", [-1, 2, 3, 1, 2], "items.npy: ids from -1 to "),
        ("items", [1, 2, 3, 1], "items.npy: int32 [4]; expected int32 [5]"),
        ("offsets", [0, 4, 2, 5], "offsets.npy: expected numbers rising from 0 to 5"),
        ("offsets", [5, 4, 2, 0], "offsets.npy: expected numbers rising from 0 to 5"),
        ("offsets", [0, 2, 4, 6], "offsets.npy: expected numbers rising from 0 to 5"),
        ("offsets", [1, 2, 4, 5], "offsets.npy: expected numbers rising from 0 to 5"),
        ("offsets", [0, 2, 5], "offsets.npy: int64 [3]; expected int64 [4]"),
        ("timestamps", [9, 5, 1, 2, 3], "timestamps.npy: a user's times fall"),
        ("timestamps", [5, 9, 2, 1, 3], "timestamps.npy: a user's times fall"),
        ("ratings", [1, np.nan, 1, 1, 1], "ratings.npy: not finite"),
    ],
)
def test_arrays_that_do_not_fit(folder, monkeypatch, name, values, message):
    np.save(folder / f"{name}.npy", np.array(values, verify.ARRAYS[name]))
    sign(folder, f"{name}.npy")
    for part in (2, 3, 1 << 22):
        monkeypatch.setattr(verify, "_PART", part)
        refused(folder, message)


def test_what_is_no_array_or_a_line_short(folder):
    np.save(folder / "items.npy", np.ones(5))
    sign(folder, "items.npy")
    refused(folder, "items.npy: float64 [5]; expected int32 [5]")
    np.save(folder / "items.npy", np.array([{}] * 5), allow_pickle=True)
    sign(folder, "items.npy")
    refused(folder, "items.npy: not an array of numpy (")
    np.save(folder / "items.npy", np.array([1, 2, 3, 1, 2], np.int32))
    sign(folder, "items.npy")
    (folder / "users.jsonl").write_text('"u"\n"v"\n')
    sign(folder, "users.jsonl")
    refused(folder, "users.jsonl: 2 lines; expected 3")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ('{"id": 2, "key": "b", "title": 3}', "expected item 2 with its 'key' and 'title'"),
        ('{"id": 2, "key": "b"}', "expected item 2 with its 'key' and 'title'"),
        ('{"id": 7, "key": "b", "title": null}', "expected item 2 with its 'key' and 'title'"),
        ("[]", "expected an item's record"),
        ("oops", "expected an item's record"),
    ],
)
def test_records_that_are_none(folder, record, message):
    file = folder / "catalog.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], record, lines[2]]) + "\n")
    sign(folder, file.name)
    with pytest.raises(InputError, match=f"catalog.jsonl:2: {message}"):
        _ = open_store(folder).titles


KEYS = ["files", "counts", "statistics", "format_version", "files.items.npy", "files.users.jsonl"]
KEYS += [f"counts.{name}" for name in ("users", "items", "interactions")]
KEYS += ["statistics.users", "statistics.density", "statistics.length", "statistics.length.max"]
KEYS += ["files.items.npy.sha256", "files.items.npy.bytes", "files.ratings.npy.sha256"]


def parts(key):
    """A key's parts; files' names have dots."""
    section, _, name = key.partition(".")
    if section != "files" or not name:
        return key.split(".")
    for end in (".bytes", ".sha256"):
        if name.endswith(end):
            return [section, name.removesuffix(end), end[1:]]
    return [section, name]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", ["missing", None, True, "x" * 1000, [], -1])
def test_manifests_edited_by_hand(folder, key, value):
    def change(manifest):
        *path, last = parts(key)
        for part in path:
            manifest = manifest[part]
        if value == "missing":
            del manifest[last]
        else:
            manifest[last] = value

    edit(folder, change)
    if key.endswith("sha256") and isinstance(value, str) and value != "missing":
        refused(folder, "changed since it was prepared")
    elif key in ("statistics.density", "statistics.length.max") and value == -1:
        open_store(folder)
    else:
        refused(
            folder,
            "format version" if key == "format_version" and value != "missing" else f"'{key}",
        )
    with pytest.raises(InputError, match="exists already; --overwrite replaces it"):
        write_store(folder, _log(), {}, {})
    assert write_store(folder, _log(), {}, {}, overwrite=True).n_users == 1


def _log():
    log = LogBuilder(timestamps=False, ratings=False)
    log.add("u", "a")
    return log.build()


@pytest.mark.parametrize("text", ["", "[]", "3", "{", '"a"', "[" * 100_000, "\ud83d", "{}"])
def test_what_is_no_manifest(folder, text):
    (folder / "manifest.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    refused(folder, "manifest.json")


def test_other_files_in_a_manifest(folder):
    edit(folder, lambda manifest: manifest["files"].update({"../x": {"bytes": 1, "sha256": ""}}))
    refused(folder, "'files' lists '../x', which no store has")


def test_large_stores_are_read_once(folder, monkeypatch):
    monkeypatch.setattr(verify, "_SMALL", 0)
    reads = []
    digest = hashlib.file_digest
    monkeypatch.setattr(
        verify.hashlib, "file_digest", lambda *args: reads.append(1) or digest(*args)
    )
    open_store(folder)
    assert len(reads) == 6
    open_store(folder)
    assert len(reads) == 6
    os.utime(folder / "items.npy", ns=(1, 1))
    open_store(folder)
    assert len(reads) == 12
    data = bytearray((folder / "items.npy").read_bytes())
    (folder / "items.npy").write_bytes(data[:-1] + b"\x01")
    refused(folder, "items.npy: changed since it was prepared")
    refused(folder, "items.npy: changed since it was prepared")  # what is bad is not remembered
    (folder / "items.npy").write_bytes(data)
    open_store(folder)
    edit(folder, lambda manifest: manifest["counts"].update(items=2))
    refused(folder, "items.npy: ids from 1 to 3; expected 1 to 2")


def test_a_cache_that_cannot_be_written_costs_time_alone(folder, monkeypatch, tmp_path):
    monkeypatch.setattr(verify, "_SMALL", 0)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert open_store(folder).n_users == open_store(folder).n_users == 3
    memory = verify._memory(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert memory is not None and open_store(folder).n_users == 3
    verify._memory(folder).write_text("[")
    assert open_store(folder).n_users == 3
