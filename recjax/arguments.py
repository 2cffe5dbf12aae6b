"""Command lines: whole flags, errors of one line that name the nearest flag or choice."""

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from recjax.errors import InputError

_FLAG = re.compile(r"--?[A-Za-z][\w.-]*")  # of "--flag" and "--flag=value"; a number is a value


class Parser(argparse.ArgumentParser):
    """The parser of the `recjax` command and of the scripts.

    A flag is written whole: an abbreviation would change its meaning with the next new flag.

    Raises:
        InputError: where argparse would print the usage and exit; an unknown flag, before any other
            error, with the nearest one that the parser knows.
    """

    def __init__(self, *, keys: bool = False, **settings: Any):
        """`keys`: the caller reads `--config.KEY=VALUE`, too, which errors then name."""
        super().__init__(allow_abbrev=False, **settings)
        self._keys = keys

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[override]
        """Like argparse's, but unknown flags are reported before any other error."""
        words = sys.argv[1:] if args is None else list(args)
        self._check_flags(words)
        return super().parse_known_args(words, namespace)

    def _check_flags(self, words: Sequence[str]) -> None:
        known = self._option_string_actions
        for word in words:
            name, equals, value = word.partition("=")
            if word == "--" or (self._subparsers and not word.startswith("-")):
                return  # behind it are no flags; or those of a command
            if not _FLAG.fullmatch(name) or name in known or name.startswith("--config."):
                continue
            key = name.lstrip("-")
            if self._keys and "." in key:
                first, _, rest = key.partition(".")
                key = rest if first.startswith("conf") else key
                hint = f"a config's key is written --config.{key}{equals}{value}"
            else:
                hint = _hint(key, (flag[2:] for flag in known if flag.startswith("--")), "--")
                if self._keys:
                    hint += "; --config.KEY=VALUE sets a config's key"
            self.error(f"unknown flag '{name}'; {hint}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            hint = _hint(value, map(str, action.choices))
            raise argparse.ArgumentError(action, f"invalid choice: '{value}'; {hint}")

    def error(self, message: str) -> NoReturn:
        """Raises `InputError` with a message and where the flags are listed."""
        raise InputError(f"{message}; see `{self.prog} --help`")


def positive(text: str) -> int:
    """A flag's whole number from 1, as `type=`."""
    return _whole(text, 1)


def count(text: str) -> int:
    """A flag's whole number from 0, as `type=`."""
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    if not text.isascii() or not text.isdecimal() or int(text[:20]) < least:
        raise argparse.ArgumentTypeError(f"expected a whole number from {least}, got '{text}'")
    return int(text)


def _hint(name: object, known: Iterable[str], before: str = "") -> str:
    from recjax.config import nearest  # at an error only: it imports ml_collections

    return nearest(name, known, before)


def add_mesh(parser: Any, default: str | None = "-1,1,1") -> None:
    """Adds `--mesh` to a command that runs a trained model."""
    parser.add_argument(
        "--mesh", default=default, metavar="D,F,T",
        help="devices on the axes data, fsdp and tensor; -1: those that are left (-1,1,1)",
    )  # fmt: skip
