"""Whether the files of a checkpoint are those that were written."""

import hashlib
import json
from pathlib import Path

from recjax.replace import write_text

FILE = "checksums.json"


def write_checksums(folder: Path) -> None:
    """Lists every file of a complete step, with its SHA-256, in its `checksums.json`."""
    sums = {
        path.relative_to(folder).as_posix(): _sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != FILE
    }
    write_text(folder / FILE, json.dumps({"sha256": sums}, indent=1) + "\n")


def damage(folder: Path) -> str | None:
    """Names the first fault of a step's files; None if there is none.

    A step of an early version of recjax, without checksums, passes.
    """
    if not (folder / FILE).exists():
        return None
    try:
        sums = json.loads((folder / FILE).read_text(encoding="utf-8"))["sha256"]
        for name, expected in sums.items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if _sha256(path) != expected:
                return f"{name} is not what was written"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{FILE} is not what was written"
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
