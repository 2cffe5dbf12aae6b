"""Times in raw files: numbers in a unit, ISO dates and times, other formats. All readers ask here.

What is no time is a `ValueError` that says what was expected, and what would read the value.
"""

import datetime
import decimal
import functools
import itertools
import math
import re
from decimal import Decimal
from fractions import Fraction
from typing import Any, Literal, NamedTuple

from recjax.data.sources._values import NUMBER, field, number, scalar, shown, text

YEAR_10000 = 253402300800  # in seconds
UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
TimeUnit = Literal["s", "ms", "us", "ns", "date"]  # of times that are numbers; date: 20240301
_UNIT_NAMES = {
    "s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds",
    "date": "a date such as 20240301",
}  # fmt: skip
_FRACTION = re.compile(r"(?<=:\d\d)[.,](\d+)", re.ASCII)  # of a time's seconds
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


class Time(NamedTuple):
    """Seconds since 1970 (UTC), and the nanoseconds beyond them."""

    seconds: int
    nanoseconds: int = 0


def moment(value: Any, unit: TimeUnit = "s") -> Time:
    """A time from a number, or from a date or a time (UTC unless it says otherwise), to the
    nanosecond.

    Args:
        value: a number or its text, an ISO date or time, one of Python's, a `Time`.
        unit: of numbers.

    Raises:
        ValueError: it is none of these, or lies before 1970 or after 9999.
    """
    if unit == "s":  # the usual kinds first
        if type(value) is int and 0 <= value < YEAR_10000:
            return Time(value)
        if type(value) is str and len(value) < 12 and value.isdigit() and value.isascii():
            return Time(int(value))
    value = scalar(value)
    found: Time | None = None
    try:
        if isinstance(value, Time):
            found = value
        elif isinstance(value, datetime.date):  # of which a datetime is one kind
            found = _of_date(value)
        elif isinstance(value, str):
            found = _of_text(value.strip(), unit)
        elif isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
            found = _of_number(value, unit)
    except (ValueError, OverflowError, decimal.InvalidOperation):
        pass
    if found is None or not 0 <= found.seconds < YEAR_10000:
        raise ValueError(f"expected {_UNIT_NAMES[unit]} or an ISO date or time, from 1970 to 9999")
    return found


def moment_of(name: str, value: Any, unit: TimeUnit, form: str | None = None) -> Time:
    """The `moment` of a column, for readers whose options have the `time_unit`; `Time(0)` of "".

    Args:
        name: of the column.
        value: see `moment`.
        unit: of numbers.
        form: the option `time_format`, of Python's strptime; None = the reader has no such option.
    """
    if not name:
        return Time(0)
    if form:
        return field(name, _formatted, value, form)
    try:
        return moment(value, unit)
    except ValueError as error:
        known = _known_forms(value) if isinstance(value, str) and form is not None else ""
        hint = _other_unit(value) or known
        message = (
            f"'{name}' is {shown(value)}; {error} (config.data.options.time_unit: {unit}){hint}"
        )
        raise ValueError(message) from None


def _formatted(value: Any, form: str) -> Time:
    try:
        found = _of_date(datetime.datetime.strptime(text(value), form))
    except (ValueError, OverflowError):
        found = Time(-1)
    if not 0 <= found.seconds < YEAR_10000:
        raise ValueError(f"expected a time such as {form} (config.data.options.time_format)")
    return found


_FORMS = [
    "%a %b %d %H:%M:%S %z %Y", "%a %b %d %H:%M:%S %Y", "%a, %d %b %Y %H:%M:%S %z",
    "%d/%b/%Y:%H:%M:%S %z",
    *map(" ".join, itertools.product(
        ("%m/%d/%Y", "%d/%m/%Y", "%m/%d/%y", "%d/%m/%y", "%d.%m.%Y", "%Y/%m/%d", "%m-%d-%Y",
         "%d-%m-%Y", "%b %d, %Y", "%B %d, %Y", "%d %b %Y", "%d-%b-%Y"),
        ("", "%H:%M", "%H:%M:%S", "%I:%M %p", "%I:%M:%S %p"),
    )),
]  # fmt: skip


def _other_unit(value: Any) -> str:
    """A hint that names the unit in which a number lies between 1990 and 2100."""
    for unit in ("s", "ms", "us", "ns"):
        try:
            found = moment(number(value) if isinstance(value, str) else value, unit)
        except ValueError:
            continue
        if 631152000 <= found.seconds < 4102444800:
            year = 1970 + found.seconds // 31556952
            return f"; config.data.options.time_unit={unit} makes it one of {year}"
    return ""


@functools.lru_cache(256)  # malformed rows may be many
def _known_forms(value: str) -> str:
    """A hint that names the formats which read a text."""

    def reads(form: str) -> bool:
        try:
            return bool(_formatted(value, form))
        except ValueError:
            return False

    found = [form.strip() for form in _FORMS if reads(form.strip())]
    return f"; config.data.options.time_format reads it: {' or '.join(found)}" if found else ""


def _of_date(value: datetime.date) -> Time:
    if not isinstance(value, datetime.datetime):
        value = datetime.datetime(value.year, value.month, value.day)
    if value.tzinfo is None:
        value = value.replace(tzinfo=datetime.UTC)
    passed = value - _EPOCH
    return Time(passed.days * 86400 + passed.seconds, passed.microseconds * 1000)


def _of_text(value: str, unit: TimeUnit) -> Time:
    if value.isascii() and value.isdigit():
        return _of_number(int(value[:40]), unit)  # 40 digits are out of range, as more are
    if len(value) > 100:
        raise ValueError
    if NUMBER.fullmatch(value):
        return _of_number(Fraction(value), unit)
    value = value.removesuffix(" UTC")  # as times without a zone are
    fraction = _FRACTION.search(value)
    if not fraction:
        return _of_date(datetime.datetime.fromisoformat(value))
    whole = _of_date(
        datetime.datetime.fromisoformat(value[: fraction.start()] + value[fraction.end() :])
    )
    return Time(whole.seconds, int(fraction[1][:9].ljust(9, "0")))


def _of_number(value: int | float | Decimal | Fraction, unit: TimeUnit) -> Time:
    if isinstance(value, Decimal):
        if value.adjusted() > 40:
            raise ValueError
        value = Fraction(value)
    elif isinstance(value, float):
        value = int(value) if value.is_integer() else Fraction(value)
    if unit == "date":
        return _of_date(numeric_date(value))
    if unit == "s" and isinstance(value, int):
        return Time(value)
    return Time(*divmod(math.floor(value * (10**9 // UNITS[unit])), 10**9))


def numeric_date(value: int | Fraction) -> datetime.date:
    """The date that a number such as 20240301 stands for; `ValueError` of others."""
    if value != int(value):
        raise ValueError
    year, rest = divmod(int(value), 10_000)
    return datetime.date(year, *divmod(rest, 100))
