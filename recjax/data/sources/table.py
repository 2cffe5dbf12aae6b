"""Tables with named columns: csv, tsv (plain or gzip) and parquet.

The text is the user's: titles lose HTML entities, line ends and repeated blanks, other columns the
entities alone. Of several titles of an item the first one counts.
"""

import csv
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recjax.config import listed
from recjax.data.interactions import BadRows, Catalog, InteractionLog, LogBuilder
from recjax.data.sources._blocks import Places, add_blocks
from recjax.data.sources._lines import (
    check_no_json,
    csv_reader,
    looks_like_data,
    other_separator,
    records,
    separator_of,
    text_lines,
)
from recjax.data.sources._parquet import parquet_rows
from recjax.data.sources._values import TimeUnit, add_item, field, key, moment_of, number, shown
from recjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the reader of csv, tsv and parquet files."""

    file: str = ""  # interactions file in the folder; "" = the path is the file
    user: str = "user"  # column names
    item: str = "item"
    timestamp: str = "timestamp"  # seconds, or an ISO date or time; "" = the file is in time order
    time_unit: TimeUnit = "s"  # of timestamps that are numbers; date: 20240301
    rating: str = ""  # "" = no ratings
    title: str = ""  # title column of the interactions, where there is no items file
    separator: str = ""  # one character; "" = tab for .tsv, else comma
    columns: str = ""  # names for a csv file without a header, "user,item,rating,timestamp"
    quoted: bool = True  # fields may stand in double quotes; off = a quote is a letter
    items: str = ""  # items file beside the interactions: csv, tsv, parquet or .jsonl
    items_key: str = "item"  # columns of the items file
    items_title: str = "title"
    items_columns: str = ""  # names for an items file without a header


@dataclasses.dataclass(frozen=True)
class _Form:
    """The columns of a file.

    Attributes:
        columns: those that the options name and that must be there, by option.
        names: of all columns where the file has no header; "" = it has one.
        option: that `names` come from.
        time: the column of times, in a file of interactions.
        prefix: of the config's keys that are the options.
        whole: all columns count, not those of `columns` alone.
    """

    columns: dict[str, str]
    names: str
    option: str
    time: str = ""
    prefix: str = "config.data.options."
    whole: bool = False


Row = dict[str, Any]


def _main_file(path: Path, options: Options) -> Path:
    if path.is_dir():
        if not options.file:
            raise InputError(
                f"config.data.options.file: {path} is a folder; expected the file's name"
            )
        return path / options.file
    return path


def files(path: Path, options: Options) -> list[Path]:
    """The raw files that `read` reads."""
    main = _main_file(path, options)
    return [main, main.parent / options.items] if options.items else [main]


def read(path: Path, options: Options, bad: BadRows) -> tuple[InteractionLog, Catalog]:
    """Reads a table of interactions, and one of items where it is named.

    Args:
        path: the file, or its folder.
        options: the columns.
        bad: takes rows with missing or unreadable fields.
    """
    main = _main_file(path, options)
    columns = {"user": options.user, "item": options.item}
    optional = {"timestamp": options.timestamp, "rating": options.rating, "title": options.title}
    columns |= {k: v for k, v in optional.items() if v}
    log = LogBuilder(timestamps="timestamp" in columns, ratings="rating" in columns)
    catalog: Catalog = {}
    form = _Form(columns, options.columns, "columns", options.timestamp)
    done = _plain_beginning(main, options, form, log)
    for line, row in _rows(main, options, form, bad, done):
        try:
            user = field(options.user, key, row[options.user])
            item = field(options.item, key, row[options.item])
            time = moment_of(options.timestamp, row.get(options.timestamp), options.time_unit)
            rating = field(options.rating, number, row[options.rating]) if options.rating else 0.0
            if options.title:
                add_item(catalog, item, {"title": row[options.title]})
        except ValueError as error:
            bad.report(main, line, str(error))
            continue
        log.add(user, item, time.seconds, rating, time.nanoseconds)
    if options.items:
        catalog = _items(main.parent / options.items, options, bad)
    return log.build(), catalog


def _plain_beginning(path: Path, options: Options, form: _Form, log: LogBuilder) -> tuple[int, int]:
    """Adds the rows of a csv file's plain beginning; how many bytes and lines these are."""
    if path.suffix == ".parquet" or options.title or not path.is_file():
        return 0, 0
    separator = _separator(path, options, form)

    def places_of(fields: list[str]) -> tuple[Places, bool] | None:
        header = _header(form, fields)
        _check_first(path, form, header, fields, separator)
        if len(fields) != len(header):
            return None
        wanted = (options.user, options.item, options.timestamp, options.rating)
        user, item, time, rating = (header.index(name) if name else -1 for name in wanted)
        places = Places(len(header), user, item, time, rating, options.timestamp, options.time_unit)
        return places, not form.names

    return add_blocks(path, separator, options.quoted, log, places_of)


