"""Item attributes as arrays: side inputs of models, by item id.

genres = multi_hot(store.catalog, "genres")              # values [I A] 0 or 1, names, known [I]
years = numbers(store.catalog, "year")                   # values [I 1]
aspects = read_scores("item_scores.tsv", store.catalog)  # values [I A], a column an aspect

Row 0 is the padding: zeros, unknown. Letters: I items and padding, A attributes.
"""

import csv
import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recjax.config import nearest
from recjax.data.sources._lines import check_no_json, csv_reader, other_separator, text_lines
from recjax.data.sources._parquet import parquet_rows
from recjax.data.sources._values import (
    field,
    inside,
    is_missing,
    number,
    number_with,
    paths,
    shown,
    text,
)
from recjax.data.sources._values import key as item_key
from recjax.errors import InputError

Catalog = Sequence[dict[str, Any] | None]


@dataclasses.dataclass(frozen=True, eq=False)
class Attributes:
    """Arrays of attributes by item id.

    Attributes:
        names: A names, of the columns.
        values: [I A] float32; 0 where an item is not known.
        known: [I] bool, items of which something is known.
    """

    names: tuple[str, ...]
    values: np.ndarray
    known: np.ndarray

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation [A] over the known items; 0 and 1 where there are none."""
        values = self.values[self.known]
        if not len(values):
            return np.zeros(len(self.names)), np.ones(len(self.names))
        return moments(values)

    def standardized(self, by: tuple[np.ndarray, np.ndarray] | None = None) -> np.ndarray:
        """[I A] with mean 0 and deviation 1 over the known items, or less the mean and by the
        deviation `by`; unknown ones stay 0."""
        mean, deviation = self.moments() if by is None else by
        scaled = (self.values - mean) / deviation
        return np.where(self.known[:, None], scaled, 0.0).astype(np.float32)


def moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation [A] of columns [n A]; of one that is the same everywhere its value and 1.

    The mean of equal numbers is rounded, and would leave a deviation that is nothing else.
    """
    alike = values.max(0) == values.min(0)
    mean = np.where(alike, values[0], values.mean(0))
    return mean, np.where(alike, np.float32(1), values.std(0))


def multi_hot(catalog: Catalog, key: str, at_least: int = 1) -> Attributes:
    """Labels (genres, tags, categories, a brand) as columns of zeros and ones.

    Args:
        catalog: `store.catalog`.
        key: of the records; its value is a label, a list of labels, or lists of them (Amazon's
            category paths).
        at_least: labels of fewer items are left out.

    Returns:
        Columns by falling number of items, equal ones by name.

    Raises:
        InputError: no record has the key, or one has something else than labels there.
    """
    try:
        labels = [frozenset(labels_of(value)) for value in column(catalog, key)]
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"'{key}' of an item of the catalogue: {error}") from None
    counts = Counter(label for item_labels in labels for label in item_labels)
    frequent = [c for c in counts.items() if c[1] >= at_least]
    names = tuple(name for name, _ in sorted(frequent, key=lambda c: (-c[1], c[0])))
    place = {name: k for k, name in enumerate(names)}
    values = np.zeros((len(catalog), len(names)), np.float32)
    for item, item_labels in enumerate(labels):
        values[item, [place[label] for label in item_labels if label in place]] = 1.0
    return Attributes(names, values, np.array([bool(item_labels) for item_labels in labels]))


def numbers(catalog: Catalog, key: str, decimal: str = ".") -> Attributes:
    """A number (year, price) as one column.

    Args:
        catalog: `store.catalog`.
        key: of its records, or a path of keys.
        decimal: the character before decimals, in text.

    Raises:
        InputError: no record has the key, or one has something else than a number there.
    """
    values = np.zeros((len(catalog), 1), np.float32)
    known = np.zeros(len(catalog), bool)
    for item, value in enumerate(column(catalog, key)):
        if value is None or value == "":
            continue
        try:
            values[item], known[item] = field(key, number_with, value, decimal), True
        except ValueError as error:
            record = catalog[item] or {}
            raise InputError(f"item {record.get('key', item)}: {error}") from None
    return Attributes((key,), values, known)


def read_scores(path: str | Path, catalog: Catalog, item: str = "item_id") -> Attributes:
    """A table of numbers by raw item id, such as scores of aspects.

    Args:
        path: a csv, tsv or parquet file with named columns; all but `item` are attributes.
        catalog: `store.catalog`; its records' `key` is the raw id. Rows of items outside of it
            (filtered away by a k-core) are left out.
        item: name of the column of ids.

    Raises:
        InputError: see `read_numbers`; or no row of an item of the catalogue.
    """
    ids = {str(record["key"]): k for k, record in enumerate(catalog) if record}
    names, values = read_numbers(path, ids, len(catalog), item)
    known = ~np.isnan(values).any(1)
    if not known.any():
        raise InputError(f"{path}: no row of an item of the catalogue (column '{item}')")
    return Attributes(names, np.where(known[:, None], values, 0), known)


