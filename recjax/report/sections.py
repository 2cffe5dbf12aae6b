"""Results as sections of a report: the contract between the systems and the page.

A system writes what it has found, in order, to WORKDIR/results.json, and `recjax report` shows it:

    write_results(workdir / "results.json", [
        Text("Summary", "A first paragraph.\n\nA second one."),
        Table("Residual accuracy", ["data", "GRU4Rec", "DreamRec"], [["MovieLens", 0.5263, None]]),
        Bars("Recovered items", ["0", "1"], {"SASRec": [0.2, 0.8]}, percent=True),
    ])

The file is `{"sections": [...]}`, each section an object with `kind`, `title` and:

- text: `text`, paragraphs with blank lines between them.
- table: `columns` [str], `rows` [[str | number | null]], each as wide as `columns`; `note`.
  Integers and other numbers are shown differently (1,682 and 0.5263).
- bars: grouped vertical bars. `labels` [str], one a group; `series` {name: [number | null]}, each
  as long as `labels`; `percent`: the numbers are shares of one, shown in per cent; `note`. Up to 12
  labels and 5 series read well.
- lines: `x` and `y`, the names of the axes; `series` {name: [[number, number | null], ...]};
  `note`.
- radar: `labels` [str], one an axis (three or more); `series` {name: [number | null]}, each as long
  as `labels`; `low` and `high`, the numbers at the centre and at the rim; `note`.
- cases: `cases`, each `heading` (str), `history` and `answer` [{"text": str, "mark": str}], and
  `right` (true, false, or null where nothing is judged); `note`. `mark` says of an item whether it
  stands on the other side too: "hit", "miss", "unknown" (of an answer: in no catalogue), or "".

`note` (a sentence), `percent`, `mark` and `right` may be left out; another key is an error. A
number that is not finite is written as null. Numbers and arrays of numpy may stand for Python's.

The classes below are the sections. This module imports nothing but recjax's lowest modules, so
that whatever has results can write them.
"""

import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from recjax.errors import InputError
from recjax.json_files import read_object
from recjax.replace import write_text

Number: TypeAlias = int | float | None
MARKS = ("", "hit", "miss", "unknown")
_BITS = 1000  # of an integer
_HALF = re.compile("[\ud800-\udfff]")


@dataclasses.dataclass(frozen=True)
class Text:
    """A section of paragraphs."""

    title: str
    text: str


