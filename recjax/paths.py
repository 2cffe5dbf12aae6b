"""Paths and lists as users write them: "~" at the beginning is the home folder, none is empty."""

import argparse
import contextlib
import os
from pathlib import Path

from recjax.errors import InputError

_POINTER = b"version https://git-lfs"


def home(path: str | Path) -> Path:
    """A path, "~" at its beginning replaced as in a shell; `InputError` for what is no path."""
    if not isinstance(path, str | Path):
        raise InputError(f"expected a path, got {path!r}")
    return Path(os.path.expanduser(path))


def flag_path(text: str) -> Path:
    """The path that a flag gives: `type=` of argparse.

    A shell replaces "~" in `--out ~/a.csv` and leaves `--out=~/a.csv` as it is; a variable that is
    not set leaves `--out=`, which would be the current folder.
    """
    return Path(flag_text(text))


def flag_file(text: str) -> Path:
    """The file that a flag names for figures: `type=` of argparse; its folder must be there."""
    path = flag_path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a folder; expected the name of a file")
    if not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent}; make it first")
    return path


def flag_text(text: str) -> str:
    """The same as text, for flags that may also be a URL or a name."""
    if not text.strip():
        raise argparse.ArgumentTypeError("expected a path; it is empty")
    return os.path.expanduser(text)


def names(text: str | None) -> tuple[str, ...]:
    """The names of a list with commas, blanks around them left out."""
    return tuple(name for part in (text or "").split(",") if (name := part.strip()))


def check_no_pointer(path: Path) -> None:
    """`InputError` for a file that only says where Git LFS has the real one."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise InputError(
                f"{path}: a pointer of Git LFS; `git lfs pull` fetches the file itself"
            )
