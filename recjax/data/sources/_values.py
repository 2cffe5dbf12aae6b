"""Numbers and times from what raw files hold."""

import datetime
import math
from typing import Any


def finite(value: Any) -> float:
    """A number from what a file holds; `ValueError` for anything else, inf and nan too."""
    try:
        number = float(value)
    except (TypeError, OverflowError):
        raise ValueError from None
    if not math.isfinite(number):
        raise ValueError
    return number


def seconds(value: Any) -> int:
    """Seconds since the epoch from a number, a date or a time (UTC unless it says otherwise).

    Raises:
        ValueError: it is none of these, or does not fit into 64 bits.
    """
    if not isinstance(value, datetime.date):  # of which a datetime is one kind
        try:
            return _whole(value)
        except ValueError:
            moment = datetime.datetime.fromisoformat(str(value).strip())
    elif isinstance(value, datetime.datetime):
        moment = value
    else:
        moment = datetime.datetime(value.year, value.month, value.day)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return int(moment.timestamp())


def _whole(value: Any) -> int:
    try:
        whole = int(value)  # exact, where a float has 53 bits
    except (TypeError, ValueError, OverflowError):
        whole = int(finite(value))
    if not -(2**63) <= whole < 2**63:
        raise ValueError
    return whole