@dataclasses.dataclass(frozen=True)
class Table:
    """A section with a table."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | Number]]
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Bars:
    """A section with a bar chart."""

    title: str
    labels: Sequence[str]
    series: Mapping[str, Sequence[Number]]
    percent: bool = False
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Lines:
    """A section with a line chart."""

    title: str
    x: str
    y: str
    series: Mapping[str, Sequence[tuple[Number, Number]]]
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Radar:
    """A section with a radar chart."""

    title: str
    labels: Sequence[str]
    series: Mapping[str, Sequence[Number]]
    low: float
    high: float
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Item:
    """An item of a case."""

    text: str
    mark: str = ""


@dataclasses.dataclass(frozen=True)
class Case:
    """One example with its history and answer."""

    heading: str
    history: Sequence[Item]
    answer: Sequence[Item]
    right: bool | None = None


@dataclasses.dataclass(frozen=True)
class Cases:
    """A section of cases."""

    title: str
    cases: Sequence[Case]
    note: str = ""


Section: TypeAlias = Text | Table | Bars | Lines | Radar | Cases
KINDS: dict[str, type] = {
    "text": Text,
    "table": Table,
    "bars": Bars,
    "lines": Lines,
    "radar": Radar,
    "cases": Cases,
}
_KIND_OF = {cls: kind for kind, cls in KINDS.items()}


def section_to_json(section: Section) -> dict[str, Any]:
    """The JSON form of a section.

    Raises:
        InputError: naming the key of what does not fit the contract.
    """
    plain = {"kind": _KIND_OF[type(section)], **_plain(dataclasses.asdict(section))}
    section_from_json(plain, plain["kind"])
    return plain


def section_from_json(value: Any, where: str) -> Section:
    """A section from what JSON holds of it.

    Args:
        value: the section's object.
        where: its place, for errors (`W/results.json: sections[0]`).

    Raises:
        InputError: naming the place, the key and what was expected.
    """
    if not isinstance(value, dict):
        raise _wrong(where, "an object", value)
    kind = value.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise _wrong(f"{where}.kind", f"one of {', '.join(KINDS)}", kind)
    rest = {key: entry for key, entry in value.items() if key != "kind"}
    section = _object(KINDS[kind])(rest, where)
    if isinstance(section, Table):
        for number, row in enumerate(section.rows):
            if len(row) != len(section.columns):
                raise InputError(
                    f"{where}.rows[{number}]: expected {len(section.columns)} cells, as many as "
                    f"columns, got {len(row)}"
                )
    if isinstance(section, Radar) and (len(section.labels) < 3 or section.low >= section.high):
        raise InputError(f"{where}: a radar needs three labels or more, and low < high")
    if isinstance(section, (Bars, Radar)):
        for name, numbers in section.series.items():
            if len(numbers) != len(section.labels):
                raise InputError(
                    f"{where}.series.{name}: expected {len(section.labels)} numbers, as many as "
                    f"labels, got {len(numbers)}"
                )
    return section


def write_results(path: str | Path, sections: Sequence[Section]) -> None:
    """Writes sections to a results file, complete or not at all.

    Raises:
        InputError: naming the file and the key of what does not fit the contract, or a file that
            cannot be written.
    """
    path = Path(path)
    plain = []
    for number, section in enumerate(sections):
        try:
            plain.append(section_to_json(section))
        except InputError as error:
            raise InputError(f"{path}: sections[{number}]: {error}") from None
    text = json.dumps({"sections": plain}, indent=1, ensure_ascii=True, allow_nan=False)
    write_text(path, text + "\n")


def read_results(path: str | Path) -> tuple[Section, ...]:
    """The sections of a results file.

    Raises:
        InputError: naming the file and the key of what does not fit the contract.
    """
    path = Path(path)
    value = read_object(path)
    if list(value) != ["sections"]:
        raise InputError(f'{path}: expected {{"sections": [...]}} and no other key')
    where = f"{path}: sections"
    return tuple(_many(section_from_json)(value["sections"], where))


def _plain(value: Any) -> Any:
    """Tuples and numpy's arrays as lists, numpy's numbers as Python's, NaN and infinity as None,
    halves of surrogate pairs (which no reader takes) as U+FFFD."""
    if isinstance(value, str):
        return _HALF.sub("\ufffd", value)
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {_plain(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# Readers: `(value, where) -> value`, or an InputError that names `where`.
_Reader: TypeAlias = Callable[[Any, str], Any]


def _wrong(where: str, expected: str, value: Any) -> InputError:
    got = repr(value)
    return InputError(f"{where}: expected {expected}, got {got[:60] + '...' * (len(got) > 60)}")


def _kind(kinds: type | tuple[type, ...], expected: str) -> _Reader:
    def reader(value: Any, where: str) -> Any:
        if not isinstance(value, kinds):
            raise _wrong(where, expected, value)
        return value

    return reader


_string = _kind(str, "a string")
_flag = _kind(bool, "true or false")
_verdict = _kind((bool, type(None)), "true, false or null")


def _number(value: Any, where: str) -> Number:
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
        raise _wrong(where, "a number or null", value)
    return _bounded(value, where)


def _end(value: Any, where: str) -> float:
    number = _number(value, where)
    if number is None:
        raise _wrong(where, "a number", value)
    return number


def _bounded(value: Any, where: str) -> Any:
    """The value; an integer that no float can hold is an error."""
    if isinstance(value, int) and value.bit_length() > _BITS:
        bits = value.bit_length()
        raise InputError(f"{where}: a number of {bits} bits; expected {_BITS} at most")
    return value


def _cell(value: Any, where: str) -> str | Number:
    if isinstance(value, bool) or not isinstance(value, (str, int, float, type(None))):
        raise _wrong(where, "a string, a number or null", value)
    return _bounded(value, where)


def _mark(value: Any, where: str) -> str:
    if not isinstance(value, str) or value not in MARKS:
        raise _wrong(where, f"one of {', '.join(map(repr, MARKS))}", value)
    return value


def _point(value: Any, where: str) -> tuple[Number, Number]:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise _wrong(where, "[x, y]", value)
    return _number(value[0], f"{where}[0]"), _number(value[1], f"{where}[1]")


def _many(read: _Reader) -> _Reader:
    def reader(value: Any, where: str) -> tuple[Any, ...]:
        if not isinstance(value, (list, tuple)):
            raise _wrong(where, "a list", value)
        return tuple(read(entry, f"{where}[{number}]") for number, entry in enumerate(value))

    return reader


def _named(read: _Reader) -> _Reader:
    def reader(value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _wrong(where, "an object", value)
        return {_string(key, where): read(entry, f"{where}.{key}") for key, entry in value.items()}

    return reader


def _object(cls: type) -> _Reader:
    def reader(value: Any, where: str) -> Any:
        if not isinstance(value, dict):
            raise _wrong(where, "an object", value)
        fields = {field.name: field for field in dataclasses.fields(cls)}
        known = ", ".join(fields)
        for key in value:
            if key not in fields:
                raise InputError(f"{where}: unknown key '{key}'; known: {known}")
        for name, field in fields.items():
            if name not in value and field.default is dataclasses.MISSING:
                raise InputError(f"{where}: no key '{name}'; expected {known}")
        return cls(**{key: _FIELDS[cls][key](value[key], f"{where}.{key}") for key in value})

    return reader


_FIELDS: dict[type, dict[str, _Reader]] = {
    Text: {"title": _string, "text": _string},
    Table: {
        "title": _string,
        "columns": _many(_string),
        "rows": _many(_many(_cell)),
        "note": _string,
    },
    Bars: {
        "title": _string,
        "labels": _many(_string),
        "series": _named(_many(_number)),
        "percent": _flag,
        "note": _string,
    },
    Lines: {
        "title": _string,
        "x": _string,
        "y": _string,
        "series": _named(_many(_point)),
        "note": _string,
    },
    Radar: {
        "title": _string,
        "labels": _many(_string),
        "series": _named(_many(_number)),
        "low": _end,
        "high": _end,
        "note": _string,
    },
    Item: {"text": _string, "mark": _mark},
    Case: {
        "heading": _string,
        "history": _many(_object(Item)),
        "answer": _many(_object(Item)),
        "right": _verdict,
    },
    Cases: {"title": _string, "cases": _many(_object(Case)), "note": _string},
}
