"""What is an id, a title, a time and a rating is the same for every reader: one table of inputs,
all layouts."""

import json

import pytest

from recjax.data.store import write_store
from recjax.errors import InputError
from recjax.testing.layouts import ITEMS, LAYOUTS, ROWS

NAN = float("nan")
ALL = pytest.mark.parametrize("name", LAYOUTS)
TYPED = [name for name, layout in LAYOUTS.items() if layout.typed]
TIMED = [name for name, layout in LAYOUTS.items() if "time" in layout.names]
MOVIELENS = [name for name in LAYOUTS if name.startswith("ml-")]


def changed(field, value, rows=ROWS):
    """The rows with another value in the second one."""
    return [rows[0], {**rows[1], field: value}, *rows[2:]]


def pairs(log):
    return [(log.user_keys[u], log.item_keys[i]) for u, i in zip(log.users, log.items, strict=True)]


def plain(name, tmp_path):
    """The log and the catalogue of the rows and items as they stand."""
    log, catalog = LAYOUTS[name].read(tmp_path)
    titles = {item: known["title"] for item, known in catalog.items()}
    return pairs(log), titles


@ALL
def test_the_layouts_hold_the_same(tmp_path, name):
    expected = [(row["user"], row["item"]) for row in ROWS]
    assert plain(name, tmp_path) == (expected, {"10": "Tea", "11": "Pot"})


def refused(tmp_path, name, field, value, reason):
    """The second row is a bad one, that is named with its column, and can be passed over."""
    layout = LAYOUTS[name]
    rows = changed(field, value)
    if name == "parquet" and field in ("user", "item") and isinstance(value, float | bool | list):
        rows = [{**row, field: value} for row in rows]  # a column has one type
    if name == "sequences":
        rows = [rows[0], {"user": "3", "item": "11"} | {field: value}, rows[2]]
    with pytest.raises(InputError) as error:
        layout.read(tmp_path, rows)
    column = layout.names[field]
    assert f"'{column}' is " in str(error.value) and reason in str(error.value)
    assert "\x1b" not in str(error.value) and len(str(error.value)) < 400
    if rows[0][field] == ROWS[0][field]:
        log, _ = layout.read(tmp_path, rows, limit=1)
        assert len(log) == 2 and "nan" not in log.user_keys + log.item_keys


WRITTEN = ["", "nan", "NaN", "NULL", "None", "<NA>", "\\N"]


@pytest.mark.parametrize(
    ("name", "value"),  # of sequences, blanks separate the ids
    [(n, v) for n in LAYOUTS if n not in TYPED for v in WRITTEN if v or n != "sequences"],
)
@pytest.mark.parametrize("field", ["user", "item"])
def test_written_missing_ids(tmp_path, name, field, value):
    refused(tmp_path, name, field, value, "expected an id")


@pytest.mark.parametrize("name", TYPED)
@pytest.mark.parametrize("field", ["user", "item"])
@pytest.mark.parametrize("value", [None, NAN, "nan", "NA", " ", True, [["1"]]])
def test_what_is_no_id(tmp_path, name, field, value):
    refused(tmp_path, name, field, value, "; expected ")


@ALL
@pytest.mark.parametrize(("value", "reason"), [("a\x1b[2Jb", "control"), ("x" * 10**6, "at most")])
def test_ids_with_control_characters_and_endless_ones(tmp_path, name, value, reason):
    refused(tmp_path, name, "user", value, reason)


@pytest.mark.parametrize("name", TYPED)
def test_numbers_pass_for_ids(tmp_path, name):
    for kind in (int, float):
        rows = [{**row, "user": kind(row["user"]), "item": kind(row["item"])} for row in ROWS]
        items = [{**item, "item": kind(item["item"])} for item in ITEMS]
        log, catalog = LAYOUTS[name].read(tmp_path, rows, items)
        assert log.user_keys == ["1", "2"] and list(catalog) == log.item_keys == ["10", "11"]


