import datetime
import errno
import json
import os

import numpy as np
import pytest

from recjax import replace
from recjax.data import store as store_module
from recjax.data.interactions import LogBuilder
from recjax.data.store import format_statistics, open_store, write_store
from recjax.errors import InputError

CATALOG = {"a": {"title": "A", "year": 1900}, "b": {"title": None}, "unused": {"title": "U"}}


def make_log(rows=(("u2", "b", 20, 3), ("u1", "a", 30, 5), ("u2", "a", 10, 4), ("u1", "c", 5, 1))):
    log = LogBuilder(timestamps=True, ratings=True)
    for row in rows:
        log.add(*row)
    return log.build()


def test_round_trip(tmp_path):
    store = write_store(tmp_path / "s", make_log(), CATALOG, {"source": {"name": "test"}})
    assert store.n_users == 2 and store.n_items == 4
    assert store.user_keys == ["u1", "u2"]
    assert store.offsets.tolist() == [0, 2, 4]
    assert store.items.tolist() == [3, 1, 1, 2]  # in time order; a, b, c = 1, 2, 3
    assert store.timestamps.tolist() == [5, 30, 10, 20]
    assert store.ratings.tolist() == [1, 5, 4, 3]
    assert store.titles == [None, "A", None, None]
    assert store.catalog[1] == {"id": 1, "key": "a", "title": "A", "year": 1900}
    assert "2 of 3 items have no title" in store.manifest["warnings"]
    assert isinstance(store.items, np.memmap)
    assert [store.offsets.dtype, store.items.dtype] == [np.int64, np.int32]
    assert "interactions          4" in format_statistics(store)
    tied = [("u", f"{k:03}", 5, 1) for k in range(120)]
    store = write_store(tmp_path / "tied", make_log(tied), {}, {})
    assert store.manifest["warnings"][1].startswith("119 rows have the time of the same user's")


def test_same_data_same_fingerprint(tmp_path):
    one = write_store(tmp_path / "1", make_log(), CATALOG, {"source": {"name": "x"}})
    two = write_store(tmp_path / "2", make_log(), CATALOG, {"source": {"name": "y"}})
    other = write_store(tmp_path / "3", make_log([("u", "a", 1, 1)]), CATALOG, {})
    assert one.fingerprint == two.fingerprint != other.fingerprint


def test_nothing_left(tmp_path):
    with pytest.raises(InputError, match="no interaction is left to write; check the filters"):
        write_store(tmp_path / "s", make_log([]), {}, {})
    assert not (tmp_path / "s").exists()


def test_does_not_overwrite_unasked(tmp_path):
    write_store(tmp_path / "s", make_log(), CATALOG, {})
    with pytest.raises(InputError, match="s exists already; --overwrite replaces it"):
        write_store(tmp_path / "s", make_log(), CATALOG, {})
    replaced = write_store(
        tmp_path / "s", make_log([("u", "a", 1, 1)]), CATALOG, {}, overwrite=True
    )
    assert replaced.n_users == 1
    assert [p.name for p in tmp_path.iterdir()] == ["s"]  # no leftovers


@pytest.mark.parametrize("existing", [False, True])
def test_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch, existing):
    target = tmp_path / "s"
    if existing:
        write_store(target, make_log(), CATALOG, {})

    def full(path, lines):
        path.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store_module, "_write_lines", full)
    with pytest.raises(InputError, match=f"cannot write {target}: the disk is full"):
        write_store(target, make_log([("u", "a", 1, 1)]), CATALOG, {}, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == (["s"] if existing else [])
    if existing:
        assert open_store(target).n_users == 2


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*file/s: (Not a directory|File exists)"):
        write_store(tmp_path / "file" / "s", make_log(), CATALOG, {})


def edit_manifest(path, **changes):
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | changes))


def test_refuses_what_is_no_whole_store(tmp_path):
    path = tmp_path / "s"
    with pytest.raises(InputError, match=r"no prepared data set there .* run `recjax prepare`"):
        open_store(path)
    write_store(path, make_log(), CATALOG, {})
    edit_manifest(path, format_version=0)
    with pytest.raises(InputError, match="format version 0, this recjax reads 1; run `recjax prep"):
        open_store(path)
    edit_manifest(path, format_version=1)
    whole = (path / "items.npy").read_bytes()
    (path / "items.npy").write_bytes(whole[:-4])
    size = len(whole)
    with pytest.raises(InputError, match=f"items.npy: {size - 4} bytes, expected {size} bytes"):
        open_store(path)
    (path / "items.npy").unlink()
    with pytest.raises(InputError, match=r"items.npy: missing, expected"):
        open_store(path)
    (path / "manifest.json").write_text("{")
    with pytest.raises(InputError, match="manifest.json: not a readable JSON file"):
        open_store(path)


