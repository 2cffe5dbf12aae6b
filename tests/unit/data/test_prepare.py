import errno
import json

import numpy as np
import pytest

from recjax.config import build
from recjax.data.prepare import DataConfig, prepare, resolve
from recjax.data.splits import chronological_sequences
from recjax.data.store import format_statistics
from recjax.errors import InputError


def write(path, rows, header="user,item,timestamp"):
    path.write_text("\n".join([header, *rows]) + "\n")


@pytest.fixture
def config(tmp_path):
    write(tmp_path / "log.csv", ["a,x,3", "a,y,1", "b,x,2", "b,z,1", "a,x,9", "c,w,4"])
    path = str(tmp_path / "log.csv")
    return {"source": "table", "path": path, "store": str(tmp_path / "store")}


def test_filters_and_manifest(config, tmp_path):
    items = [json.dumps({"item": k, "title": k.upper()}) for k in "xyz"]
    (tmp_path / "items.jsonl").write_text("\n".join(items) + "\n")
    options = {"items": "items.jsonl"}
    store = prepare(DataConfig(**config, options=options, deduplicate="first", drop_untitled=True))
    assert store.user_keys == ["a", "b"]  # c touched w alone, which has no title
    assert store.titles == [None, "X", "Y", "Z"]
    assert store.items.tolist() == [2, 1, 3, 1]
    manifest = store.manifest
    assert manifest["duplicates"] == {"found": 1, "kept": "first"}
    assert [f["name"] for f in manifest["source"]["files"]] == ["log.csv", "items.jsonl"]
    assert manifest["warnings"] == ["2 rows were out of time order and have been sorted"]
    assert manifest["options"]["options"]["items"] == "items.jsonl"


