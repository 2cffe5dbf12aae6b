"""Rows of tables with named columns: csv, tsv, parquet, JSON lines."""

import csv
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recjax.config import listed
from recjax.data.interactions import BadRows
from recjax.data.sources._lines import (
    UTF_8,
    check_no_json,
    csv_reader,
    looks_like_data,
    other_separator,
    records,
    separator_of,
    text_lines,
)
from recjax.data.sources._parquet import parquet_rows
from recjax.data.sources._values import inside, shown
from recjax.errors import InputError

Row = dict[str, Any]
_ESCAPED = re.compile(r'\\(["\\])')
_LETTERS = "quoted=False takes quotes for letters"
_JSON_LINES = ", or a name that ends in .jsonl"
_ENCODINGS = "utf-8, latin-1, cp1252, gbk, ..."


@dataclasses.dataclass(frozen=True)
class Form:
    """A file's columns, and how its text is written.

    Attributes:
        columns: those that the options name and that must be there, by option.
        names: of all columns where the file has no header; "" = it has one.
        option: that `names` come from.
        time: the column of times, in a file of interactions.
        prefix: of the config's keys that are the options.
        whole: all columns count, not those of `columns` alone.
        of: before the names of the options `separator` and `encoding`: "items_" of the items file.
        separator, quoted, escaped, encoding: see `recjax.data.sources.table.Options`.
    """

    columns: dict[str, str]
    names: str
    option: str
    time: str = ""
    prefix: str = "config.data.options."
    whole: bool = False
    separator: str = ""
    quoted: bool = True
    escaped: bool = False
    encoding: str = "utf-8"
    of: str = ""

    def check_encoding(self) -> None:
        """`InputError` for an encoding whose lines are not lines of bytes."""
        try:
            known = "a\n,".encode(self.encoding) == b"a\n,"
        except (LookupError, UnicodeError):
            known = False
        if not known:
            wide = "16" in self.encoding or "32" in self.encoding
            more = f"; {UTF_8}" if wide else ""
            raise InputError(
                f"{self.prefix}{self.of}encoding: no encoding '{self.encoding}' in which a line is "
                f"a line of bytes; expected {_ENCODINGS}{more}"
            )

    def separator_of(self, path: Path) -> str:
        """The character between the fields of a text file."""
        usual = "\t" if plain_name(path).endswith((".tsv", ".inter", ".item")) else ","
        return separator_of(self.separator, usual, f"{self.prefix}{self.of}separator")

    def header(self, first: list[str]) -> list[str]:
        """The names of the columns of a file with this first line."""
        return [name.strip() for name in (self.names.split(",") if self.names else first)]

    def hint(self, option: str) -> str:
        """The end of a message that names an option of the table's reader; "" in other readers."""
        return f"; {self.prefix}{option}" if self.prefix == "config.data.options." else ""


def plain_name(path: Path) -> str:
    """A file's name without `.gz`."""
    return path.name.removesuffix(".gz")


def is_text(path: Path) -> bool:
    """Whether a file is csv or tsv, by its name."""
    return path.suffix != ".parquet" and not _is_json(path)


def _is_json(path: Path) -> bool:
    return plain_name(path).endswith((".jsonl", ".json", ".ndjson"))


def rows(
    path: Path, form: Form, bad: BadRows, done: tuple[int, int] = (0, 0)
) -> Iterator[tuple[int, Row]]:
    """`(line number, row)` of a file; of interactions in parquet only the columns that count.

    Args:
        path: csv, tsv, JSON lines (plain or gzip) or parquet, by its name.
        form: its columns.
        bad: takes lines that are no rows.
        done: bytes and lines at the beginning that were read otherwise; the header is among them.
    """
    if path.suffix == ".parquet":
        if form.names:
            raise InputError(f"{form.prefix}{form.option}: parquet names its own columns")
        wanted = None if form.whole else sorted(set(form.columns.values()))
        found = parquet_rows(
            path, wanted, form.time, lambda names: _check(path, form, names, nested=True)
        )
        yield from _flat(found, form)
    elif _is_json(path):
        yield from _flat(_json_rows(path, form, bad), form)
    else:
        yield from _text_rows(path, form, bad, done)


def _flat(found: Iterator[tuple[int, Row]], form: Form) -> Iterator[tuple[int, Row]]:
    """The rows, with what stands inside of a column under its path: `events.aid`."""
    names = [name for name in form.columns.values() if "." in name]
    for line, row in found:
        for name in names:
            if name not in row:
                row[name] = inside(row, name)
        yield line, row