def test_bytes_are_utf_8(tmp_path):
    layout = LAYOUTS["parquet"]
    rows = [{**row, "user": "Zoë".encode(), "item": row["item"].encode()} for row in ROWS]
    items = [{"item": item["item"].encode(), "title": "Café".encode()} for item in ITEMS]
    log, catalog = layout.read(tmp_path, rows, items)
    assert log.user_keys == ["Zoë"] and catalog["10"] == {"title": "Café"}
    with pytest.raises(InputError, match=r"log.parquet:2: 'user' is b'\\xe9'; expected UTF-8"):
        layout.read(tmp_path, changed("user", b"\xe9", rows))


@ALL
@pytest.mark.parametrize(
    ("value", "title"),
    [
        ("Tom &amp; Jerry", "Tom & Jerry"),
        ("Tom &amp;amp; Jerry", "Tom & Jerry"),
        ("AT&T &copy 3 &unknown;", "AT&T &copy 3 &unknown;"),
        ("  Two   blanks ", "Two blanks"),
        ("Bell\x07 and \x1b[1mbold", "Bell and [1mbold"),
        ("Kitty 😺", "Kitty 😺"),
        ("nan", None),
        (" ", None),
        ("300", "300"),
        ("x" * 140_000, "x" * 140_000),
    ],
)
def test_titles(tmp_path, name, value, title):
    _, catalog = LAYOUTS[name].read(tmp_path, items=[{"item": "10", "title": value}, ITEMS[1]])
    assert catalog["10"]["title"] == title and catalog["11"]["title"] == "Pot"


@pytest.mark.parametrize("name", [*TYPED, "jsonl", "sequences"])
@pytest.mark.parametrize(
    ("value", "title"), [(None, None), (NAN, None), (300, "300"), (300.0, "300"), (1.5, "1.5")]
)
def test_titles_of_other_kinds(tmp_path, name, value, title):
    items = [{"item": "10", "title": value}, {"item": "11", "title": value}]
    log, catalog = LAYOUTS[name].read(tmp_path, items=items)
    assert catalog["10"]["title"] == title
    store = write_store(tmp_path / "store", log, catalog, {})
    for line in (store.path / "catalog.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)
    assert store.titles == [None, title, title]


@pytest.mark.parametrize("name", [*TYPED, "jsonl", "sequences"])
@pytest.mark.parametrize("value", [True, ["Tea"]])
def test_titles_that_are_none(tmp_path, name, value):
    items = [{"item": "10", "title": value}, {"item": "11", "title": value}]
    with pytest.raises(InputError, match=r":\d: 'title' is .*; expected text or a number"):
        LAYOUTS[name].read(tmp_path, items=items)


@ALL
@pytest.mark.parametrize("first", [0, 1])
def test_an_item_again_without_its_title_keeps_it(tmp_path, name, first):
    again = [{"item": "10", "title": "Tea"}, {"item": "10", "title": ""}]
    items = [again[first], again[1 - first], {"item": "10", "title": "Other"}, ITEMS[1]]
    _, catalog = LAYOUTS[name].read(tmp_path, items=items)
    assert catalog["10"]["title"] == "Tea"


@pytest.mark.parametrize("name", [n for n in TIMED if not n.startswith("steam")])
def test_fractions_of_a_second_order_the_rows(tmp_path, name):
    rows = [
        {"user": "1", "item": item, "time": time, "rating": 1.0}
        for item, time in (("12", 100.75), ("10", 100.25), ("11", 100.5), ("13", 99.875))
    ]
    log, catalog = LAYOUTS[name].read(tmp_path, rows)
    store = write_store(tmp_path / "store", log, catalog, {})
    assert [store.catalog[i]["key"] for i in store.items] == ["13", "10", "11", "12"]
    assert store.timestamps.tolist() == [99, 100, 100, 100]


@pytest.mark.parametrize("name", TIMED)
def test_written_fractions_of_a_second_order_the_rows(tmp_path, name):
    times = ["1970-01-01T00:01:40.000000002", "1970-01-01 00:01:40.000000001Z"]
    rows = [{"user": "1", "item": i, "time": t, "rating": 1.0} for i, t in zip("ab", times)]  # noqa: B905
    if name in MOVIELENS:
        rows = [{**row, "item": str("ab".index(row["item"]))} for row in rows]
    log, _ = LAYOUTS[name].read(tmp_path, rows)
    assert log.timestamps.tolist() == [100, 100] and log.nanoseconds.tolist() == [2, 1]


@pytest.mark.parametrize("name", [n for n in TIMED if n != "parquet"])
@pytest.mark.parametrize(
    "value", [-1, 253402300800, "1e30", "nan", "inf", "soon", "", "1_0", "9" * 5000]
)
def test_times_that_are_none(tmp_path, name, value):
    refused(tmp_path, name, "time", value, "from 1970 to 9999")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (name, value)
        for name in TIMED
        if "rating" in LAYOUTS[name].names
        for value in (1e39, NAN, float("inf"), "good", "", "1_0", "4;5")
        if name != "parquet" or isinstance(value, float)  # a column has one type
    ],
)
def test_ratings_that_are_none(tmp_path, name, value):
    refused(tmp_path, name, "rating", value, "expected a number")


