"""Preparation with the rows on the disk makes the same stores."""

import json

import numpy as np
import pytest

from recjax.data import spill
from recjax.data.prepare import DataConfig, prepare
from recjax.errors import InputError


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """Rows out of order, repeated ones, with parts of seconds; ids are text."""
    rng, rows = np.random.default_rng(0), 3000
    times = rng.integers(0, 1000, rows) + np.where(rng.random(rows) < 0.2, 0.25, 0.0)
    file = tmp_path_factory.mktemp("external") / "log.csv"
    lines = [
        f"u{int(user)},{'' if k % 997 == 996 else f'i{int(item)}'},{time},{rating}"
        for k, (user, item, time, rating) in enumerate(
            zip(rng.zipf(1.3, rows) % 300, rng.zipf(1.2, rows) % 90, times,
                rng.integers(1, 6, rows), strict=True)
        )
    ]  # fmt: skip
    file.write_text("\n".join(["user,item,timestamp,rating", *lines]) + "\n")
    titles = "\n".join(json.dumps({"item": f"i{n}", "title": f"T{n}"}) for n in range(0, 90, 2))
    untitled = json.dumps({"item": "i1", "title": None, "year": 2001})  # known, without a title
    (file.parent / "items.jsonl").write_text(f"{titles}\n{untitled}\n")
    return file


def prepared(log, store, **changes):
    options = {"rating": "rating", "items": "items.jsonl", **changes.pop("options", {})}
    return prepare(DataConfig("table", str(store), str(log), options, skip_bad_rows=9, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"k_core_users": 4, "k_core_items": 6},
        {"deduplicate": "first", "min_rating": 2.0, "k_core_users": 3},
        {"deduplicate": "last", "drop_untitled": True, "k_core_items": 5},
        {"deduplicate": "exact", "since": "1970-01-01T00:01:00", "until": "1970-01-01T00:15:00"},
        {"options": {"timestamp": "", "rating": ""}},
    ],
)
def test_the_store_is_the_same(log, tmp_path, monkeypatch, changes):
    monkeypatch.setattr(spill, "BUCKET_ROWS", 200)
    monkeypatch.setattr(spill, "_CHUNK", 128)
    monkeypatch.setattr("recjax.data.interactions._ROWS", 100)
    expected = prepared(log, tmp_path / "memory", **dict(changes))
    found = prepared(log, tmp_path / "disk", out_of_core=True, **dict(changes))
    assert found.fingerprint == expected.fingerprint
    drop = {"source", "options"}
    assert {k: v for k, v in found.manifest.items() if k not in drop} == {
        k: v for k, v in expected.manifest.items() if k not in drop
    }
    assert found.manifest["bad_rows"]["count"] == 3
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".spill")] == []
    # It is up to date for both.
    assert prepared(log, tmp_path / "disk", **dict(changes)).fingerprint == expected.fingerprint


@pytest.mark.parametrize("filters", [{"k_core_users": 3}, {"min_rating": 2.0}])
def test_numbers_are_in_order_where_a_text_among_them_is_dropped(tmp_path, monkeypatch, filters):
    """Keys are ordered as numbers if all that are left are numbers."""
    monkeypatch.setattr(spill, "BUCKET_ROWS", 20)
    rng, log = np.random.default_rng(3), tmp_path / "log.csv"
    lines = [f"{u},{i},{t},{4}" for u, i, t in rng.integers(1, 30, (400, 3))]
    log.write_text("\n".join(["user,item,timestamp,rating", "x,no,5,1", *lines]) + "\n")
    stores = [
        prepare(DataConfig("table", str(tmp_path / name), str(log), {"rating": "rating"},
                           out_of_core=name == "disk", **filters))
        for name in ("memory", "disk")
    ]  # fmt: skip
    assert stores[0].fingerprint == stores[1].fingerprint
    assert stores[1].user_keys == sorted(stores[1].user_keys, key=int)


def test_nothing_is_left(log, tmp_path):
    with pytest.raises(InputError, match="no interaction is left to write; check the filters"):
        prepared(log, tmp_path / "s", out_of_core=True, k_core_users=10_000)
    assert not list(tmp_path.iterdir())
