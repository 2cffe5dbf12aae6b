"""Values in raw files: text, ids, titles, numbers, times. All readers ask here.

Missing are None, NaN, blank text, and the words that programs write for them (`MISSING`). Bytes are
UTF-8. Numbers pass for text: 300, and the 300.0 of a column with gaps, are "300". Truth values and
lists do not. What is none of the kind asked for is a `ValueError` that says what was expected;
`field` adds the column and the value.
"""

import datetime
import decimal
import functools
import html
import itertools
import math
import re
import uuid
from collections.abc import Callable, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np

from recjax.data.interactions import Catalog

T = TypeVar("T")

MISSING = frozenset(
    ("", "nan", "NaN", "NAN", "-nan", "NaT", "null", "NULL", "None", "NA", "<NA>", "N/A", "#N/A")
    + ("\\N",)
)
_LONGEST_ID = 1000  # characters
_LONGEST_NUMBER = 400  # digits, more than any float has
_MOST_BITS = 1328  # of 400 digits
_DEEPEST = 50  # lists in lists
_FLOAT32 = float(np.finfo(np.float32).max)
YEAR_10000 = 253402300800  # in seconds
UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
TimeUnit = Literal["s", "ms", "us", "ns", "date"]  # of times that are numbers; date: 20240301
_UNIT_NAMES = {
    "s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds",
    "date": "a date such as 20240301",
}  # fmt: skip

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_HALF = re.compile("[\ud800-\udfff]")
# With its semicolon; without, "?a=1&copy=2" would hold one.
_ENTITY = re.compile(
    r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});"
    r"|&(?:amp|quot|lt|gt)\b(?![;=])"
)
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?", re.ASCII)
_FRACTION = re.compile(r"(?<=:\d\d)[.,](\d+)", re.ASCII)  # of a time's seconds
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


class Time(NamedTuple):
    """Seconds since 1970 (UTC), and the nanoseconds beyond them."""

    seconds: int
    nanoseconds: int = 0


def field(name: str, kind: Callable[..., T], value: Any, *more: Any) -> T:
    """`kind(value, *more)`; its `ValueError` names the column and shows the value."""
    try:
        return kind(value, *more)
    except ValueError as error:
        raise ValueError(f"'{name}' is {shown(value)}; {error}") from None


def shown(value: Any) -> str:
    """A value as messages show it: control characters escaped, cut after 60 characters."""
    if isinstance(value, (str, bytes)):
        return repr(value) if len(value) <= 60 else f"{value[:60]!r}... ({len(value):,} long)"
    try:
        whole = repr(value)
    except (ValueError, RecursionError):  # an integer of too many digits; nested too deep
        whole = f"a {type(value).__name__}"
    return whole if len(whole) <= 60 else whole[:60] + "..."


def text(value: Any) -> str:
    """The text of a value, "" where it is missing.

    Raises:
        ValueError: a truth value, a list, bytes that are not UTF-8, a number too long to be one.
    """
    value = _scalar(value)
    if isinstance(value, str):
        found = _joined(value).strip()
        return "" if found in MISSING else found
    if value is None:
        return ""
    if isinstance(value, (float, Decimal)):
        if math.isnan(value):
            return ""
        if not math.isfinite(value) or (isinstance(value, float) and abs(value) >= 2**53):
            raise ValueError("expected text, or a number whose digits are all there")
        if isinstance(value, Decimal) and not -30 < value.adjusted() < _LONGEST_NUMBER:
            raise ValueError("expected text, or a shorter number")
        if value == int(value):
            value = int(value)  # integer columns with gaps come as floats
        return format(value, "f") if isinstance(value, Decimal) else str(value)
    if isinstance(value, int) and not isinstance(value, bool):
        if value.bit_length() > _MOST_BITS:
            raise ValueError("expected text, or a shorter number")
        return str(value)
    if isinstance(value, uuid.UUID):
        return str(value)
    raise ValueError("expected text or a number")


def is_missing(value: Any) -> bool:
    """Whether there is no value: None, NaN, blank text, or one of the words in `MISSING`."""
    if isinstance(value, str):
        return value.strip() in MISSING
    return value is None or (isinstance(value, float) and math.isnan(value))