def read_numbers(
    path: str | Path,
    ids: Mapping[str, int],
    rows: int,
    key: str,
    *,
    within: tuple[float, float] = (-math.inf, math.inf),
    gaps: bool = False,
    check: Callable[[tuple[str, ...]], Any] | None = None,
) -> tuple[tuple[str, ...], np.ndarray]:
    """A table of numbers by raw id.

    Args:
        path: a csv, tsv or parquet file with named columns; csv and tsv may be `.gz`.
        ids: raw id -> row of the result; rows of other ids are checked and left out.
        rows: of the result.
        key: name of the column of ids.
        within: the least and the most that a number may be.
        gaps: whether a number may be missing (see `recjax.data.sources._values.MISSING`).
        check: gets the names of the other columns before the rows are read.

    Returns:
        Names of the A other columns, and [rows A] float32 with NaN where there is no number.

    Raises:
        InputError: naming the file and line (the row of a parquet file): no such column, one that
            stands twice or has no name, a row of another width, a value that is no number or not
            within the range, an id a second time.
    """
    path = Path(path)
    table = _parquet_cells(path) if path.suffix == ".parquet" else _text_cells(path)
    header = [name.strip() for name in next(table)[1]]
    _check_header(path, header, key)
    at = header.index(key)
    names = tuple(name for name in header if name != key)
    if check is not None:
        check(names)
    low, high = within
    values = np.full((rows, len(names)), np.nan, np.float32)
    seen: set[str] = set()
    for line, cells in table:
        if len(cells) != len(header):
            if not cells:
                raise InputError(f"{path}:{line}: a blank line; expected {len(header)} columns")
            raise InputError(f"{path}:{line}: {len(cells)} columns, expected {len(header)}")
        try:
            raw = field(key, item_key, cells.pop(at))
            if raw in seen:
                raise ValueError(f"{key.removesuffix('_id')} {raw} a second time")
            seen.add(raw)
            numbers = [
                np.nan if gaps and is_missing(cell) else field(name, number, cell)
                for name, cell in zip(names, cells, strict=True)
            ]
            for name, value in zip(names, numbers, strict=True):
                if value < low or value > high:
                    raise ValueError(f"'{name}' is {value:.9g}; expected {low:g} to {high:g}")
        except ValueError as error:
            raise InputError(f"{path}:{line}: {error}") from None
        if raw in ids:
            values[ids[raw]] = numbers
    return names, values


def _check_header(path: Path, header: list[str], key: str) -> None:
    if key not in header:
        first = header[0] if header else ""
        check_no_json(path, first)
        other = other_separator(first, ",") if len(header) == 1 else ""
        if other.strip():
            raise InputError(
                f"{path}:1: {shown(first)} has no comma and no tab; expected columns that one of "
                f"these separates, '{key}' among them"
            )
        raise InputError(f"{path}:1: no column '{key}'; {nearest(key, header)}")
    for name, count in Counter(header).items():
        if not name.strip():
            place = header.index(name) + 1
            raise InputError(
                f"{path}:1: column {place} has no name; expected one for each column, and no index"
            )
        if count > 1:
            raise InputError(f"{path}:1: {count} columns '{name}'")


def _text_cells(path: Path) -> Iterator[tuple[int, list[Any]]]:
    """`(line number, cells)` of csv or tsv, the header first."""
    delimiter = ""
    for line, row in text_lines(path):
        delimiter = delimiter or ("\t" if "\t" in row else ",")
        try:
            yield line, next(csv_reader([row], delimiter))
        except csv.Error as error:
            raise InputError(f"{path}:{line}: not csv ({error})") from None


def _parquet_cells(path: Path) -> Iterator[tuple[int, list[Any]]]:
    """`(row number, cells)` of parquet, the names of its columns first."""
    header: list[str] = []
    row = 0
    for row, cells in parquet_rows(path, None, "", header.extend):
        if row == 1:
            yield 0, header
        yield row, list(cells.values())
    if not header:
        raise InputError(f"{path}: the file is empty")
    if not row:
        yield 0, header


def column(catalog: Catalog, key: str) -> list[Any]:
    """The value of every record at a key or a path of keys, None where it has none."""
    values = [inside(record, key) for record in catalog]
    known = known_keys(catalog)
    if key not in known and all(value is None for value in values):
        raise InputError(f"no item of the catalogue has '{key}'; {nearest(key, known)}")
    return values


def known_keys(records: Iterable[Mapping[str, Any] | None]) -> set[str]:
    """The keys of all records, and the paths to what stands inside of their objects."""
    return {key for record in records if record for key in (*record, *paths(record))}


def labels_of(value: Any) -> Iterator[str]:
    """A label, a list of labels, or lists of them, one after another."""
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from labels_of(part)
    elif label := text(value):
        yield label
