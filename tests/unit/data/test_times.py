"""Times that no file format of the tests' layouts can spell; formats are in test_table.py."""

import datetime
import time
from decimal import Decimal

import numpy as np
import pytest

from recjax.data.sources._times import moment, moment_of


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        ("0.000000001", "s", (0, 1)),
        ("1.9999999999999999999999", "s", (1, 999_999_999)),
        ("1e2", "s", (100, 0)),
        (Decimal("1.25"), "s", (1, 250_000_000)),
        (1588687728923, "ms", (1588687728, 923_000_000)),
        ("1588687728923.5", "ms", (1588687728, 923_500_000)),
        (1588687728923.0, "ms", (1588687728, 923_000_000)),
        (np.int64(1577923200123456789), "ns", (1577923200, 123_456_789)),
        ("1970-01-01T00:00:01,5", "s", (1, 500_000_000)),
        ("1970-01-01 00:00:01.5 UTC", "s", (1, 500_000_000)),  # as BigQuery writes it
        ("1970-01-01T01:00:00.123456789123+01:00", "s", (0, 123_456_789)),
        (datetime.datetime(1970, 1, 1, 0, 0, 1, 7), "s", (1, 7000)),
        (datetime.date(9999, 12, 31), "ns", (253402214400, 0)),
    ],
)
def test_moments(value, unit, expected):
    assert moment(value, unit) == expected


def test_times_without_a_zone_are_utc_wherever_they_are_read(monkeypatch):
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        for value in ("1970-01-02 00:00", "1970-01-02", datetime.datetime(1970, 1, 2)):
            assert moment(value) == (86400, 0)
        assert moment_of("t", "02/01/1970", "s", "%d/%m/%Y") == (86400, 0)
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    "value",
    [None, True, [], b"\xff", float("nan"), float("inf"), -0.5, "-1e-9", "1e999", "1" * 10**6,
     Decimal("1e99999999"), "1969-12-31", datetime.date(1, 1, 1), "10000-01-01", "2020-02-30"],
)  # fmt: skip
def test_what_is_no_moment(value):
    with pytest.raises(ValueError, match=r"expected (seconds or an ISO|UTF-8)"):
        moment(value)
