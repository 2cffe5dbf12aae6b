"""Values in raw files: text, ids, titles, numbers. All readers ask here.

Missing are None, NaN, blank text, and the words that programs write for them (`MISSING`). Bytes are
UTF-8. Numbers pass for text: 300, and the 300.0 of a column with gaps, are "300". Truth values and
lists do not. What is none of the kind asked for is a `ValueError` that says what was expected;
`field` adds the column and the value.
"""

import datetime
import html
import math
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any, TypeVar

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

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_HALF = re.compile("[\ud800-\udfff]")
# With its semicolon; without, "?a=1&copy=2" would hold one.
_ENTITY = re.compile(
    r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});"
    r"|&(?:amp|quot|lt|gt)\b(?![;=])"
)
NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?", re.ASCII)


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
    value = scalar(value)
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
        value = scalar(value)
    if isinstance(value, str):
        value = value.strip()
        value = float(value) if NUMBER.fullmatch(value) else None
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


def number_with(value: Any, decimal: str) -> float:
    """A number, with this character before its decimals where it is text; a `ValueError` tells of
    a decimal comma."""
    if decimal == "," and isinstance(value, str):
        value = value.replace(",", ".")
    try:
        return number(value)
    except ValueError as error:
        comma = isinstance(value, str) and NUMBER.fullmatch(value.strip().replace(",", "."))
        hint = "; config.data.options.decimal=, reads decimal commas" if comma else ""
        raise ValueError(f"{error}{hint}") from None


def plain(value: Any, depth: int = 0) -> Any:
    """The known facts of an item beside its title, as JSON can hold them.

    Missing values are None, entities of HTML their characters; dates and the like become text.
    """
    value = scalar(value)
    if isinstance(value, str):
        clean = unescaped(_HALF.sub("?", _joined(value)))
        return None if clean.strip() in MISSING else clean
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


def inside(value: Any, name: str) -> Any:
    """The value at a key of a record, or at a path of keys (`price.amount`); None if there is none.

    Of a list of records it is the list of their values.
    """
    if isinstance(value, list):
        return [inside(one, name) for one in value]
    if not isinstance(value, Mapping):
        return None
    if name in value:
        return value[name]
    outer, dot, inner = name.partition(".")
    return inside(value.get(outer), inner) if dot else None


def paths(record: Mapping[str, Any]) -> Iterator[str]:
    """The names of a record's values, those inside of its objects as paths."""
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from (f"{name}.{path}" for path in paths(value))
        else:
            yield name


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


def scalar(value: Any) -> Any:
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
