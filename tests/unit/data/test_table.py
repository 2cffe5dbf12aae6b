"""The edges of csv and parquet; the usual paths are in test_sources.py."""

import datetime
import json
import uuid

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
        ("", "l.csv: the file is empty"),
        (
            "who,what",
            "l.csv: no column 'user' .config.data.options.user. nor 'item' .config.*item. nor "
            "'timestamp' .*; known: what, who; config.* empty config.data.options.timestamp is",
        ),
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
    raw = ["253402300799", "12.9", "0", "1970-01-02", "1970-01-01T01:00:00+01:00"]
    path = write(tmp_path / "l.csv", HEADER, *(f"a,x,{t}" for t in raw))
    assert read(path)[0].timestamps.tolist() == [253402300799, 12, 0, 86400, 0]


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_times_in_other_units(tmp_path, unit):
    many = {"ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    path = write(tmp_path / "l.csv", HEADER, f"a,x,{1577923200 * many + many // 2}", "a,y,9.5")
    log = read(path, time_unit=unit)[0]
    assert log.timestamps.tolist() == [1577923200, 0]
    assert log.nanoseconds.tolist() == [500_000_000, 9_500_000_000 // many]
    known = rf"l.csv:2: 'timestamp' is .*time_unit: s\); .*options.time_unit={unit} .* of 2020"
    with pytest.raises(InputError, match=known):
        read(path)


@pytest.mark.parametrize("rating", ["nan", "inf", "good", ""])
def test_ratings_that_are_none(tmp_path, rating):
    path = write(tmp_path / "l.csv", HEADER + ",stars", f"a,x,1,{rating}")
    with pytest.raises(InputError, match=f"l.csv:2: 'stars' is '{rating}'; expected a number") as e:
        read(path, rating="stars")
    assert ("options.rating= leaves ratings out" in str(e.value)) == (rating in ("nan", ""))


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


@pytest.mark.parametrize(
    ("line", "options", "message"),
    [
        (
            "1 10",
            {},
            "l.csv:1: no ',' between the fields of '1 10'; .*options.separator=' ' splits",
        ),
        ("1;10;3", {}, "options.separator=';' splits them"),
        ('"User-ID";"ISBN"', {}, "options.separator=';' splits them"),
        (
            "1::10::5::9",
            {},
            "'::' between the fields .*; config.data.source=movielens reads its fo",
        ),
        (
            "1,10,5",
            {},
            "l.csv:1: '1,10,5' looks like data; .* all 3 columns in config.data.options.co",
        ),
        ("a,tea,2020-01-01", {}, "'a,tea,2020-01-01' looks like data"),
        (
            "ann,tea",
            {},
            "known: ann, tea; config.data.options.columns is for a file without a head",
        ),
        ("1,10", {"columns": "user,item,timestamp"}, "l.csv:1: 2 fields; expected 3"),
        (
            "1,10",
            {"columns": "user,thing,timestamp"},
            "no column 'item' .config.data.options.item.",
        ),
        ("user,item,timestamp", {"columns": "user,item,timestamp"}, "l.csv:1: is a header; leave"),
        ('{"user": "a", "item": "b"}', {}, "l.csv:1: JSON; expected a csv, tsv or parquet file"),
        ("[]", {}, "l.csv:1: JSON; expected"),
        ("PK\x03\x04", {}, "l.csv:1: not utf-8 text; a zip archive or a spreadsheet"),
        ("user;item", {"separator": ";;"}, "options.separator: expected one character, got ';;'"),
    ],
)
def test_a_first_line_that_is_no_header(tmp_path, line, options, message):
    with pytest.raises(InputError, match=message):
        read(write(tmp_path / "l.csv", line), **options)


def test_files_without_headers(tmp_path):
    path = write(tmp_path / "ratings.csv", "A1,B1,5.0,1393545600", "A1,B2,4.0,1393545601")
    write(tmp_path / "items.csv", "B1,Tea", "B2,Pot")
    options = {"columns": "user, item, stars, timestamp", "rating": "stars"}
    items = {"items": "items.csv", "items_columns": "item,title"}
    log, catalog, rows, _ = read(path, **options, **items)
    assert rows == [("A1", "B1"), ("A1", "B2")] and log.ratings.tolist() == [5, 4]
    assert catalog == {"B1": {"title": "Tea"}, "B2": {"title": "Pot"}}
    path = write_parquet(tmp_path / "l.parquet", user=["1"], item=["2"], timestamp=[3])
    with pytest.raises(InputError, match=r"options\.columns: parquet names its own columns"):
        read(path, columns="user,item,timestamp")


def test_dates_that_python_does_not_have(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    for kind, far in ((pyarrow.timestamp("s"), 10**13), (pyarrow.date32(), 10**9)):
        times = pyarrow.array([1, far], pyarrow.int64())
        times = times.cast(pyarrow.int32()) if kind == pyarrow.date32() else times
        path = write_parquet(
            tmp_path / "l.parquet", user=[1, 2], item=["x", "y"], timestamp=times.cast(kind)
        )
        with pytest.raises(InputError, match=r"l.parquet:2: 'timestamp' is Time.*; expected sec"):
            read(path)


def test_columns_of_items_in_parquet_are_what_json_holds(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    log = write(tmp_path / "l.csv", HEADER, "u,a,1", "u,b,2")
    write_parquet(
        tmp_path / "i.parquet",
        item=["a", "b"],
        title=pyarrow.array([300.0, None]),
        far=pyarrow.array([1, 10**14], pyarrow.timestamp("s")),
        zone=pyarrow.array([1, None], pyarrow.timestamp("ns", "Europe/Paris")),
        bytes=[b"x", None],
        lists=pyarrow.array([[1.5, float("nan")], []]),
        nested=pyarrow.array([{"a": {"b": b"&lt;"}}] * 2),
    )
    assert read(log, items="i.parquet")[1] == {
        "a": {
            "title": "300",
            "far": "1970-01-01 00:00:01",
            "zone": "1970-01-01 00:00:00",
            "bytes": "x",
            "lists": [1.5, None],
            "nested": {"a": {"b": "<"}},
        },
        "b": {
            "title": None,
            "far": None,
            "zone": None,
            "bytes": None,
            "lists": [],
            "nested": {"a": {"b": "<"}},
        },
    }
    write_parquet(tmp_path / "i.parquet", item=["a", "b"], title=["x", "y"], raw=[b"x", b"\xff"])
    with pytest.raises(InputError, match=r"i.parquet:2: 'raw' is b'\\xff'; expected UTF-8 text"):
        read(log, items="i.parquet")


@pytest.mark.parametrize("separator", ["\t", "\\t", "tab"])
def test_a_tab_as_errors_and_shells_write_it(tmp_path, separator):
    path = write(tmp_path / "l.csv", "user\titem\ttimestamp", "a\tx\t1")
    with pytest.raises(InputError, match=r"options.separator='\\t' splits them"):
        read(path)
    assert read(path, separator=separator)[2] == [("a", "x")]


@pytest.mark.parametrize("quote", ["", '"'])  # read in blocks, and by rows
def test_blanks_around_names_of_columns_are_no_part_of_them(tmp_path, quote):
    path = write(tmp_path / "l.csv", f" user , item,{quote}timestamp{quote}", "a, x ,1")
    assert read(path)[2] == [("a", "x")]


def test_json_lines(tmp_path):
    rows = [{"u": "a", "i": 1, "at": "2020-01-02T03:04:05Z"}, {"u": "a", "i": 2, "at": 5}]
    path = write(tmp_path / "l.jsonl", *map(json.dumps, rows))
    named = {"user": "u", "item": "i", "timestamp": "at"}
    log, _, pairs, _ = read(path, **named)
    assert pairs == [("a", "1"), ("a", "2")] and log.timestamps.tolist() == [1577934245, 5]
    with pytest.raises(
        InputError, match=r"l.jsonl: no column 'user' .*options.user.; known: at, i, u"
    ):
        read(path, item="i", timestamp="at")
    with pytest.raises(InputError, match=r"options.columns: JSON names its own columns"):
        read(path, columns="u,i,at")
    write(tmp_path / "i.json", '{"item": 1, "name": "Tea"}', '{"item": 2}')
    assert read(path, items="i.json", items_title="name", **named)[1]["1"] == {"title": "Tea"}
    with pytest.raises(InputError, match=r"i.json: no record has 'title' .*known: item, name"):
        read(path, items="i.json", **named)


def test_a_list_is_so_many_rows(tmp_path):
    rows = [
        {"user": "a", "item": ["x", "y"], "timestamp": [3, 4], "t": ["X", "Y"]},
        {"user": "b", "item": ["x", "z"], "timestamp": 5, "t": "all"},
        {"user": "c", "item": [], "timestamp": 6},
    ]
    path = write(tmp_path / "l.jsonl", *map(json.dumps, rows))
    log, catalog, pairs, _ = read(path, title="t")
    assert pairs == [("a", "x"), ("a", "y"), ("b", "x"), ("b", "z")]
    assert log.timestamps.tolist() == [3, 4, 5, 5]
    assert [catalog[item]["title"] for item in "xyz"] == ["X", "Y", "all"]
    write(path, json.dumps(rows[0] | {"item": "x"}))
    with pytest.raises(InputError, match=r"l.jsonl:1: 'timestamp' is \[3, 4\]; expected seconds"):
        read(path)
    write(path, json.dumps(rows[0] | {"timestamp": [3]}), json.dumps(rows[1]))
    with pytest.raises(InputError, match="l.jsonl:1: 'timestamp' has 1 values; expected 2, as 'it"):
        read(path)
    assert read(path, limit=1)[2] == [("b", "x"), ("b", "z")]  # nothing of the malformed one
    events = [{"aid": 1, "ts": 5000, "type": "view"}, {"aid": 2, "ts": 6000, "type": "buy"}]
    write(path, json.dumps({"session": {"id": 7}, "events": [*events, {"aid": 3, "type": "view"}]}))
    named = {"user": "session.id", "item": "events.aid", "timestamp": "events.ts"}
    log, _, pairs, _ = read(path, **named, time_unit="ms", where="events.type=buy")
    assert pairs == [("7", "2")] and log.timestamps.tolist() == [6]
    with pytest.raises(InputError, match="l.jsonl:1: 'events.ts' is None; expected milliseconds"):
        read(path, **named, time_unit="ms")
    with pytest.raises(InputError, match="no column 'event.aid' .*; known: events, session"):
        read(path, **named | {"item": "event.aid"})
    path = write(tmp_path / "l.csv", "user,item", "a,x y  x", "b,")
    assert read(path, timestamp="", list_separator=" ")[2] == [("a", "x"), ("a", "y"), ("a", "x")]


def test_labels_in_one_text(tmp_path):
    path = write(tmp_path / "l.csv", HEADER, "a,x,1")
    rows = [{"item": "x", "tags": "Food, Tea,"}, {"item": "y", "tags": ["A, B"]}]
    write(tmp_path / "i.jsonl", *map(json.dumps, [*rows, {"item": "z", "tags": None}]))
    catalog = read(path, items="i.jsonl", items_title="", items_lists="tags")[1]
    assert [catalog[item]["tags"] for item in "xyz"] == [["Food", "Tea"], ["A, B"], None]
    write(tmp_path / "i.csv", "item,title,genres", "x,X,Comedy|Sci-Fi", "y,Y,NULL")
    options = {"items_lists": "genres", "items_list_separator": "|"}
    catalog = read(path, items="i.csv", **options)[1]
    assert [catalog[item]["genres"] for item in "xy"] == [["Comedy", "Sci-Fi"], []]
    with pytest.raises(InputError, match=r"i.csv: no column 'tags' .*options.items_lists=tags"):
        read(path, items="i.csv", items_lists="tags")


def test_where(tmp_path):
    lines = ["a,x,1,view", "a,y,2,buy", "b,x,3,fav", "b,y,4,view"]
    path = write(tmp_path / "l.csv", "user,item,timestamp,event", *lines)
    assert read(path, where="event=view|buy, user=a")[2] == [("a", "x"), ("a", "y")]
    for given, message in [
        ("event=vieww", "it keeps no row; 'event' is buy, fav, view"),
        ("events=view", r"no column 'events' .config.data.options.where=events."),
        ("view", "expected COLUMN=VALUE, or COLUMN=VALUE|VALUE, got 'view'"),
    ]:
        with pytest.raises(InputError, match=message):
            read(path, where=given)
    rows = [
        {"user": 1, "item": 2, "timestamp": 3, "click": c, "n": n}
        for c, n in ((True, 1.0), (False, 1))
    ]
    path = write(tmp_path / "l.jsonl", *map(json.dumps, rows))
    assert len(read(path, where="click=true")[0]) == 1 and len(read(path, where="n=1")[0]) == 2


def test_several_files(tmp_path):
    (tmp_path / "b").mkdir()
    write(tmp_path / "b/part-1.csv", HEADER, "a,y,2")
    write(tmp_path / "part-0.csv", HEADER, "a,x,1")
    write(tmp_path / "i.csv", "item,title", "x,X")
    options = table.Options(file="**/part-*.csv", items="i.csv")
    found = [path.relative_to(tmp_path).as_posix() for path in table.files(tmp_path, options)]
    assert found == ["b/part-1.csv", "part-0.csv", "i.csv"]
    assert read(tmp_path, file="**/part-*.csv")[2] == [("a", "y"), ("a", "x")]
    with pytest.raises(InputError, match=r"options.file: no file .*/\*.tsv"):
        read(tmp_path, file="*.tsv")


def test_encodings(tmp_path):
    lines = ["user,item,timestamp,t", "a,x,1,Café"]
    path = write(tmp_path / "l.csv", *lines, encoding="latin-1")
    with pytest.raises(InputError, match=r"l.csv:2: .*0xe9.; config.data.options.encoding=latin-1"):
        read(path, title="t")
    assert read(path, title="t", encoding="latin-1")[1] == {"x": {"title": "Café"}}
    for name in ("utf-16", "latin1000"):
        with pytest.raises(InputError, match=f"options.encoding: no encoding '{name}'"):
            read(path, encoding=name)


def test_quotes_behind_backslashes(tmp_path):
    lines = [r'a,x,1,"\"O\" is, \\"', r"a,y,2,\N"]
    path = write(tmp_path / "l.csv", "user,item,timestamp,t", *lines)
    with pytest.raises(InputError, match="l.csv:2: not csv .*options.escaped=True reads"):
        read(path, title="t")
    catalog = read(path, title="t", escaped=True)[1]
    assert catalog == {"x": {"title": '"O" is, \\'}, "y": {"title": None}}


def test_formats_of_times(tmp_path):
    path = write(tmp_path / "l.tsv", HEADER.replace(",", "\t"), "a\tx\t11/12/2019 9:05:58 PM")
    known = "time_format reads it: %m/%d/%Y %I:%M:%S %p or %d/%m/%Y %I:%M:%S %p"
    with pytest.raises(InputError, match=f"l.tsv:2: 'timestamp' is '11/.*{known}"):
        read(path)
    assert read(path, time_format="%m/%d/%Y %I:%M:%S %p")[0].timestamps.tolist() == [1573592758]
    with pytest.raises(InputError, match="expected a time such as %d.%m.%Y .*options.time_format"):
        read(path, time_format="%d.%m.%Y")
    write(path, HEADER.replace(",", "\t"), "a\tx\tTue Apr 03 18:00:09 +0200 2012")
    with pytest.raises(InputError, match="time_format reads it: %a %b %d %H:%M:%S %z %Y"):
        read(path)
    log = read(path, time_format="%a %b %d %H:%M:%S %z %Y")[0]
    assert log.timestamps.tolist() == [1333468809]


def test_lists_of_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    times = pyarrow.array([[1_000_000_001, 2_000_000_000]], pyarrow.list_(pyarrow.timestamp("ns")))
    path = write_parquet(tmp_path / "l.parquet", user=[5], item=[[1, 2]], timestamp=times)
    log, _, pairs, _ = read(path)
    assert pairs == [("5", "1"), ("5", "2")] and log.timestamps.tolist() == [1, 2]
    nested = [[{"item": 3, "at": datetime.datetime(1970, 1, 1, 0, 0, 9)}]]
    path = write_parquet(tmp_path / "l.parquet", user=[5], events=nested)
    log, _, pairs, _ = read(path, item="events.item", timestamp="events.at")
    assert pairs == [("5", "3")] and log.timestamps.tolist() == [9]


def test_uuids_of_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    user = uuid.UUID(int=7)
    stored = pyarrow.array([user.bytes], pyarrow.binary(16))
    column = pyarrow.ExtensionArray.from_storage(pyarrow.uuid(), stored)
    path = write_parquet(tmp_path / "l.parquet", user=column, item=["x"], timestamp=[1])
    assert read(path)[2] == [(str(user), "x")]
