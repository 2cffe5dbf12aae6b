"""Numbers of config files that others wrote: each has its type and is positive and finite."""

import math
from collections.abc import Mapping
from typing import Any

from recjax.errors import InputError
from recjax.ranges import FieldError, short


def positive(values: Mapping[str, Any], key: str, kind: type, where: str) -> Any:
    """The value at a key: a positive int or float, or a bool.

    Args:
        values: of the file.
        key: there.
        kind: int, float (an int is taken for one) or bool.
        where: the file, for errors.

    Raises:
        InputError: naming the file, the key and what was expected.
    """
    value = values[key]
    fits = type(value) is kind or (kind is float and type(value) is int)
    if fits and kind is not bool:
        fits = 0 < value < math.inf and (kind is int or value < 1e38)
    if not fits:
        what = "true or false" if kind is bool else f"a positive {kind.__name__}"
        raise InputError(f"{where}: '{key}' is {short(value)}, expected {what}")
    return kind(value)


def of_field(error: FieldError, keys: Mapping[str, str]) -> str:
    """A config's own error (`field: ...`) under the file's name of the field.

    Args:
        error: of the dataclass.
        keys: field -> the file's key.
    """
    field, colon, rest = str(error).partition(":")
    return f"'{keys[field]}'{colon}{rest}" if field in keys else str(error)
