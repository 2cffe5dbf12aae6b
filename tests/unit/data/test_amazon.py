"""Amazon files beyond the plain case: broken reviews, and metadata as crawled."""

import json

import pytest

from recjax.data.filters import count_duplicates
from recjax.data.interactions import BadRows
from recjax.data.sources import amazon
from recjax.errors import InputError

REVIEW = {"reviewerID": "U", "asin": "A", "overall": 5.0, "unixReviewTime": 100}
REVIEW_2023 = {"user_id": "U", "parent_asin": "P", "rating": 4.0, "timestamp": 1588687728923}


def read(path, limit=0, **options):
    bad = BadRows(limit)
    return *amazon.read(path, amazon.Options(**options), bad), bad


def write(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize("review", [REVIEW, REVIEW_2023])
@pytest.mark.parametrize("value", [None, "", "soon"])
def test_every_field_is_needed(tmp_path, review, value):
    for field in review:
        if value == "soon" and not isinstance(review[field], float | int):
            continue  # any text is an id
        path = write(tmp_path / "r.json", review, {**review, field: value})
        with pytest.raises(InputError, match=rf"r\.json:2: '{field}' is .*; expected "):
            read(path)
        assert len(read(path, limit=1)[0]) == 1
    missing = {key: review[key] for key in list(review)[1:]}
    with pytest.raises(InputError, match=r"r\.json:1: '\w+' is None; expected an id"):
        read(write(tmp_path / "r.json", missing))


def test_milliseconds_become_seconds(tmp_path):
    log, catalog, _ = read(write(tmp_path / "r.jsonl", REVIEW_2023))
    assert log.timestamps.tolist() == [1588687728] and log.item_keys == ["P"] and catalog == {}


def test_a_folder_needs_the_files_name(tmp_path):
    with pytest.raises(InputError, match=r"config\.data\.options\.reviews: .* is a folder"):
        read(tmp_path)
    write(tmp_path / "r.json", REVIEW)
    with pytest.raises(InputError, match=r"no m\.json \(or m\.json\.gz\) there"):
        read(tmp_path, reviews="r.json", metadata="m.json")


def catalog_of(tmp_path, *records, limit=0):
    write(tmp_path / "m.json", *records)
    path = write(tmp_path / "r.json", REVIEW)
    return read(path, limit, metadata="m.json")[1:]


def test_metadata_is_text_without_page_code(tmp_path):
    record = {
        "asin": "A",
        "title": "Salt &amp;\n  Pepper <br />&lt;b&gt;Set&lt;/b&gt; 2 < 3",
        "brand": "by\n    \n    Apple",
        "category": ["Gift Cards", "</span></span></span>", "A &amp; B"],
        "description": ["", "<p class='x'>Nice.</p>"],
        "price": '<div class="a-section a-spacing-none"',
        "feature": ["left out"],
    }
    code = "var aPageStart = (new Date()).getTime();\nvar ue_t0=ue_t0||+new Date();"
    junk = {"asin": "B", "title": code, "price": ".a-box-inner{color:#fff}", "description": []}
    old = {"asin": "C", "categories": [["Beauty", "Skin"]], "price": 6.99, "description": "Soft"}
    assert catalog_of(tmp_path, record, junk, old)[0] == {
        "A": {
            "title": "Salt & Pepper Set 2 < 3",
            "brand": "Apple",
            "categories": ["Gift Cards", "A & B"],
            "description": ["Nice."],
        },
        "B": {"title": None},
        "C": {
            "title": None,
            "categories": [["Beauty", "Skin"]],
            "description": "Soft",
            "price": 6.99,
        },
    }


def test_of_repeated_items_a_titled_one_counts(tmp_path):
    records = [{"asin": 7, "title": "T"}, {"asin": 7, "title": ""}, {"parent_asin": "P"}]
    catalog, _ = catalog_of(tmp_path, *records)
    assert catalog == {"7": {"title": "T"}, "P": {"title": None}}
    with pytest.raises(InputError, match=r"m\.json:1: 'asin' is None; expected an id"):
        catalog_of(tmp_path, {"title": "T"})
    assert catalog_of(tmp_path, {"title": "T"}, limit=1)[1].count == 1


def test_gift_cards_hold_duplicates_and_clean_text(data_root):
    options = {"reviews": "Gift_Cards_5.json.gz", "metadata": "meta_Gift_Cards.json.gz"}
    log, catalog, _ = read(data_root / "amazon-2018-gift-cards", **options)
    assert count_duplicates(log) == 7
    assert all(catalog[key]["title"] for key in log.item_keys)
    assert catalog["B0093DHOA4"] == {
        "title": "Microsoft Xbox 52M-00158 X360 Live 12 month Gold Card",
        "brand": "Microsoft",
        "categories": ["Gift Cards", "Gift Cards"],
        "description": ["Xbox360 Live 12 month Gold Card"],
    }
    assert not [key for key, item in catalog.items() if "</" in str(item) or "a-box" in str(item)]


def test_a_csv_of_ratings_is_the_table_readers(tmp_path):
    (tmp_path / "ratings_Beauty.csv").write_text("A1,B1,5.0,1393545600\n")
    with pytest.raises(
        InputError, match=r"config\.data\.source=table reads .*options\.columns names"
    ):
        read(tmp_path / "ratings_Beauty.csv")


def test_what_two_records_know_is_put_together(tmp_path):
    records = [{"asin": "A", "title": "T", "brand": ""}, {"asin": "A", "title": "U", "brand": "B"}]
    assert catalog_of(tmp_path, *records)[0] == {"A": {"title": "T", "brand": "B"}}
