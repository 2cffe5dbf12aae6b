"""The one reader of JSON files: bounded in size and depth, strict, one line for whatever is wrong.

    attributes = read_object(folder / "config.json")
    value = parse(answer, "the server's answer")

What others wrote is read with it before anything is believed: a file of gigabytes is not loaded,
100,000 brackets end in an error that says so, and a key that stands twice with two values does not
silently mean the second.
"""

import json
from pathlib import Path
from typing import Any

from recjax.errors import InputError

LARGEST = 1 << 24  # bytes; the index of a model of 700 GB has 9 million
DEEPEST = 100  # a real file has fewer than 20 levels


def read_object(path: str | Path, *, largest: int = LARGEST) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        path: of a regular file.
        largest: bytes that are read at most.

    Raises:
        InputError: naming the file: missing, no regular file, larger, not UTF-8, no JSON, nested
            deeper than `DEEPEST`, with a key that has two values, or another value than an object.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: expected a file")
        with path.open("rb") as file:
            data = file.read(largest + 1)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:  # ValueError: of a name with a zero byte
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read ({reason})") from None
    if len(data) > largest:
        raise InputError(f"{path}: more than {largest:,} bytes; expected a JSON file of fewer")
    value = parse(data, str(path))
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def parse(data: bytes, where: str) -> Any:
    """The value of a JSON text.

    Args:
        data: the text; its length is the caller's to bound.
        where: its name, for errors.

    Raises:
        InputError: see `read_object`.
    """
    try:
        value = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_object)
        _check_depth(value)
        if b"\\ud" in data.lower():  # halves of pairs, which no file and no terminal takes
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InputError(f"{where}: half of a surrogate pair (\\ud800 to \\udfff)") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 (byte {error.start}); expected JSON") from None
    except RecursionError:
        raise InputError(f"{where}: JSON nested deeper than {DEEPEST} levels") from None
    except ValueError as error:
        raise InputError(f"{where}: not a readable JSON file ({error})") from None
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) < len(pairs):
        for key, value in pairs:
            # NaN, which differs from itself, is the same object here where the key stands once.
            if out[key] is not value and out[key] != value:
                raise ValueError(f"the key {key!r} stands twice, with two values")
    return out


def _check_depth(value: Any) -> None:
    level, depth = [value], 0
    while level := [node for node in level if isinstance(node, dict | list)]:
        depth += 1
        if depth > DEEPEST:
            raise RecursionError
        level = [x for node in level for x in (node.values() if type(node) is dict else node)]
