"""Lines of raw text files, plain or gzip, with the errors that users meet."""

import ast
import contextlib
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recjax.data.interactions import BadRows
from recjax.errors import InputError


def text_lines(path: Path, encoding: str = "utf-8") -> Iterator[tuple[int, str]]:
    """`(line number from 1, text without its line end)` of a file; `.gz` is unpacked, a byte order
    mark is dropped.

    Raises:
        InputError: no such file, an empty one, a truncated or damaged gzip, bytes that are not
            `encoding`, no permission; with the line number where there is one.
    """
    if not path.is_file():
        raise InputError(
            f"{path}: {'a folder; expected a file' if path.is_dir() else 'no such file'}"
        )
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                text = raw.decode(encoding).rstrip("\r\n")
                yield number, text.removeprefix("\ufeff") if number == 1 else text
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise InputError(f"{path}:{number}: not {encoding} text (byte 0x{byte:02x})") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}:{number + 1}: truncated or damaged gzip ({error})") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if not number:
        raise InputError(f"{path}: the file is empty")


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
        record: Any = None
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            # ast.literal_eval builds literals only; it runs nothing.
            with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
                record = ast.literal_eval(line)
        if isinstance(record, dict):
            yield number, record
        else:
            bad.report(path, number, f"expected a JSON object, got {line[:60]!r}")
