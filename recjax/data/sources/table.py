"""Tables with named columns: csv, tsv (plain or gzip) and parquet."""

import csv
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recjax.config import nearest
from recjax.data.interactions import BadRows, Catalog, InteractionLog, LogBuilder
from recjax.data.sources._lines import records, text_lines
from recjax.data.sources._values import finite, seconds
from recjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Options:
    file: str = ""  # interactions file in the folder; "" = the path is the file
    user: str = "user"  # column names
    item: str = "item"
    timestamp: str = "timestamp"  # seconds, or an ISO date or time; "" = the file is in time order
    rating: str = ""  # "" = no ratings
    title: str = ""  # title column of the interactions, where there is no items file
    separator: str = ""  # one character; "" = tab for .tsv, else comma
    quoted: bool = True  # fields may stand in double quotes; off = a quote is a letter
    items: str = ""  # items file beside the interactions: csv, tsv, parquet or .jsonl
    items_key: str = "item"  # columns of the items file
    items_title: str = "title"


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
    for number, row in _rows(main, options, columns, bad, every=False):
        user, item = _key(row[options.user]), _key(row[options.item])
        if not user or not item:
            bad.report(main, number, f"empty '{options.user}' or '{options.item}'")
            continue
        try:
            time = seconds(row[options.timestamp]) if options.timestamp else 0
        except ValueError:
            bad.report(
                main,
                number,
                f"'{options.timestamp}' is {row[options.timestamp]!r}; expected seconds or an ISO "
                "date or time",
            )
            continue
        try:
            rating = finite(row[options.rating]) if options.rating else 0.0
        except ValueError:
            bad.report(
                main, number, f"'{options.rating}' is {row[options.rating]!r}; expected a number"
            )
            continue
        log.add(user, item, time, rating)
        if options.title and item not in catalog:
            catalog[item] = {"title": str(row[options.title] or "").strip() or None}
    if options.items:
        catalog = _items(main.parent / options.items, options, bad)
    return log.build(), catalog


def _items(path: Path, options: Options, bad: BadRows) -> Catalog:
    catalog: Catalog = {}
    if path.name.removesuffix(".gz").endswith((".jsonl", ".json")):
        rows: Iterator[tuple[int, Row]] = records(path, bad)
    else:
        columns = {"items_key": options.items_key, "items_title": options.items_title}
        rows = _rows(path, options, columns, bad, every=True)
    for number, row in rows:
        key = _key(row.pop(options.items_key, None))
        if not key:
            bad.report(path, number, f"expected an item under '{options.items_key}'")
            continue
        title = str(row.pop(options.items_title, None) or "").strip()
        catalog[key] = {"title": title or None, **row}
    return catalog


def _rows(
    path: Path, options: Options, columns: dict[str, str], bad: BadRows, *, every: bool
) -> Iterator[tuple[int, Row]]:
    """`(line number, row)`; columns named by the options must be there.

    `every` keeps the others too (a parquet file need not be read whole without them).
    """
    if path.suffix == ".parquet":
        yield from _parquet_rows(path, columns, every)
        return
    name = path.name.removesuffix(".gz")
    separator = options.separator or ("\t" if name.endswith((".tsv", ".inter", ".item")) else ",")
    if len(separator) != 1:
        raise InputError(f"config.data.options.separator: expected one character, {separator!r}")
    # csv.reader takes lines and may join some (quoted line ends); its own count names the line.
    # Strict: a quote that is never closed would else swallow the rows that follow it.
    reader = csv.reader(
        (line.removeprefix("\ufeff") + "\n" for _, line in text_lines(path)),
        delimiter=separator,
        quoting=csv.QUOTE_MINIMAL if options.quoted else csv.QUOTE_NONE,
        strict=True,
    )
    try:
        header = next(reader)
    except csv.Error as error:
        raise InputError(f"{path}:1: not a header of csv ({error})") from None
    _check_columns(path, columns, header)
    while True:
        number = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            until = f"; read to line {reader.line_num}" if reader.line_num > number else ""
            bad.report(path, number, f"not csv ({error}{until})")
            continue
        if len(fields) != len(header):
            bad.report(path, number, f"{len(fields)} fields; expected {len(header)}")
            continue
        yield number, dict(zip(header, fields, strict=True))


def _check_columns(path: Path, columns: dict[str, str], found: list[str]) -> None:
    for option, column in columns.items():
        if column not in found:
            raise InputError(
                f"{path}: no column '{column}' (config.data.options.{option}); "
                f"{nearest(column, found)}"
            )
        if found.count(column) > 1:
            raise InputError(f"{path}: {found.count(column)} columns are named '{column}'")


def _parquet_rows(path: Path, columns: dict[str, str], every: bool) -> Iterator[tuple[int, Row]]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise InputError(f"{path}: parquet needs pyarrow; pip install 'recjax[parquet]'") from None
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    number = 0
    try:
        table = parquet.ParquetFile(path)
        _check_columns(path, columns, table.schema_arrow.names)
        wanted = None if every else sorted(set(columns.values()))
        for batch in table.iter_batches(batch_size=1 << 16, columns=wanted):
            for index, field in enumerate(batch.schema):
                # Python's times have no nanoseconds, and pyarrow would refuse to drop them.
                if pyarrow.types.is_timestamp(field.type) and field.type.unit == "ns":
                    coarse = pyarrow.timestamp("us", field.type.tz)
                    column = batch.column(index).cast(coarse, safe=False)
                    batch = batch.set_column(index, field.name, column)
            yield from enumerate(batch.to_pylist(), start=number + 1)
            number += len(batch)
    except InputError:
        raise
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        where = f" after row {number}" if number else ""
        raise InputError(f"{path}: not a parquet file, or damaged{where} ({reason})") from None


def _key(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # integer columns with gaps come as floats
    return "" if value is None else str(value).strip()