def key(value: Any) -> str:
    """A user's or an item's id.

    Raises:
        ValueError: what `text` refuses, nothing, a very long one, or control characters in it.
    """
    # Millions of rows hold nothing else: letters and digits, which need no closer look.
    plainly = type(value) is str and value.isalnum() and value.isascii()
    if plainly and len(value) <= _LONGEST_ID and value not in MISSING:
        return value
    found = text(value)
    if not found:
        raise ValueError("expected an id, not a missing value")
    if len(found) > _LONGEST_ID:
        raise ValueError(f"expected an id of at most {_LONGEST_ID:,} characters")
    if _CONTROL.search(found):
        raise ValueError("expected an id without control characters")
    return found


def title(value: Any) -> str | None:
    """A title on one line, HTML's entities as their characters; None where it is missing."""
    found = " ".join(_CONTROL.sub(" ", unescaped(text(value))).split())
    return found if found not in MISSING else None


def number(value: Any) -> float:
    """A number that 32 bits can hold."""
    if type(value) is not str and type(value) is not float:
        value = _scalar(value)
    if isinstance(value, str):
        value = value.strip()
        value = float(value) if _NUMBER.fullmatch(value) else None
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
        raise ValueError("expected a number")
    try:
        found = float(value)
    except (OverflowError, ValueError):
        found = math.inf
    if math.isnan(found):
        raise ValueError("expected a number")
    if abs(found) > _FLOAT32:
        raise ValueError("expected a number of at most 3.4e38")
    return found


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
    value = _scalar(value)
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
        hint = _other_unit(value) or ("" if form is None else _known_forms(value))
        said = f"'{name}' is {shown(value)}; {error} (config.data.options.time_unit: {unit}){hint}"
        raise ValueError(said) from None


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
def _known_forms(value: Any) -> str:
    """A hint that names the formats which read a text."""

    def reads(form: str) -> bool:
        try:
            return bool(_formatted(value, form))
        except ValueError:
            return False

    if not isinstance(value, str):
        return ""
    found = [form.strip() for form in _FORMS if reads(form.strip())]
    return f"; config.data.options.time_format reads it: {' or '.join(found)}" if found else ""


def plain(value: Any, depth: int = 0) -> Any:
    """The known facts of an item beside its title, as JSON can hold them.

    Missing values are None, entities of HTML their characters; dates and the like become text.
    """
    value = _scalar(value)
    if isinstance(value, str):
        found = unescaped(_HALF.sub("?", _joined(value)))
        return None if found.strip() in MISSING else found
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (float, Decimal)):
        real = float(value)
        return real if math.isfinite(real) else None
    if isinstance(value, int):
        return value if value.bit_length() <= _MOST_BITS else text(value)
    if depth >= _DEEPEST:
        raise ValueError("nested too deep")
    if isinstance(value, (list, tuple)):
        return [plain(part, depth + 1) for part in value]
    if isinstance(value, Mapping):
        return {str(name): plain(part, depth + 1) for name, part in value.items()}
    if isinstance(value, (datetime.date, datetime.time, datetime.timedelta)):
        return str(value)
    raise ValueError("expected text, a number or a list")


def add_item(catalog: Catalog, item: str, found: Mapping[str, Any]) -> None:
    """Adds what a record knows of an item: its `title` and other fields.

    Of an item's several records the first known value of each field counts.

    Raises:
        ValueError: naming the field that holds none of the kinds that `title` and `plain` take.
    """
    cleaned = {
        name: field(name, title if name == "title" else plain, value)
        for name, value in found.items()
    }
    known = catalog.setdefault(item, {"title": None})
    for name, value in cleaned.items():
        if known.get(name) in (None, []):
            known[name] = value


def unescaped(value: str) -> str:
    """Text whose HTML entities, escaped twice at times, are their characters."""
    for _ in range(3):
        if "&" not in value:
            break
        value, count = _ENTITY.subn(lambda found: html.unescape(found[0]), value)
        if not count:
            break
    return value


def _scalar(value: Any) -> Any:
    """numpy's values as Python's, bytes as text."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    elif isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            raise ValueError("expected UTF-8 text") from None
    return value


def _joined(value: str) -> str:
    """Surrogate pairs, which Python's literals may spell, as the one character that they are."""
    if value.isascii():
        return value
    return _PAIR.sub(lambda two: two[0].encode("utf-16", "surrogatepass").decode("utf-16"), value)


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
    if _NUMBER.fullmatch(value):
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
