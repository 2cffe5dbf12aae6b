"""Files of scores on aspects: read, and written.

    items = read_item_scores("item_scores.tsv", store.catalog)
    users = read_user_scores("user_scores.tsv", store.user_numbers, items.aspects)
    items.attributes().standardized()                     # [I A], a column an aspect

Scores are a table (csv, tsv or parquet) with a column of ids, `item_id` or `user_id`, and one for
each aspect; any model or a person may have written it. Beside it may stand the set that it is of,
as `FILE.aspects.json`; without it the columns say which of the published sets it is, and other
columns are a set of their own, from 1 to 10. Where there is no number for an item, the mean of its
aspect over the known ones stands in for it, and is counted.

Letters: I items and padding, U users, A aspects.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from recjax.config import nearest, to_plain
from recjax.data.attributes import Attributes, Catalog, read_numbers
from recjax.errors import InputError
from recjax.guided.aspects import (
    ITEM,
    USER,
    AspectSet,
    aspect_set,
    check_same,
    check_set,
    plain,
    set_of,
)
from recjax.out_files import check_out, csv_writer, utf8
from recjax.paths import home
from recjax.replace import new_file, write_text

ENDINGS = (".tsv", ".csv", ".parquet")
BESIDE = ".aspects.json"  # after a score file's name


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """Scores by item or user.

    Attributes:
        aspects: their set.
        values: [I A] or [U A] float32; the mean of an aspect where there is no number.
        known: [I A] or [U A] bool.
        missing: items or users with no number at all, the padding not counted.
        gaps: single numbers that are missing of the others.
    """

    aspects: AspectSet
    values: np.ndarray
    known: np.ndarray
    missing: int
    gaps: int

    def attributes(self) -> Attributes:
        """The scores as item attributes; an item is known if any of its numbers is.

        Standardised, an item without numbers is 0, which is the mean; so is a missing number.
        """
        known = np.asarray(self.known.any(1))
        values = np.where(known[:, None], self.values, 0)
        return Attributes(self.aspects.names, values, known)

    def says(self) -> str:
        """One line about missing numbers; "" if none is missing."""
        parts = []
        if self.missing:
            parts.append(f"items without scores: {self.missing:,}")
        if self.gaps:
            parts.append(f"single scores missing: {self.gaps:,}")
        return "; ".join(parts) + " (the mean of the others stands in)" if parts else ""


def read_item_scores(
    path: str | Path, catalog: Catalog, aspects: AspectSet | None = None
) -> Scores:
    """Scores of a catalogue's items, [I A]; row 0 (the padding) is not known.

    Args:
        path: of the table, with a column `item_id`; rows of other items are left out.
        catalog: `store.catalog`.
        aspects: the expected set; by default the file says which.

    Raises:
        InputError: naming the file and line: see `recjax.data.attributes.read_numbers`; a number
            out of the scale, columns of another set, no item of the catalogue.
    """
    ids = {str(record["key"]): k for k, record in enumerate(catalog) if record}
    return read_scores(path, ids, len(catalog), ITEM, aspects)


def read_user_scores(
    path: str | Path, users: Mapping[str, int], aspects: AspectSet | None = None
) -> Scores:
    """Scores of users, [U A].

    Args:
        path: of the table, with a column `user_id`.
        users: raw id -> number, such as `store.user_numbers`.
        aspects: the expected set, such as that of the items.

    Raises:
        InputError: see `read_item_scores`.
    """
    return read_scores(path, users, len(users), USER, aspects)


def read_scores(
    path: str | Path, ids: Mapping[str, int], rows: int, key: str, aspects: AspectSet | None = None
) -> Scores:
    """Reads scores by raw id, for `read_item_scores` and `read_user_scores`.

    Args:
        path: of the table.
        ids: raw id -> row of the result.
        rows: of the result.
        key: name of the column of ids, `ITEM` or `USER`.
        aspects: the expected set; by default the file says which.

    Raises:
        InputError: see `read_item_scores`.
    """
    path = home(path)
    own = _set_beside(path)
    if own is not None and aspects is not None:
        check_same(own, aspects, f"{path}{BESIDE}", f"'{aspects.name}'")
    scale = own or aspects
    ends = (scale.least, scale.most) if scale else (1, 10)
    sets: list[AspectSet] = []

    def check(names: tuple[str, ...]) -> None:
        if not names:
            raise InputError(f"{path}:1: no column beside '{key}'; expected one for each aspect")
        sets.append(aspects or own or set_of(names, path))
        _check_columns(names, sets[0], path)

    names, values = read_numbers(path, ids, rows, key, within=ends, gaps=True, check=check)
    chosen, columns = sets[0], list(map(plain, names))
    values = values[:, [columns.index(plain(name)) for name in chosen.names]]
    known = ~np.isnan(values)
    if not known.any():
        raise InputError(f"{path}: no score of a known {key.removesuffix('_id')} (column '{key}')")
    counts = known.sum(0)
    means = np.where(known, values, 0).sum(0) / np.maximum(counts, 1)
    means = np.where(counts > 0, means, sum(ends) / 2)
    some = known.any(1)
    return Scores(
        chosen,
        np.where(known, values, means).astype(np.float32),
        known,
        missing=len(ids) - int(some.sum()),
        gaps=int((~known[some]).sum()),
    )


def _set_beside(path: Path) -> AspectSet | None:
    beside = path.with_name(path.name + BESIDE)
    return aspect_set(beside) if beside.exists() else None


def _check_columns(names: Sequence[str], aspects: AspectSet, path: Path) -> None:
    """Whether the columns are the aspects of a set, one for each."""
    expected, columns = set(map(plain, aspects.names)), list(map(plain, names))
    for name in aspects.names:
        if plain(name) not in columns:
            raise InputError(
                f"{path}:1: no column for the aspect '{name}' of '{aspects.name}'; "
                f"{nearest(name, names)}"
            )
    for place, name in enumerate(names):
        if plain(name) not in expected:
            raise InputError(
                f"{path}:1: the column '{name}' is no aspect of '{aspects.name}'; "
                f"{nearest(name, aspects.names)}"
            )
        if plain(name) in columns[:place]:
            first = names[columns.index(plain(name))]
            raise InputError(f"{path}:1: the columns '{first}' and '{name}' are one aspect")


def write_scores(
    path: str | Path,
    keys: Iterable[str],
    values: np.ndarray,
    aspects: AspectSet,
    key: str = ITEM,
) -> None:
    """Writes a score file, and its set beside it. A file appears when it is complete.

    Args:
        path: ends in .tsv, .csv or .parquet; what stands there is replaced.
        keys: raw ids.
        values: [n A]; NaN = no score (an empty cell).
        aspects: of the columns.
        key: `ITEM` or `USER`.

    Raises:
        InputError: see `recjax.out_files.check_out`; a set that no file may have, values of another
            shape, or it cannot be written.
    """
    path = Path(path)
    check_out(path, ENDINGS, flag="", overwrite=True)
    check_set(aspects, f"the aspects of {path}")
    keys, values = [utf8(name) for name in keys], np.asarray(values, np.float64)
    if values.shape != (len(keys), len(aspects)):
        raise InputError(
            f"{path}: values: expected {[len(keys), len(aspects)]}, a row for each key and a "
            f"column for each aspect, got {list(values.shape)}"
        )
    with new_file(path) as file:
        if path.suffix == ".parquet":
            _write_parquet(file, keys, values, aspects, key)
        else:
            with csv_writer(file, "\t" if path.suffix == ".tsv" else ",") as writer:
                writer.writerow([key, *aspects.names])
                for name, row in zip(keys, values, strict=True):
                    writer.writerow([name, *("" if np.isnan(v) else f"{v:.6g}" for v in row)])
        # Once the table is written whole; it takes its place right after.
        beside = json.dumps(to_plain(aspects), indent=1)
        write_text(path.with_name(path.name + BESIDE), beside + "\n")


def _write_parquet(
    file: IO[bytes], keys: Sequence[str], values: np.ndarray, aspects: AspectSet, key: str
) -> None:
    import pyarrow
    from pyarrow import parquet

    columns = {key: pyarrow.array(keys, pyarrow.string())}
    for name, column in zip(aspects.names, values.T, strict=True):
        columns[name] = pyarrow.array(column.astype(np.float32), from_pandas=True)
    parquet.write_table(pyarrow.table(columns), file)
