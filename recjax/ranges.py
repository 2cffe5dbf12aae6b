"""Ranges of config fields: they stand in a field's annotation and hold for every instance.

    @dataclasses.dataclass(frozen=True)
    class Config(Checked):
        dim: Size = 64
        dropout: Annotated[float, Range(0, below=1)] = 0.5
        limit: Annotated[float, Range(0)] | None = None

NaN and infinity are in no range. Where a range names no end, the limit is that of int32 or float32.
"""

import dataclasses
import functools
import operator
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from recjax.errors import InputError

_LIMITS = {int: 2**31 - 1, float: 3.4028234e38}  # of int32 and float32


class FieldError(InputError):
    """A field's value is wrong; the message begins with the field's name alone."""

    def __init__(self, field: str, message: str = ""):
        # Between processes an exception travels as its one message.
        super().__init__(f"{field}: {message}" if message else field)


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers from `least` or `above` to `most` or `below`."""

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def __contains__(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        ends = (
            (self.least, operator.ge), (self.most, operator.le),
            (self.above, operator.gt), (self.below, operator.lt),
        )  # fmt: skip
        return value == value and all(end is None or holds(value, end) for end, holds in ends)

    def __str__(self) -> str:
        if self.least is not None and self.most is not None:
            return f"{self.least} to {self.most}" if self.least < self.most else f"{self.least}"
        ends = (
            ("at least", self.least), ("more than", self.above),
            ("at most", self.most), ("less than", self.below),
        )  # fmt: skip
        return " and ".join(f"{word} {end}" for word, end in ends if end is not None)


Seed = Annotated[int, Range(0, 2**32 - 1)]  # what JAX tells apart without 64-bit integers
Size = Annotated[int, Range(1, 2**20)]  # widths of layers, rows of a batch
Few = Annotated[int, Range(1, 1000)]  # layers, and what is written out one by one
Count = Annotated[int, Range(0)]
Positive = Annotated[float, Range(above=0)]
Amount = Annotated[float, Range(0)]
Epochs = Annotated[float, Range(above=0, most=1_000_000)]
Share = Annotated[float, Range(0, 1)]
Dropout = Annotated[float, Range(0, below=1)]


def short(value: Any) -> str:
    """A value in an error's one line."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def ranges(hint: Any) -> Iterator[tuple[type, Range]]:
    """`(int or float, range)` of an annotation, or of the parts of one that has several."""
    if typing.get_origin(hint) is Annotated:
        kind, *notes = typing.get_args(hint)
        yield from ((kind, note) for note in notes if isinstance(note, Range))
        return
    for inner in typing.get_args(hint):
        yield from ranges(inner)


def expected(hint: Any, value: Any) -> str | None:
    """The expected range in place of a value; None where the value is in it."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        for kind, wanted in ranges(hint):
            if value not in wanted:
                return str(wanted) or "a finite number"
            limit = max(_LIMITS[kind], wanted.most or 0)
            if abs(value) > limit:
                return f"at most {limit} in size"
        return None
    if origin in (typing.Union, types.UnionType):
        errors = (expected(arm, value) for arm in args if arm is not type(None))
        return None if value is None else next((text for text in errors if text), None)
    parts: list[tuple[Any, Any]] = []
    if origin is dict and isinstance(value, Mapping):
        parts = [(args[1], part) for part in value.values()]
    elif origin is tuple and isinstance(value, tuple | list):
        arms = args[:1] * len(value) if args[1:] == (Ellipsis,) else args
        parts = list(zip(arms, value, strict=False))
    errors = (expected(arm, part) for arm, part in parts)
    return next((f"each {text}" for text in errors if text), None)


def hints(cls: type) -> dict[str, Any]:
    """The annotations of a dataclass's fields, with their ranges."""
    return _hints(cls)


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    annotations = typing.get_type_hints(cls, include_extras=True)
    return {field.name: annotations[field.name] for field in dataclasses.fields(cls)}


def check_multiple(config: Any, field: str, of: str) -> None:
    """Raises `FieldError` where one field's number is no multiple of another's."""
    value, divisor = getattr(config, field), getattr(config, of)
    if value % divisor:
        raise FieldError(field, f"{value} is no multiple of {of} {divisor}")


class Checked:
    """A dataclass whose values are in the ranges of its fields.

    Raises:
        FieldError: naming the field, what was expected and the value.
    """

    def __post_init__(self):
        for name, hint in hints(type(self)).items():
            value = getattr(self, name)
            text = expected(hint, value)
            if text:
                raise FieldError(name, f"expected {text}, got {short(value)}")
