"""Tables with named columns: csv, tsv, JSON lines (plain or gzip) and parquet.

The text is the user's: titles lose HTML entities, line ends and repeated blanks, other columns the
entities alone. Of several titles of an item the first one counts. `recjax/data/README.md` has the
options of public data sets.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from recjax.config import listed
from recjax.data.interactions import BadRows, Catalog, InteractionLog, LogBuilder
from recjax.data.sources._blocks import Places, add_blocks
from recjax.data.sources._tables import Form, Row, check_first, is_text, rows
from recjax.data.sources._times import TimeUnit, moment_of
from recjax.data.sources._values import add_item, field, is_missing, key, number_with, text
from recjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the reader of csv, tsv, JSON lines and parquet files."""

    file: str = ""  # interactions in the folder, a name or a pattern (*.csv); "" = path is the file
    user: str = "user"  # column names; of JSON and parquet also paths such as event.user.id
    item: str = "item"  # a list is so many rows; lists of times, ratings and titles run beside it
    timestamp: str = "timestamp"  # seconds, or an ISO date or time; "" = the file is in time order
    time_unit: TimeUnit = "s"  # of timestamps that are numbers; date: 20240301
    time_format: str = ""  # of other timestamps, as of Python's strptime: %d/%m/%Y %H:%M
    rating: str = ""  # "" = no ratings
    title: str = ""  # title column of the interactions, where there is no items file
    where: str = ""  # rows to keep: event=view, or event=view|buy,is_click=1; "" = all
    list_separator: str = ""  # between the items of one field of text
    separator: str = ""  # one character; "" = tab for .tsv, else comma
    columns: str = ""  # names for a csv file without a header, "user,item,rating,timestamp"
    quoted: bool = True  # fields may stand in double quotes; off = a quote is a letter
    escaped: bool = False  # a backslash before a quote makes it a letter (Spark, MySQL)
    encoding: str = "utf-8"  # of csv and tsv
    # Before the decimals of ratings, and of numbers of items that a guided source reads.
    decimal: Literal[".", ","] = "."
    items: str = ""  # items file beside the interactions: csv, tsv, parquet or JSON lines
    items_key: str = "item"  # columns of the items file
    items_title: str = "title"  # "" = no titles
    items_columns: str = ""  # names for an items file without a header
    items_separator: str = ""  # of the items file; "" = `separator`
    items_encoding: str = ""  # of the items file; "" = `encoding`
    items_lists: str = ""  # columns of the items file with several labels in a text: genres,tags
    items_list_separator: str = ","  # between these labels


def _places(path: Path, options: Options) -> tuple[list[Path], Path]:
    """The files of interactions, and the folder of the items' file."""
    if not path.is_dir():
        return [path], path.parent
    if not options.file:
        raise InputError(f"config.data.options.file: {path} is a folder; expected the file's name")
    file = path / options.file
    if file.is_file() or not set(options.file) & set("*?["):
        return [file], file.parent
    found = sorted(file for file in path.glob(options.file) if file.is_file())
    if not found:
        raise InputError(f"config.data.options.file: no file {file}")
    return found, path


def files(path: Path, options: Options) -> list[Path]:
    """The raw files that `read` reads."""
    found, folder = _places(path, options)
    return [*found, folder / options.items] if options.items else found


def read(path: Path, options: Options, bad: BadRows) -> tuple[InteractionLog, Catalog]:
    """Reads tables of interactions, and one of items where it is named.

    Args:
        path: the file, or its folder.
        options: the columns.
        bad: takes rows with missing or unreadable fields.
    """
    mains, folder = _places(path, options)
    where = _Where(options.where)
    named = {"user": options.user, "item": options.item, "timestamp": options.timestamp}
    named |= {"rating": options.rating, "title": options.title}
    columns = {option: column for option, column in named.items() if column}
    columns |= {f"where={column}": column for column in where.wanted}
    log = LogBuilder(timestamps="timestamp" in columns, ratings="rating" in columns)
    catalog: Catalog = {}
    form = Form(
        columns, options.columns, "columns", options.timestamp, separator=options.separator,
        quoted=options.quoted, escaped=options.escaped, encoding=options.encoding,
    )  # fmt: skip
    form.check_encoding()
    for main in mains:
        done = _plain_beginning(main, options, form, where, log)
        for line, row in rows(main, form, bad, done):
            try:
                single = _single(row, options, where)
                events = [_event(one, options, catalog) for one in single if where.keeps(one)]
            except ValueError as error:
                bad.report(main, line, str(error))
                continue
            for event in events:
                log.add(*event)
    found = log.build()
    where.check_found(len(found))
    if options.items:
        columns = {"items_key": options.items_key, "items_title": options.items_title}
        columns = {option: column for option, column in columns.items() if column}
        columns |= {f"items_lists={column}": column for column in _labelled(options)}
        form = dataclasses.replace(
            form, columns=columns, names=options.items_columns, option="items_columns", whole=True,
            separator=options.items_separator or options.separator,
            encoding=options.items_encoding or options.encoding, of="items_",
        )  # fmt: skip
        form.check_encoding()
        catalog = _items(folder / options.items, options, form, bad)
    return found, catalog


def _rating(value: Any, decimal: str) -> float:
    if is_missing(value):
        raise ValueError("expected a number (config.data.options.rating= leaves ratings out)")
    return number_with(value, decimal)


def _event(row: Row, options: Options, catalog: Catalog) -> tuple[str, str, int, float, int]:
    """User, item, seconds, rating and nanoseconds; the title goes to the catalogue."""
    user = field(options.user, key, row.get(options.user))
    item = field(options.item, key, row.get(options.item))
    time = moment_of(
        options.timestamp, row.get(options.timestamp), options.time_unit, options.time_format
    )
    rating = 0.0
    if options.rating:
        rating = field(options.rating, _rating, row.get(options.rating), options.decimal)
    if options.title:
        add_item(catalog, item, {"title": row.get(options.title)})
    return user, item, time.seconds, rating, time.nanoseconds