def _json_rows(path: Path, form: Form, bad: BadRows) -> Iterator[tuple[int, Row]]:
    if form.names:
        raise InputError(f"{form.prefix}{form.option}: JSON names its own columns")
    first = True
    for line, row in records(path, bad):
        if first:  # a record may leave out what it does not know, but not all of them do
            kept = {option: name for option, name in form.columns.items() if "title" not in option}
            _check(path, dataclasses.replace(form, columns=kept), list(row), nested=True)
            first = False
        yield line, row


def _text_rows(
    path: Path, form: Form, bad: BadRows, done: tuple[int, int]
) -> Iterator[tuple[int, Row]]:
    separator = form.separator_of(path)
    hint = form.hint(f"{form.of}encoding=latin-1 (or cp1252, gbk, ...) reads others")
    header: list[str] = []
    if done[1]:
        header = form.header(next(text_lines(path))[1].split(separator))
    escapes = False

    def lines() -> Iterator[str]:
        nonlocal escapes
        for _, line in text_lines(path, form.encoding, done=done, hint=hint):
            if "\\" in line:
                if form.escaped:
                    line = _ESCAPED.sub(lambda found: '""' if found[1] == '"' else "\\", line)
                escapes |= '\\"' in line
            yield line + "\n"

    # csv.reader takes lines and may join some (quoted line ends); its own count names the line.
    # Strict: a quote that is never closed would else swallow the rows that follow it.
    reader = csv_reader(
        lines(),
        separator,
        quoting=csv.QUOTE_MINIMAL if form.quoted else csv.QUOTE_NONE,
        strict=True,
    )
    while True:
        number = done[1] + reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if not header and not form.names:
                raise InputError(_no_header(path, form, separator, str(error))) from None
            last = done[1] + reader.line_num
            until = f"; read to line {last}" if last > number else ""
            more = form.hint("escaped=True reads a quote behind a backslash") if escapes else ""
            more = more or form.hint(_LETTERS)
            bad.report(path, number, f"not csv ({error}{until}){more}")
            continue
        if not header:
            header = form.header(fields)
            check_first(path, form, header, fields, separator)
            if not form.names:
                continue
        if len(fields) != len(header):
            found = f"{len(fields)} fields" if fields else "a blank line"
            bad.report(path, number, f"{found}; expected {len(header)}")
            continue
        row = dict(zip(header, fields, strict=True))
        row.pop("", None)  # the index that pandas writes
        yield number, row


def _no_header(path: Path, form: Form, separator: str, error: str) -> str:
    """Why the first line is no header, with quotes that end elsewhere."""
    line = next(text_lines(path, form.encoding))[1]
    check_no_json(path, line, _JSON_LINES)
    if other := other_separator(line, separator):
        return _other_separator(path, form, line, separator, other)
    return f"{path}:1: not a header of csv ({error}){form.hint(_LETTERS)}"


def _other_separator(path: Path, form: Form, line: str, separator: str, other: str) -> str:
    return (
        f"{path}:1: no {separator!r} between the fields of {shown(line)}; "
        f"{form.prefix}{form.of}separator={other!r} splits them"
    )


def check_first(
    path: Path, form: Form, header: list[str], fields: list[str], separator: str
) -> None:
    """Whether the first line is what the options say: a header, or one of data."""
    own = f"{form.prefix}{form.option}"
    if form.names and fields == header:
        raise InputError(f"{path}:1: is a header; leave {own} empty")
    if set(form.columns.values()) <= set(header):
        _check(path, form, header)
        return
    line = separator.join(fields)
    check_no_json(path, line, _JSON_LINES)
    if "::" in line:
        movielens = form.hint("source=movielens reads its folder").replace("options.", "")
        raise InputError(f"{path}:1: '::' between the fields of {shown(line)}{movielens}")
    if len(fields) == 1 and (other := other_separator(line, separator)):
        raise InputError(_other_separator(path, form, line, separator, other))
    if form.names:
        _check(path, form, header)
    names = ",".join(form.columns.values())
    if looks_like_data(fields):
        raise InputError(
            f"{path}:1: {shown(line)} looks like data; expected a header with {names}, or "
            f"the names of all {len(fields)} columns in {own} (NAME,NAME,...)"
        )
    _check(path, form, header, f"; {own} is for a file without a header")


def _check(
    path: Path, form: Form, found: list[str], more: str = "", *, nested: bool = False
) -> None:
    known = {name for name in form.columns.values() if nested and name.partition(".")[0] in found}
    missing = [o for o, column in form.columns.items() if column not in known.union(found)]
    if missing:
        told = " nor ".join(f"'{form.columns[o]}' ({form.prefix}{o})" for o in missing)
        if "timestamp" in missing:
            more += f"; an empty {form.prefix}timestamp is for a file in time order"
        raise InputError(f"{path}: no column {told}; {listed(found)}{more}")
    for column in found if form.whole else form.columns.values():
        if column and found.count(column) > 1:
            raise InputError(f"{path}: {found.count(column)} columns are named '{column}'")