def test_up_to_date_stores_are_opened_and_others_kept(config, tmp_path):
    store = prepare(DataConfig(**config))
    before = (store.path / "manifest.json").stat().st_mtime_ns
    assert prepare(DataConfig(**config)).fingerprint == store.fingerprint
    assert (store.path / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(InputError, match=r"made from other data or options \(differs in k_core_us"):
        prepare(DataConfig(**config, k_core_users=2))
    write(tmp_path / "log.csv", ["a,x,3"])
    with pytest.raises(InputError, match=r"differs in source\); `recjax prepare --overwrite` with"):
        prepare(DataConfig(**config))
    assert prepare(DataConfig(**config), overwrite=True).n_users == 1


def test_a_window_of_time(config):
    days = {"since": "1970-01-01T00:00:02", "until": "1970-01-01T00:00:09"}
    store = prepare(DataConfig(**config, **days))
    assert store.timestamps.tolist() == [3, 2, 4]  # from 2 on, before 9
    with pytest.raises(InputError, match="config.data.since or until is set, but the source has"):
        prepare(DataConfig(**config, **days, options={"timestamp": ""}), overwrite=True)
    with pytest.raises(InputError, match="config.data.until: 'tomorrow': expected"):
        build(DataConfig, {**config, "until": "tomorrow"}, "config.data")
    with pytest.raises(InputError, match="since: '20240301': expected a date such as 2024-03-01"):
        build(DataConfig, {**config, "since": "20240301"}, "config.data")


def test_rows_that_stand_there_twice(config, tmp_path):
    rows = ["a,x,3", "a,y,1", "a,x,3", "a,x,9", "b,x,3"]
    write(tmp_path / "log.csv", [*rows, rows[1]])
    store = prepare(DataConfig(**config))
    note = next(note for note in store.manifest["warnings"] if "time of another" in note)
    assert note.startswith("2 rows have user, item and time")
    assert store.manifest["duplicates"]["found"] == 3
    assert store.items.tolist() == [2, 2, 1, 1, 1, 1]
    exact = prepare(DataConfig(**config, deduplicate="exact"), overwrite=True)
    assert exact.items.tolist() == [2, 1, 1, 1] and exact.timestamps.tolist() == [1, 3, 9, 3]
    with pytest.raises(InputError, match="deduplicate is 'exact', but the source has no times"):
        untimed = {"options": {"timestamp": ""}, "deduplicate": "exact"}
        prepare(DataConfig(**config, **untimed), overwrite=True)


def test_titles_that_are_no_items(config, tmp_path):
    """The headline of a review, for one."""
    write(tmp_path / "log.csv", ["a,x,3,Five Stars", "a,y,1,Five Stars", "b,z,2,Bad"],
          header="user,item,timestamp,title")  # fmt: skip
    store = prepare(DataConfig(**config, options={"title": "title"}))
    assert store.manifest["warnings"][-1].startswith("2 of 3 items share their title with another")


def test_bad_rows_are_tolerated_up_to_the_limit_and_counted(config, tmp_path):
    write(tmp_path / "log.csv", ["a,x,3", "oops", "a,y,1", "b,x"])
    with pytest.raises(InputError, match=r"log.csv:5: 2 fields; expected 3 \(1 bad rows tolerated"):
        prepare(DataConfig(**config, skip_bad_rows=1))
    assert not (tmp_path / "store").exists()
    store = prepare(DataConfig(**config, skip_bad_rows=2))
    assert store.manifest["bad_rows"]["count"] == 2
    assert "log.csv:3: 1 fields" in store.manifest["bad_rows"]["examples"][0]
    # Whoever reads the store need not say it again.
    assert prepare(DataConfig(**config)).fingerprint == store.fingerprint


def test_what_does_not_exist(config, tmp_path, monkeypatch):
    monkeypatch.setenv("RECJAX_DATA", str(tmp_path / "data"))
    with pytest.raises(InputError, match=rf"no file or folder nope nor {tmp_path}/data/nope"):
        resolve("nope")
    monkeypatch.delenv("RECJAX_DATA")
    with pytest.raises(InputError, match="no file or folder nope and RECJAX_DATA is not set"):
        resolve("nope")
    with pytest.raises(InputError, match="no reader 'tabel'; did you mean 'table'"):
        prepare(DataConfig(**config | {"source": "tabel"}))
    with pytest.raises(InputError, match="config.data.options.usr'; did you mean 'user'"):
        prepare(DataConfig(**config, options={"usr": "x"}))
    with pytest.raises(InputError, match="the 'table' reader needs a file or folder"):
        prepare(DataConfig(**config | {"path": ""}))
    with pytest.raises(InputError, match="no interaction is left to write"):
        prepare(DataConfig(**config, k_core_users=50))


def test_path_under_the_data_folder(tmp_path, monkeypatch):
    (tmp_path / "set").mkdir()
    monkeypatch.setenv("RECJAX_DATA", str(tmp_path))
    assert resolve("set") == tmp_path / "set"


def test_beauty(data_root, tmp_path):
    path = str(data_root / "amazon-2014-beauty/Beauty.txt")
    store = prepare(
        DataConfig("sequences_txt", str(tmp_path / "s"), path, options={"items": "items.jsonl"})
    )
    counts = {"users": 22_363, "items": 12_101, "interactions": 198_502}
    assert store.manifest["counts"] == counts
    assert store.manifest["warnings"] == ["7 of 12101 items have no title"]
    assert store.titles[2] == "OPI Red Shatter Crackle Nail Polish E55 New"
    assert store.n_items == 12_102 and int(store.items.max()) == 12_101


@pytest.fixture(scope="module")
def ml100k(data_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ml100k") / "store"
    return prepare(DataConfig("movielens", str(folder), str(data_root / "ml-100k")))


def test_ml100k(ml100k):
    counts = {"users": 943, "items": 1682, "interactions": 100_000}
    assert ml100k.manifest["counts"] == counts


@pytest.mark.parametrize(("by", "missed", "known"), [("end", 76, 81), ("start", 61, 93),
                                                     ("user", 71, 95)])  # fmt: skip
def test_recinterpreters_popularity_baseline(ml100k, by, missed, known):
    """Its ten most frequent items are in none of the last ten of 74.74 % of the test sequences.

    Ties (the tenth of them in the order of users) go to the first item.
    """
    split = chronological_sequences(ml100k.offsets, ml100k.timestamps, by=by)
    assert [len(part) for part in (split.train, split.validation, split.test)] == [754, 94, 95]
    items, train, test = np.asarray(ml100k.items), split.train, split.test
    newest = [items[max(a, b - 10) : b] for a, b in zip(train.starts, train.stops, strict=True)]
    counts = np.bincount(np.concatenate(newest), minlength=ml100k.n_items)
    popular = np.argsort(-counts, kind="stable")[:10]
    # A test sequence ends with its target.
    asked = [items[max(a, b - 9) : b + 1] for a, b in zip(test.starts, test.stops, strict=True)]
    assert sum(not np.isin(row, popular).any() for row in asked) == missed
    assert (missed == round(0.7474 * len(test))) == (by == "user")
    # Whose last item training has seen.
    seen = np.unique(
        np.concatenate([items[a:b] for a, b in zip(train.starts, train.stops, strict=True)])
    )
    assert np.isin(items[test.stops], seen).sum() == known


def test_a_wrong_place_is_known_before_the_log_is_read(config, tmp_path):
    write(tmp_path / "log.csv", ["a,x,oops"])
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="store: holds files that recjax did not write"):
        prepare(DataConfig(**config), overwrite=True)


def test_an_option_newer_than_the_store_had_its_default(config):
    store = prepare(DataConfig(**config))
    manifest = json.loads((store.path / "manifest.json").read_text())
    del manifest["options"]["options"]["quoted"], manifest["options"]["drop_untitled"]
    (store.path / "manifest.json").write_text(json.dumps(manifest))
    assert prepare(DataConfig(**config)).fingerprint == store.fingerprint
    with pytest.raises(InputError, match=r"\(differs in options\)"):
        prepare(DataConfig(**config, options={"quoted": False}))


def test_a_log_that_cannot_be_read_or_is_empty(config, tmp_path, monkeypatch):
    write(tmp_path / "log.csv", [])
    with pytest.raises(InputError, match="log.csv: there is no interaction in it"):
        prepare(DataConfig(**config))

    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("recjax.data.prepare.hash_file", refuse)
    with pytest.raises(InputError, match=r"cannot read .*log.csv: Permission denied"):
        prepare(DataConfig(**config))


@pytest.mark.parametrize("out_of_core", [False, True])
@pytest.mark.parametrize(
    ("unit", "size", "fits"), [("ms", 1, "s"), ("ns", 1, "s"), ("ns", 10**3, "ms")]
)
def test_times_in_a_unit_that_is_too_fine(config, tmp_path, unit, size, fits, out_of_core):
    """1,700,000,000 milliseconds are the 20th of January 1970."""
    write(tmp_path / "log.csv", [f"a,x,{1_700_000_000 * size}", f"b,y,{1_600_000_000 * size}"])
    given = DataConfig(**config, options={"time_unit": unit}, out_of_core=out_of_core)
    message = rf"log.csv: every time lies before 1990 .*time_unit: {unit}\); .*={fits} .*of 2020"
    with pytest.raises(InputError, match=message):
        prepare(given)
    assert not (tmp_path / "store").exists()
    write(tmp_path / "log.csv", ["a,x,5", "b,y,7000"])  # a counter fits no unit
    assert prepare(given).n_users == 2


@pytest.mark.parametrize("out_of_core", [False, True])
def test_some_times_before_1990_are_told(config, tmp_path, out_of_core):
    write(tmp_path / "log.csv", ["a,x,0", "a,y,1700000000", "b,x,1600000000"])
    store = prepare(DataConfig(**config, out_of_core=out_of_core))
    assert store.manifest["warnings"][0].startswith("1 of 3 times lie before 1990: are they miss")
    since = DataConfig(**config, since="2001-01-01", out_of_core=out_of_core)
    assert "1990" not in str(prepare(since, overwrite=True).manifest["warnings"])


@pytest.mark.parametrize("out_of_core", [False, True])
def test_repeated_rows_are_one_pair(config, tmp_path, monkeypatch, out_of_core):
    monkeypatch.setattr("recjax.data.interactions._ROWS", 2)
    write(tmp_path / "log.csv", ["a,x,1", "a,x,2", "a,y,3", "b,x,1", "b,x,2", "b,x,3"])
    store = prepare(DataConfig(**config, out_of_core=out_of_core))
    assert store.manifest["statistics"]["density"] == 3 / 4
    assert "3 (keep; config.data.deduplicate=last leaves one of each)" in format_statistics(store)


@pytest.mark.parametrize("out_of_core", [False, True])
@pytest.mark.parametrize("unit", ["s", "ms", "ns"])
def test_dates_written_as_numbers_are_no_seconds(config, tmp_path, unit, out_of_core):
    write(tmp_path / "log.csv", ["a,x,20240301", "a,y,20231231", "b,x,20240229.0"])
    given = DataConfig(**config, options={"time_unit": unit}, out_of_core=out_of_core)
    message = r"log.csv: every time is a date .*\(20240301\); .*config.data.options.time_unit: date"
    with pytest.raises(InputError, match=message):
        prepare(given)
    assert not (tmp_path / "store").exists()


def test_dates_written_as_numbers(config, tmp_path):
    write(tmp_path / "log.csv", ["a,x,20240301", "a,y,2023-12-31", "b,x,20240229.0"])
    store = prepare(DataConfig(**config, options={"time_unit": "date"}))
    assert store.timestamps.tolist() == [1703980800, 1709251200, 1709164800]
    write(tmp_path / "log.csv", ["a,x,20240301", "b,x,20230229"])
    message = r"log.csv:3: 'timestamp' is '20230229'; expected a date such as 20240301 or"
    with pytest.raises(InputError, match=message):
        prepare(DataConfig(**config, options={"time_unit": "date"}), overwrite=True)


@pytest.mark.parametrize("other", ["20240230", "19891231", "5", "1709251200"])
def test_numbers_that_are_not_all_dates_are_seconds(config, tmp_path, other):
    write(tmp_path / "log.csv", ["a,x,20240301", f"a,y,{other}"])
    assert sorted(prepare(DataConfig(**config)).timestamps) == sorted([20240301, int(other)])
