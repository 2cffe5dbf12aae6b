"""Numbers as readers see them, and ticks that span any data."""

import math

import pytest

from recjax.report.numbers import axis, finite, format_number, format_percent, format_short


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),  # noqa: RUF001
        (0, "0"),
        (1682, "1,682"),
        (-100000, "-100,000"),
        (10**20, "100,000,000,000,000,000,000"),
        (0.97894736, "0.9789"),
        (0.5, "0.5000"),
        (0.03157, "0.03157"),
        (-0.137837, "-0.1378"),
        (52.631578, "52.63"),
        (0.0, "0.000"),
        (-0.0, "0.000"),
        (999.94, "999.9"),
        (999.97, "1,000"),
        (4263.6, "4,264"),
        (123456.7, "123,457"),
        (1.25e-7, "1.250e-07"),
        (1e300, "1.000e+300"),
        (math.nan, "nan"),
        (math.inf, "inf"),
    ],
)
def test_format_number(value, text):
    assert format_number(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.7474, "74.7%"), (0.2, "20%"), (1, "100%"), (0, "0%"), (-0.0001, "0%")]
)
def test_format_percent(value, text):
    assert format_percent(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(95, "95"), (0.92, "0.92"), (-0.0801, "-0.0801"), (12345.6, "12,346"), (2.5e7, "2.5e+07")],
)
def test_format_short(value, text):
    assert format_short(value) == text


def test_finite():
    assert [finite(v) for v in (1, 2.5, -3)] == [1.0, 2.5, -3.0]
    assert [finite(v) for v in (None, math.nan, math.inf, "1", True, 10**400, -1e301)] == [None] * 7


def test_ticks_are_round():
    assert axis(0.0, 0.2616)[1] == ["0.0", "0.1", "0.2", "0.3"]
    assert axis(112, 2576)[1] == ["0", "500", "1,000", "1,500", "2,000", "2,500", "3,000"]
    assert axis(-0.08, 0.92)[1] == ["-0.2", "0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]
    assert axis(0, 1e9)[1][1] == "2e+08"


@pytest.mark.parametrize(
    ("low", "high"),
    [(0, 1), (3, 3), (0, 0), (-5, -5), (-7.3, 12), (1e-9, 3e-9), (-1e300, 1e300), (0, 5e-324)]
    + [(1.0, 1.0 + 1e-14), (1e-310, 1e-310), (0.9999, 1.0001), (123456, 123457)],
)
def test_ticks_span_the_numbers(low, high):
    ticks, labels = axis(low, high)
    assert ticks[0] <= low and high <= ticks[-1] and ticks[0] < ticks[-1]
    assert 3 <= len(ticks) <= 9 and len(set(labels)) == len(labels) == len(ticks)
    assert all(map(math.isfinite, ticks)) and ticks == sorted(ticks)