def test_a_folder_that_is_no_store_is_never_replaced(tmp_path):
    (tmp_path / "home").mkdir()
    write_store(tmp_path / "home", make_log(), CATALOG, {})  # an empty folder is free
    (tmp_path / "home" / "manifest.json").unlink()
    for overwrite in (False, True):
        with pytest.raises(InputError, match="home: holds files that recjax did not write"):
            write_store(tmp_path / "home", make_log(), CATALOG, {}, overwrite=overwrite)
    assert (tmp_path / "home" / "items.npy").exists()


def test_a_failed_rename_puts_the_old_store_back(tmp_path, monkeypatch):
    target = tmp_path / "s"
    write_store(target, make_log(), CATALOG, {})
    rename = os.rename

    def failing(path, to):
        if path.suffix == ".recjax-tmp":
            raise OSError(errno.EIO, "Input/output error")
        return rename(path, to)

    monkeypatch.setattr(replace.os, "rename", failing)
    with pytest.raises(InputError, match=f"cannot write {target}: Input/output error"):
        write_store(target, make_log([("u", "a", 1, 1)]), CATALOG, {}, overwrite=True)
    assert open_store(target).n_users == 2
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


@pytest.mark.parametrize("existing", [False, True])
def test_a_killed_writer_leaves_nothing_that_opens(tmp_path, monkeypatch, existing):
    target = tmp_path / "s"
    if existing:
        write_store(target, make_log(), CATALOG, {})
    with monkeypatch.context() as patch:  # nothing tidies up after a kill
        patch.setattr(replace.shutil, "rmtree", lambda *args, **kwargs: None)
        with (
            pytest.raises(SystemExit),
            replace.new_folder(target, overwrite=True, known=store_module.store_files) as folder,
        ):
            (folder / "items.npy").write_bytes(b"half")
            raise SystemExit
    assert len(list(tmp_path.iterdir())) == 1 + existing  # the leftover is real
    if existing:
        assert open_store(target).n_users == 2
    else:
        with pytest.raises(InputError, match="no prepared data set there"):
            open_store(target)
    assert write_store(target, make_log(), CATALOG, {}, overwrite=True).n_users == 2
    assert [p.name for p in tmp_path.iterdir()] == ["s"]  # and removes the leftover


def test_a_store_behind_a_link_is_replaced_in_its_place(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "s")
    write_store(tmp_path / "link", make_log(), CATALOG, {})
    write_store(tmp_path / "link", make_log([("u", "a", 1, 1)]), CATALOG, {}, overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert open_store(tmp_path / "disk" / "s").n_users == 1


def test_catalog_records_of_any_source(tmp_path):
    catalog = {
        "a": {"title": "Half \ud83d", "id": "B00", "key": "other", "on": datetime.date(2020, 1, 2)},
        "b": {"title": "B", "first": {"title": None}},
    }
    store = write_store(tmp_path / "s", make_log([("u", "a", 1), ("u", "b", 2)]), catalog, {})
    assert store.catalog[1] == {"id": 1, "key": "a", "title": "Half ?", "on": "2020-01-02"}
    assert store.manifest["warnings"] == []  # a null title inside a record is none of the item's


def test_a_manifest_that_lists_no_files(tmp_path):
    write_store(tmp_path / "s", make_log(), CATALOG, {})
    edit_manifest(tmp_path / "s", files={})
    with pytest.raises(
        InputError, match=r"manifest.json: 'files.offsets.npy' is missing; expected"
    ):
        open_store(tmp_path / "s")


def test_the_same_log_makes_the_same_bytes(tmp_path):
    for name in ("1", "2"):
        write_store(tmp_path / name, make_log(), CATALOG, {"source": {"name": "x"}})
    names = [p.name for p in sorted((tmp_path / "1").iterdir())]
    assert len(names) == 7
    for name in names:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
