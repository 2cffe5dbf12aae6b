"""Lines of raw text files, plain or gzip, with the errors that users meet."""

import ast
import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO, cast

from recjax.data.interactions import BadRows
from recjax.errors import InputError

ZIP = b"PK\x03\x04"
UTF_8 = "`iconv -f UTF-16 -t UTF-8` converts it, or save it as CSV UTF-8"
_UTF_16 = f"; UTF-16, as some programs export it: {UTF_8}"
# What files of other kinds begin with.
_KINDS = (
    (b"\x1f\x8b", "; a gzip file, whose name should end in .gz"),
    (b"\xff\xfe", _UTF_16),
    (b"\xfe\xff", _UTF_16),
    (b"BZh", "; a bzip2 file: unpack it"),
    (b"\xfd7zXZ", "; an xz file: unpack it"),
    (b"\x28\xb5\x2f\xfd", "; a zstd file: unpack it"),
    (b"ARROW1", "; an Arrow or feather file: write it as parquet"),
    (b"PAR1", "; a parquet file, whose name should end in .parquet"),
    (ZIP, "; a zip archive or a spreadsheet: unpack it, or export it as csv"),
)


def open_raw(path: Path) -> BinaryIO:
    """A file's bytes; `.gz` is unpacked."""
    return cast(BinaryIO, gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb"))


def text_lines(
    path: Path, encoding: str = "utf-8", *, done: tuple[int, int] = (0, 0), hint: str = ""
) -> Iterator[tuple[int, str]]:
    """`(line number from 1, text without its line end)` of a file; `.gz` is unpacked, a byte order
    mark and blank lines at the end are dropped.

    Args:
        path: the file.
        encoding: of its text.
        done: bytes and lines that are left out, at its beginning.
        hint: ends the error about bytes that are not `encoding`.

    Raises:
        InputError: no such file, an empty one, a truncated or damaged gzip, bytes that are not
            `encoding`, no permission; with the line number where there is one.
    """
    if not path.is_file():
        raise InputError(
            f"{path}: {'a folder; expected a file' if path.is_dir() else 'no such file'}"
        )
    number = done[1]
    blank: list[tuple[int, str]] = []  # lines that count if another one follows
    empty = not number
    try:
        with open_raw(path) as file:
            file.seek(done[0])
            for number, raw in enumerate(file, start=done[1] + 1):
                text = raw.decode(encoding).rstrip("\r\n")
                if number == 1:
                    if raw.startswith(ZIP):  # its first line may be text
                        raise InputError(f"{path}:1: not {encoding} text{dict(_KINDS)[ZIP]}")
                    if "\0" in text:
                        raise InputError(f"{path}:1: NUL characters{_UTF_16}")
                    text = text.removeprefix("\ufeff")
                    _check_line_ends(path, text)
                if not text or text.isspace():
                    blank.append((number, text))
                    continue
                empty = False
                if blank:
                    yield from blank
                    blank.clear()
                yield number, text
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        kind = next(
            (k for start, k in _KINDS if number == 1 and error.object.startswith(start)), hint
        )
        raise InputError(
            f"{path}:{number}: not {encoding} text (byte 0x{byte:02x}){kind}"
        ) from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}:{number + 1}: truncated or damaged gzip ({error})") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if empty:
        raise InputError(f"{path}: the file is empty")


def _check_line_ends(path: Path, first: str) -> None:
    if "\r" in first:
        raise InputError(
            f"{path}:1: a carriage return within the line; expected lines that end in \\n or \\r\\n"
        )


def csv_reader(lines: Iterable[str], separator: str = ",", **form: Any) -> Any:
    """`csv.reader`, for fields of any length: its own limit is 131,072 characters."""
    csv.field_size_limit(1 << 27)
    return csv.reader(lines, delimiter=separator, **form)


def check_no_json(path: Path, first: str, more: str = "") -> None:
    """`InputError` for a first line of JSON, where a table is expected; `more` ends it."""
    if first.lstrip().startswith(("{", "[")):
        raise InputError(f"{path}:1: JSON; expected a csv, tsv or parquet file with a header{more}")


def separator_of(given: str, usual: str, key: str) -> str:
    """The separator that an option gives: one character.

    Args:
        given: "" = the usual one; "tab", and "\\t" as a shell passes it, are the tab.
        usual: see above.
        key: of the config, for errors.
    """
    found = "\t" if given in ("tab", "\\t") else given or usual
    if len(found) != 1:
        hint = "; config.data.source=movielens reads MovieLens' files" if found == "::" else ""
        raise InputError(f"{key}: expected one character, got {found!r}{hint}")
    return found


def other_separator(line: str, separator: str) -> str:
    """Another separator in a line that holds none of the expected one, or ""."""
    if separator in line:
        return ""
    return next((other for other in ("\t", ",", ";", "|", " ") if other in line), "")


_DATUM = re.compile(r"\s*|[+-]?\d+(\.\d*)?([eE][+-]?\d+)?|\d{4}-\d\d-\d\d.*", re.ASCII)


def looks_like_data(fields: list[str]) -> bool:
    """Whether a first line, with a number, a date or nothing in a field, is no header."""
    return any(_DATUM.fullmatch(field) for field in fields)


def find_file(folder: Path, name: str) -> Path:
    """`folder/name`, plain or gzip; `InputError` naming both where there is neither."""
    for candidate in (folder / name, folder / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    raise InputError(f"{folder}: no {name} (or {name}.gz) there")


def records(path: Path, bad: BadRows) -> Iterator[tuple[int, dict[str, Any]]]:
    """`(line number, record)` of JSON lines; lines that are Python literals (Amazon 2014, Steam)
    are read too. Other lines are bad rows."""
    for number, line in text_lines(path):
        try:
            record = _record(line)
        except RecursionError:
            bad.report(path, number, f"nested too deep: {line[:60]!r}")
            continue
        if isinstance(record, dict):
            yield number, record
        elif number == 1 and line.startswith("["):
            hint = "jq -c '.[]' FILE makes lines of a JSON list"
            bad.report(path, 1, f"expected a JSON object a line, got {line[:60]!r}; {hint}")
        else:
            bad.report(path, number, f"expected a JSON object, got {line[:60]!r}")


_LONG_NUMBER = re.compile(r"\d{4000}")  # Python's int() takes 4,300 digits


def _record(line: str) -> Any:
    try:
        return json.loads(line, parse_int=Decimal if _LONG_NUMBER.search(line) else None)
    except ValueError:
        pass
    try:
        # Builds literals only; it runs nothing.
        return ast.literal_eval(line)
    except RecursionError:
        raise
    except (ValueError, SyntaxError, MemoryError) as error:
        if "nested" in str(error) or isinstance(error, MemoryError):
            raise RecursionError from None
        return None
