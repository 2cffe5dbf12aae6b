"""Values that no file format of the tests' layouts can spell; the rest is in test_readers.py."""

import datetime
from decimal import Decimal

import numpy as np
import pytest

from recjax.data.sources._values import add_item, field, key, number, plain, shown, text, title


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.int64(7), "7"),
        (np.float32(7), "7"),
        (np.float64("nan"), ""),
        (np.str_(" x "), "x"),
        (np.bytes_(b"x"), "x"),
        (Decimal("300.00"), "300"),
        (Decimal("1.50"), "1.50"),
        (Decimal("nan"), ""),
        (-0.0, "0"),
        (b" NULL ", ""),
        ("\ud83d\ude3a", "😺"),
    ],
)
def test_text(value, expected):
    assert text(value) == expected


@pytest.mark.parametrize(
    "value",
    [True, np.bool_(True), [], {}, b"\xe9", float("inf"), 2.0**53, 10**500, Decimal("1e999999"),
     Decimal("1e-999999"), datetime.date(2020, 1, 1), np.array([1])],
)  # fmt: skip
def test_what_is_no_text(value):
    for kind in (text, key, title):
        with pytest.raises(ValueError, match=r"'x' is .*; expected "):
            field("x", kind, value)


@pytest.mark.parametrize("value", ["\ud83d", "a\x00b", "a\u2028b", "a\x9bb"])
def test_ids_are_one_line_of_characters(value):
    with pytest.raises(ValueError, match="without control characters"):
        key(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(np.float32(2.5), 2.5), (" -1e3 ", -1000), (b"4", 4), (Decimal("0.5"), 0.5), (".5", 0.5)],
)
def test_numbers(value, expected):
    assert number(value) == expected


@pytest.mark.parametrize(
    "value", [None, True, "٣", "0x10", "1e999", 10**400, Decimal("nan"), "4 5"]
)
def test_what_is_no_number(value):
    with pytest.raises(ValueError, match="expected a number"):
        number(value)


def test_what_else_is_known_of_an_item():
    day = datetime.date(2020, 1, 2)
    raw = [b"caf\xc3\xa9", float("nan"), float("inf"), np.float32(1.5), Decimal("2.5"), True, day,
           {"a &amp; b": "x &lt; y\n"}, np.array([1, 2]), "N/A", "half \ud83d"]  # fmt: skip
    assert plain(raw) == ["café", None, None, 1.5, 2.5, True, "2020-01-02",
                          {"a &amp; b": "x < y\n"}, [1, 2], None, "half ?"]  # fmt: skip
    with pytest.raises(ValueError, match="expected text, a number or a list"):
        plain(object())


def test_of_several_records_the_first_known_value_counts():
    catalog = {}
    for found in ({"title": "", "tags": []}, {"title": "Tea", "tags": ["a"]}, {"title": "Cup"}):
        add_item(catalog, "x", found)
    add_item(catalog, "x", {"tags": ["b"], "price": 2})
    assert catalog == {"x": {"title": "Tea", "tags": ["a"], "price": 2}}
    with pytest.raises(ValueError, match="'title' is True; expected text or a number"):
        add_item(catalog, "x", {"title": True})


def test_values_are_shown_short_and_on_one_line():
    assert shown("a\x1b\nb") == r"'a\x1b\nb'"
    assert len(shown("x" * 10**6)) < 100 and len(shown(list(range(10**4)))) < 100
    assert shown(10**5000) == "a int"
