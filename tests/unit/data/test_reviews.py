"""The texts of reviews beside a store; those of Amazon are in the tests of explanations."""

import json

import pytest

from recjax.data.prepare import DataConfig, prepare
from recjax.data.reviews import read_reviews
from recjax.errors import InputError


def test_reviews_have_the_names_of_the_stores_table(tmp_path):
    rows = [("a", "x", "01.02.2020", "Good\n tea"), ("a", "x", "03.02.2020", "Better")]
    rows += [("b", "x", "02.02.2020", "Bad"), ("b", "y", "02.02.2020", "")]
    names = ("user_id", "business_id", "day", "text")
    path = tmp_path / "r.json"
    path.write_text("".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows))
    options = {"user": "user_id", "item": "business_id", "timestamp": "day"}
    options["time_format"] = "%d.%m.%Y"
    store = prepare(DataConfig("table", str(tmp_path / "store"), str(path), options))
    reviews = read_reviews(path, store)
    assert reviews.bodies == ["Good tea", "Better", "Bad", ""]
    path.write_text('{"user_id": "a", "business": "x", "text": "T"}\n')
    with pytest.raises(
        InputError, match="r.json:1: no item's id; expected one of business_id, parent_asin"
    ):
        read_reviews(path, store)


def test_rows_that_the_log_left_out(tmp_path):
    """The reviews are the log itself, with the same bad rows."""
    rows = [{"user": "a", "item": "x", "text": "Good"}, {"user": None, "item": "x", "text": "?"}]
    path = tmp_path / "r.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\noops\n")
    log = {"path": str(path), "options": {"timestamp": ""}, "skip_bad_rows": 2}
    store = prepare(DataConfig("table", str(tmp_path / "store"), **log))
    assert store.manifest["bad_rows"]["limit"] == 2
    assert read_reviews(path, store).bodies == ["Good"]
    path.write_text(path.read_text() + "oops\n")
    with pytest.raises(InputError, match="r.jsonl:4: expected a JSON object"):
        read_reviews(path, store)
    path.write_text(json.dumps({"user": "c", "item": "x", "text": "T"}))
    with pytest.raises(InputError, match=r"config.text.reviews: .*r.jsonl: no review of a user"):
        read_reviews(path, store, "config.text.reviews")


def test_reviews_of_any_table(tmp_path):
    rows = [("a", "x", "Good\ntea", "Tea!"), ("b", "x", "Bad", "")]
    nested = [
        {"who": {"id": user}, "item": item, "review": {"Text": body, "headline": head}}
        for user, item, body, head in rows
    ]
    log = tmp_path / "log.jsonl"
    log.write_text("\n".join(map(json.dumps, nested)))
    options = {"user": "who.id", "item": "item", "timestamp": ""}
    store = prepare(DataConfig("table", str(tmp_path / "nested"), str(log), options))
    found = read_reviews(log, store)
    assert (found.bodies, found.headlines) == (["Good tea", "Bad"], ["Tea!", ""])
    log = tmp_path / "log.csv"  # without a header
    lines = ["a;x;'Good\ntea';Tea!".replace("'", '"'), "b;x;Bad;"]
    log.write_text("\n".join(lines))
    options = {"columns": "user,item,Review Text,title", "separator": ";", "timestamp": ""}
    store = prepare(DataConfig("table", str(tmp_path / "flat"), str(log), options))
    found = read_reviews(log, store)
    assert (found.bodies, found.headlines) == (["Good tea", "Bad"], ["Tea!", ""])
    other = tmp_path / "reviews.csv"
    other.write_text("user,item,comment\nb,x,Worse\n")
    assert read_reviews(other, store).bodies == ["", "Worse"]


@pytest.mark.parametrize(("title", "lines"), [
    ("title", ["user,item,text,title,headline", "a,x,Good,Tea,Tea!", "b,x,Bad,New tea,"]),
    ("on.title", [
        '{"user": "a", "item": "x", "on": {"title": "Tea", "text": "Good", "headline": "Tea!"}}',
        '{"user": "b", "item": "x", "on": {"title": "New tea", "text": "Bad"}}',
    ]),
])  # fmt: skip
def test_an_items_title_is_no_headline(tmp_path, title, lines):
    """In the store's log, where items may have several; elsewhere a title may be a headline."""
    log = tmp_path / ("log.csv" if title == "title" else "log.jsonl")
    log.write_text("\n".join(lines))
    options = {"title": title, "timestamp": ""}
    store = prepare(DataConfig("table", str(tmp_path / "store"), str(log), options))
    found = read_reviews(log, store)
    assert store.titles[1] == "Tea" and found.bodies == ["Good", "Bad"]
    assert found.headlines == ["Tea!", ""]
    other = tmp_path / "reviews.csv"
    other.write_text("user,item,text,title\na,x,Good,Tea\nb,x,Bad,No tea\n")
    assert read_reviews(other, store).headlines == ["", "No tea"]