def _items(path: Path, options: Options, bad: BadRows) -> Catalog:
    catalog: Catalog = {}
    if path.name.removesuffix(".gz").endswith((".jsonl", ".json")):
        rows: Iterator[tuple[int, Row]] = records(path, bad)
    else:
        columns = {"items_key": options.items_key, "items_title": options.items_title}
        form = _Form(columns, options.items_columns, "items_columns", whole=True)
        rows = _rows(path, options, form, bad)
    for line, row in rows:
        try:
            item = field(options.items_key, key, row.pop(options.items_key, None))
            add_item(catalog, item, {"title": row.pop(options.items_title, None), **row})
        except ValueError as error:
            bad.report(path, line, str(error))
    return catalog


def read_records(path: Path, key_column: str, columns: str, separator: str, prefix: str) -> Catalog:
    """Records by raw key, of a table of users or items with any columns.

    Args:
        path: csv, tsv, parquet or JSON lines, plain or gzip.
        key_column: the column of keys.
        columns: names for a file without a header; "" = it has one.
        separator: one character; "" = tab for .tsv, else comma.
        prefix: of the config's keys with `key`, `names` and `separator`, for errors.

    Raises:
        InputError: naming the line or the column.
    """
    options = Options(separator=separator)
    bad, out = BadRows(), Catalog()
    if path.name.removesuffix(".gz").endswith((".jsonl", ".json")):
        rows: Iterator[tuple[int, Row]] = records(path, bad)
    else:
        form = _Form({"key": key_column}, columns, "names", prefix=prefix, whole=True)
        rows = _rows(path, options, form, bad)
    for line, row in rows:
        try:
            add_item(out, field(key_column, key, row.pop(key_column, None)), row)
        except ValueError as error:
            bad.report(path, line, str(error))
    return out


def _separator(path: Path, options: Options, form: _Form) -> str:
    name = path.name.removesuffix(".gz")
    usual = "\t" if name.endswith((".tsv", ".inter", ".item")) else ","
    return separator_of(options.separator, usual, f"{form.prefix}separator")


def _header(form: _Form, first: list[str]) -> list[str]:
    return [name.strip() for name in (form.names.split(",") if form.names else first)]


def _rows(
    path: Path, options: Options, form: _Form, bad: BadRows, done: tuple[int, int] = (0, 0)
) -> Iterator[tuple[int, Row]]:
    """`(line number, row)`; of interactions in parquet only the columns that count.

    `done` bytes and lines at the beginning were read otherwise; the header is among them.
    """
    if path.suffix == ".parquet":
        if form.names:
            raise InputError(f"{form.prefix}{form.option}: parquet names its own columns")
        wanted = None if form.whole else sorted(set(form.columns.values()))
        yield from parquet_rows(path, wanted, form.time, lambda found: _check(path, form, found))
        return
    separator = _separator(path, options, form)
    header: list[str] = []
    if done[1]:
        header = _header(form, next(text_lines(path))[1].split(separator))
    # csv.reader takes lines and may join some (quoted line ends); its own count names the line.
    # Strict: a quote that is never closed would else swallow the rows that follow it.
    reader = csv_reader(
        (line + "\n" for _, line in text_lines(path, done=done)),
        separator,
        quoting=csv.QUOTE_MINIMAL if options.quoted else csv.QUOTE_NONE,
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
                check_no_json(path, next(text_lines(path))[1])
                raise InputError(f"{path}:1: not a header of csv ({error})") from None
            last = done[1] + reader.line_num
            until = f"; read to line {last}" if last > number else ""
            bad.report(path, number, f"not csv ({error}{until})")
            continue
        if not header:
            header = _header(form, fields)
            _check_first(path, form, header, fields, separator)
            if not form.names:
                continue
        if len(fields) != len(header):
            found = f"{len(fields)} fields" if fields else "a blank line"
            bad.report(path, number, f"{found}; expected {len(header)}")
            continue
        row = dict(zip(header, fields, strict=True))
        row.pop("", None)  # the index that pandas writes
        yield number, row


def _check_first(
    path: Path, form: _Form, header: list[str], fields: list[str], separator: str
) -> None:
    """Whether the first line is what the options say: a header, or one of data."""
    own = f"{form.prefix}{form.option}"
    if form.names and fields == header:
        raise InputError(f"{path}:1: is a header; leave {own} empty")
    if set(form.columns.values()) <= set(header):
        _check(path, form, header)
        return
    line = separator.join(fields)
    check_no_json(path, line)
    if len(fields) == 1 and (other := other_separator(line, separator)):
        raise InputError(
            f"{path}:1: no {separator!r} between the fields of {shown(line)}; "
            f"{form.prefix}separator={other!r} splits them"
        )
    if form.names:
        _check(path, form, header)
    names = ",".join(form.columns.values())
    if looks_like_data(fields):
        raise InputError(
            f"{path}:1: {shown(line)} looks like data; expected a header with {names}, or "
            f"the names of all {len(fields)} columns in {own} (NAME,NAME,...)"
        )
    _check(path, form, header, f"; {own} is for a file without a header")


def _check(path: Path, form: _Form, found: list[str], more: str = "") -> None:
    for option, column in form.columns.items():
        if column not in found:
            raise InputError(
                f"{path}: no column '{column}' ({form.prefix}{option}); {listed(found)}{more}"
            )
    for column in found if form.whole else form.columns.values():
        if column and found.count(column) > 1:
            raise InputError(f"{path}: {found.count(column)} columns are named '{column}'")
