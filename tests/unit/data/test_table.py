"""The edges of csv and parquet; the usual paths are in test_sources.py."""

import datetime

import pytest

from recjax.data.interactions import BadRows
from recjax.data.sources import table
from recjax.errors import InputError


def read(path, limit=0, **options):
    bad = BadRows(limit)
    log, catalog = table.read(path, table.Options(**options), bad)
    rows = [(log.user_keys[u], log.item_keys[i]) for u, i in zip(log.users, log.items, strict=True)]
    return log, catalog, rows, bad


HEADER = "user,item,timestamp"


def write(path, *lines, encoding="utf-8"):
    path.write_text("\n".join(lines) + "\n", encoding=encoding)
    return path


def test_an_open_quote_does_not_swallow_the_rows_after_it(tmp_path):
    path = write(tmp_path / "l.csv", HEADER + ",t", "a,x,1,T", 'a,y,2,"open', "b,x,3,T")
    with pytest.raises(InputError, match=r"l.csv:3: not csv \(unexpected end .* read to line 4\)"):
        read(path)


def test_quotes_as_letters(tmp_path):
    path = write(tmp_path / "l.tsv", "user\titem\ttimestamp\tt", 'a\tx\t1\t"Weird" Al')
    with pytest.raises(InputError, match="l.tsv:2: not csv"):
        read(path, title="t")
    assert read(path, title="t", quoted=False)[1] == {"x": {"title": '"Weird" Al'}}


def test_a_quoted_header_after_a_byte_order_mark(tmp_path):
    path = write(tmp_path / "l.csv", '"user","item","timestamp"', "a,x,1", encoding="utf-8-sig")
    assert read(path)[2] == [("a", "x")]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("", "l.csv: no column 'user' .config.data.options.user.; known: none"),
        ("user,user,item,timestamp", "l.csv: 2 columns are named 'user'"),
        ('"user', "l.csv:1: not a header of csv"),
    ],
)
def test_headers(tmp_path, header, message):
    with pytest.raises(InputError, match=message):
        read(write(tmp_path / "l.csv", header))


@pytest.mark.parametrize("time", ["1e30", "99999999999999999999", "nan", "-inf", ""])
def test_times_that_are_none(tmp_path, time):
    path = write(tmp_path / "l.csv", HEADER, f"a,x,{time}", "a,y,5")
    with pytest.raises(InputError, match=f"l.csv:2: 'timestamp' is '{time}'; expected seconds or"):
        read(path)
    log, _, rows, _ = read(path, limit=1)
    assert rows == [("a", "y")] and log.timestamps.tolist() == [5]


def test_times(tmp_path):
    raw = ["1577923200123456789", "12.9", "-5", "1970-01-02", "1970-01-01T01:00:00+01:00"]
    path = write(tmp_path / "l.csv", HEADER, *(f"a,x,{t}" for t in raw))
    assert read(path)[0].timestamps.tolist() == [1577923200123456789, 12, -5, 86400, 0]


@pytest.mark.parametrize("rating", ["nan", "inf", "good", ""])
def test_ratings_that_are_none(tmp_path, rating):
    path = write(tmp_path / "l.csv", HEADER + ",stars", f"a,x,1,{rating}")
    with pytest.raises(InputError, match=f"l.csv:2: 'stars' is '{rating}'; expected a number"):
        read(path, rating="stars")


def write_parquet(path, **columns):
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    parquet.write_table(pyarrow.table(columns), path)
    return path


def test_parquet_times_and_gaps(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    nanoseconds = pyarrow.array([1_000_000_001, 86_400_000_000_000], pyarrow.timestamp("ns"))
    path = write_parquet(
        tmp_path / "a.parquet", user=[1, 2], item=["x", "y"], timestamp=nanoseconds
    )
    assert read(path)[0].timestamps.tolist() == [1, 86400]
    days = [datetime.date(1970, 1, 3), None]
    path = write_parquet(tmp_path / "b.parquet", user=[7.0, 8.0], item=["x", "y"], timestamp=days)
    with pytest.raises(InputError, match="b.parquet:2: 'timestamp' is None; expected seconds"):
        read(path)
    log, _, rows, _ = read(path, limit=1)
    assert rows == [("7", "x")] and log.timestamps.tolist() == [2 * 86400]


def test_damaged_parquet(tmp_path):
    numbers = list(range(200_000))
    path = write_parquet(tmp_path / "l.parquet", user=numbers, item=numbers, timestamp=numbers)
    data = bytearray(path.read_bytes())
    data[1000:400_000] = b"\xff" * 399_000
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"l.parquet: not a parquet file, or damaged"):
        read(path)


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"parquet needs pyarrow; pip install 'recjax\[parquet\]'"):
        read(tmp_path / "l.parquet")