def _single(row: Row, options: Options, where: "_Where") -> Sequence[Row]:
    """The row, or a row for each of its items where it has a list of them."""
    items = row.get(options.item)
    if options.list_separator and isinstance(items, str):
        items = [item for item in items.split(options.list_separator) if item]
    if not isinstance(items, (list, tuple)):
        return (row,)
    beside = {options.item: items}
    for name in (options.timestamp, options.rating, options.title, *where.wanted):
        values = row.get(name)
        if isinstance(values, (list, tuple)):
            if len(values) != len(items):
                raise ValueError(
                    f"'{name}' has {len(values)} values; expected {len(items)}, as "
                    f"'{options.item}' has"
                )
            beside[name] = values
    return [
        {**row, **dict(zip(beside, one, strict=True))} for one in zip(*beside.values(), strict=True)
    ]


class _Where:
    """The rows that the option `where` keeps.

    Attributes:
        wanted: the values that keep a row, by column.
    """

    def __init__(self, given: str):
        self.wanted: dict[str, set[str]] = {}
        self._others: dict[str, set[str]] = {}  # some of those that keep none
        for part in given.split(",") if given else ():
            column, equals, values = part.partition("=")
            if not equals or not column.strip():
                raise InputError(
                    f"config.data.options.where: expected COLUMN=VALUE, or COLUMN=VALUE|VALUE, "
                    f"got '{part}'"
                )
            self.wanted[column.strip()] = {value.strip() for value in values.split("|")}

    def takes(self, column: str, value: str) -> bool:
        """Whether a column's value keeps the row."""
        if value in self.wanted[column]:
            return True
        others = self._others.setdefault(column, set())
        if len(others) < 1000:
            others.add(value)
        return False

    def keeps(self, row: Row) -> bool:
        """Whether all columns keep a row."""
        for column in self.wanted:
            value = row.get(column)
            cell = str(value).lower() if isinstance(value, bool) else field(column, text, value)
            if not self.takes(column, cell):
                return False
        return True

    def check_found(self, rows: int) -> None:
        """`InputError` where it kept no row, with values that the columns have."""
        if not rows and self._others:
            found = (f"'{c}' is {', '.join(sorted(v)[:10])}" for c, v in self._others.items())
            raise InputError(f"config.data.options.where: it keeps no row; {'; '.join(found)}")


def _plain_beginning(
    path: Path, options: Options, form: Form, where: _Where, log: LogBuilder
) -> tuple[int, int]:
    """Adds the rows of a csv file's plain beginning; how many bytes and lines these are."""
    commas = options.rating and options.decimal == ","
    looked_at = (options.title, options.list_separator, options.time_format, commas)
    if any(looked_at) or form.encoding != "utf-8" or not is_text(path) or not path.is_file():
        return 0, 0
    separator = form.separator_of(path)

    def places_of(fields: list[str]) -> tuple[Places, bool] | None:
        header = form.header(fields)
        check_first(path, form, header, fields, separator)
        if len(fields) != len(header):
            return None
        wanted = (options.user, options.item, options.timestamp, options.rating)
        user, item, time, rating = (header.index(name) if name else -1 for name in wanted)
        kept = ((header.index(name), functools.partial(where.takes, name)) for name in where.wanted)
        places = Places(
            len(header), user, item, time, rating, options.timestamp, options.time_unit, tuple(kept)
        )
        return places, not form.names

    return add_blocks(path, separator, options.quoted, log, places_of)


def _items(path: Path, options: Options, form: Form, bad: BadRows) -> Catalog:
    catalog: Catalog = {}
    names: set[str] = set()
    for line, row in rows(path, form, bad):
        names.update(row)
        for name in _labelled(options):
            row[name] = _labels(row.get(name), options.items_list_separator)
        try:
            item = field(options.items_key, key, row.pop(options.items_key, None))
            add_item(catalog, item, {"title": row.pop(options.items_title, None), **row})
        except ValueError as error:
            bad.report(path, line, str(error))
    if options.items_title and names and options.items_title not in names:  # of JSON
        raise InputError(
            f"{path}: no record has '{options.items_title}' (config.data.options.items_title); "
            f"{listed(sorted(names))}"
        )
    return catalog


def _labelled(options: Options) -> list[str]:
    return [name.strip() for name in options.items_lists.split(",") if name.strip()]


def _labels(value: Any, separator: str) -> Any:
    """The labels that stand in one text; other values as they are."""
    if not isinstance(value, str) or not separator:
        return value
    return [label for part in value.split(separator) if (label := text(part))]


def read_records(path: Path, key_column: str, columns: str, separator: str, prefix: str) -> Catalog:
    """The records of a table of users or items, with any columns, by raw key.

    Args:
        path: csv, tsv, parquet or JSON lines, plain or gzip.
        key_column: the column of keys.
        columns: names for a file without a header; "" = it has one.
        separator: one character; "" = tab for .tsv, else comma.
        prefix: of the config's keys with `key`, `names` and `separator`, for errors.

    Raises:
        InputError: naming the line or the column.
    """
    form = Form(
        {"key": key_column}, columns, "names", prefix=prefix, whole=True, separator=separator
    )
    bad, out = BadRows(), Catalog()
    for line, row in rows(path, form, bad):
        try:
            add_item(out, field(key_column, key, row.pop(key_column, None)), row)
        except ValueError as error:
            bad.report(path, line, str(error))
    return out
