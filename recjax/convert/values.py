"""Config files that others wrote: attributes that are known, and numbers positive and finite."""

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any

from recjax.config import nearest
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


@dataclasses.dataclass(frozen=True)
class Attributes:
    """The values that a family's `config.json` may hold.

    Attributes:
        family: its name, for errors.
        sizes: key -> field of our Config; positive integers that must be there.
        options: key -> (field, default); numbers and bools, of the default's type (None: int).
        fixed: the one value of a key that is implemented, where it is given.
        others: keys that change nothing that the model computes, or that are read apart.
    """

    family: str
    sizes: Mapping[str, str]
    options: Mapping[str, tuple[str, Any]]
    fixed: Mapping[str, Any]
    others: Collection[str]

    @property
    def keys(self) -> dict[str, str]:
        """The key of each field."""
        of_options = {field: key for key, (field, _) in self.options.items()}
        return {field: key for key, field in self.sizes.items()} | of_options

    def read(self, given: Mapping[str, Any], where: str) -> dict[str, Any]:
        """The fields of our Config.

        Args:
            given: the file's object.
            where: the file's name, for errors.

        Raises:
            InputError: naming an attribute that is unknown, missing, of a wrong type, or with a
                value that is not implemented.
        """
        known = {*self.sizes, *self.options, *self.fixed, *self.others}
        for key, value in given.items():
            if key not in known:
                raise InputError(
                    f"{where}: unknown attribute '{key}': {short(value)}; {nearest(key, known)} "
                    "(delete it if the model computes the same without it)"
                )
            if key in self.fixed and value is not None and value != self.fixed[key]:
                raise InputError(
                    f"{where}: '{key}' is {short(value)}; only {self.fixed[key]!r} is implemented "
                    f"for {self.family}"
                )
        fields: dict[str, Any] = {}
        for key, field in self.sizes.items():
            if given.get(key) is None:
                raise InputError(f"{where}: lacks the attribute '{key}'")
            fields[field] = positive(given, key, int, where)
        for key, (field, default) in self.options.items():
            kind = int if default is None else type(default)
            there = given.get(key) is not None
            fields[field] = positive(given, key, kind, where) if there else default
        return fields