@pytest.mark.parametrize("name", [n for n in LAYOUTS if LAYOUTS[n].text])
@pytest.mark.parametrize("end", ["\n", "\n\n\r\n", "  \n\t\n", "\n \t"])
def test_blank_lines_at_the_end_are_no_rows(tmp_path, name, end):
    layout = LAYOUTS[name]
    expected = plain(name, tmp_path)
    path, options = layout.write(tmp_path, ROWS, ITEMS)
    for file in layout.text:
        text = (tmp_path / file).read_bytes().replace(b"\n", b"\r\n")
        (tmp_path / file).write_bytes(b"\xef\xbb\xbf" + text + end.encode())
    log, catalog = layout.reread(path, options)
    assert (pairs(log), {item: known["title"] for item, known in catalog.items()}) == expected
    (tmp_path / layout.text[0]).write_bytes(b"\r\n \n")
    with pytest.raises(InputError, match="the file is empty"):
        layout.reread(path, options)


@pytest.mark.parametrize("name", ["amazon-2014", "amazon-2023", "steam", "jsonl", "sequences"])
@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (f'{{"x": {"[" * 100_000}{"]" * 100_000}}}', "nested too deep"),
        (f'{{"item": "10", "item_id": "10", "asin": "10", "x": {"[" * 99}{"]" * 99}}}', ""),
        ("[", "expected a JSON object"),
        ('"text"', "expected a JSON object"),
    ],
)  # fmt: skip
def test_lines_that_are_no_records(tmp_path, name, line, reason):
    layout = LAYOUTS[name]
    path, options = layout.write(tmp_path, ROWS, ITEMS)
    with (tmp_path / layout.text[1]).open("a") as file:
        file.write(line + "\n")
    if not reason and name.startswith("amazon"):
        assert list(layout.reread(path, options)[1]) == ["10", "11"]  # it takes no such field
        return
    with pytest.raises(InputError, match=f":3: .*{reason or 'nested too deep'}"):
        layout.reread(path, options)
    assert list(layout.reread(path, options, limit=1)[1]) == ["10", "11"]


@pytest.mark.parametrize("name", ["amazon-2014", "amazon-2023", "steam", "jsonl", "sequences"])
def test_numbers_of_more_digits_than_python_reads(tmp_path, name):
    layout = LAYOUTS[name]
    path, options = layout.write(tmp_path, ROWS, ITEMS)
    with (tmp_path / layout.text[1]).open("a") as file:
        ids = '"item": "12", "item_id": "12", "asin": "12"'
        file.write(f'{{{ids}, "title": "Cup", "other": {"9" * 5000}}}\n')
    assert layout.reread(path, options)[1]["12"]["title"] == "Cup"
