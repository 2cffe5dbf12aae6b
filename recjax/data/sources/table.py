"""Tables with named columns: csv, tsv (plain or gzip) and parquet."""

import csv
import dataclasses
import datetime
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recjax.config import nearest
from recjax.data.interactions import BadRows, Catalog, InteractionLog, LogBuilder
from recjax.data.sources._lines import records, text_lines
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
    for number, row in _rows(main, options, columns, bad):
        user, item = _key(row[options.user]), _key(row[options.item])
        if not user or not item:
            bad.report(main, number, f"empty '{options.user}' or '{options.item}'")
            continue
        try:
            time = _seconds(row[options.timestamp]) if options.timestamp else 0
        except ValueError:
            bad.report(
                main,
                number,
                f"'{options.timestamp}' is {row[options.timestamp]!r}; expected seconds or an ISO "
                "date or time",
            )
            continue
        try:
            rating = _finite(row[options.rating]) if options.rating else 0.0
        except (TypeError, ValueError):
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
        rows = _rows(path, options, columns, bad)
    for number, row in rows:
        key = _key(row.pop(options.items_key, None))
        if not key:
            bad.report(path, number, f"expected an item under '{options.items_key}'")
            continue
        title = str(row.pop(options.items_title, None) or "").strip()
        catalog[key] = {"title": title or None, **row}
    return catalog


def _rows(
    path: Path, options: Options, columns: dict[str, str], bad: BadRows
) -> Iterator[tuple[int, Row]]:
    """`(line number, row)`; columns named by the options must be there."""
    if path.suffix == ".parquet":
        yield from _parquet_rows(path, columns)
        return
    name = path.name.removesuffix(".gz")
    separator = options.separator or ("\t" if name.endswith((".tsv", ".inter", ".item")) else ",")
    if len(separator) != 1:
        raise InputError(f"config.data.options.separator: expected one character, {separator!r}")
    # csv.reader takes lines and may join some (quoted line ends); its own count names the line.
    reader = csv.reader((line + "\n" for _, line in text_lines(path)), delimiter=separator)
    header = next(reader)
    header[0] = header[0].removeprefix("\ufeff")
    _check_columns(path, columns, header)
    while True:
        number = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            bad.report(path, number, f"not csv ({error})")
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


def _parquet_rows(path: Path, columns: dict[str, str]) -> Iterator[tuple[int, Row]]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise InputError(f"{path}: parquet needs pyarrow; pip install 'recjax[parquet]'") from None
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        table = parquet.ParquetFile(path)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{path}: not a parquet file ({reason})") from None
    _check_columns(path, columns, table.schema_arrow.names)
    number = 0
    for batch in table.iter_batches(batch_size=1 << 16):
        for row in batch.to_pylist():
            number += 1
            yield number, row


def _key(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # integer columns with gaps come as floats
    return "" if value is None else str(value).strip()


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    return number


def _seconds(value: Any) -> int:
    """Seconds since the epoch from a number, a date or a time (UTC unless it says otherwise)."""
    if isinstance(value, (int, float)):
        return int(_finite(value))
    if isinstance(value, datetime.datetime):
        moment = value
    elif isinstance(value, datetime.date):
        moment = datetime.datetime(value.year, value.month, value.day)
    else:
        text = str(value).strip()
        try:
            return int(_finite(text))
        except ValueError:
            moment = datetime.datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return int(moment.timestamp())
