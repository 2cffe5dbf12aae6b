"""Files of recommendations: csv, JSON lines, parquet.

A csv or parquet file has a row an item: `user`, `rank` (1 is best), `item`, `title`, `score`. A
jsonl file has a line a user: `user`, `items`, `titles`, `scores`. Of histories in the place of
users, `history` is the number of the history, from 1. Titles may be missing, and a list with no
item has no row (in jsonl an empty list).
"""

import contextlib
import csv
import functools
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from recjax.evaluation.lists import Recommendations
from recjax.out_files import check_out, table_of, utf8
from recjax.replace import new_file

_SUBJECTS = ("user", "history")
_COLUMNS = ("rank", "item", "title", "score")
_FIELDS = ("items", "titles", "scores")
_GROUP = 1 << 17  # rows of a group in a parquet file

Catalog = Sequence[dict[str, Any] | None]
# Takes a batch: subjects (user keys, or numbers of histories), ids [b k], scores [b k].
Write = Callable[[Sequence[Any], np.ndarray, np.ndarray], None]


def check_lists(out: Path, *, overwrite: bool) -> None:
    """Whether recommendations may be written to a file; no other file is ever replaced.

    Raises:
        InputError: see `recjax.out_files.check_out`; the endings are .csv, .jsonl and .parquet.
    """
    tables = [(subject, *names) for subject in _SUBJECTS for names in (_COLUMNS, _FIELDS)]
    check_out(out, _WRITERS, overwrite=overwrite, ours=table_of(*tables))


@contextlib.contextmanager
def list_file(out: Path, subject: str, catalog: Catalog) -> Iterator[Write]:
    """Opens a writer of batches into a file, which appears when all of them are written.

    Args:
        out: of `check_lists`.
        subject: "user" or "history".
        catalog: records by item id.

    Raises:
        InputError: it cannot be written.
    """
    with new_file(out) as file, _WRITERS[out.suffix](file, subject, catalog) as write:
        yield write


def as_records(recommended: Recommendations, subject: str) -> list[dict[str, Any]]:
    """The lines of a jsonl file."""
    file = io.BytesIO()
    with _jsonl(file, subject, recommended.catalog) as write:
        write(recommended.names, recommended.ids, recommended.scores)
    return [json.loads(line) for line in file.getvalue().splitlines()]


def _field(catalog: Catalog, name: str) -> list[Any]:
    """[I] texts by item id; None where there is none."""
    return [record and utf8(record[name]) for record in catalog]


def _number(score: float) -> str:
    return f"{score:.9g}"  # what tells float32 apart


def _csv_fields(*fields: Any) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(fields)
    return text.getvalue()


@contextlib.contextmanager
def _csv(file: IO[bytes], subject: str, catalog: Catalog) -> Iterator[Write]:
    # What lists repeat is spelled once.
    items = zip(_field(catalog, "key"), _field(catalog, "title"), strict=True)
    middles = [_csv_fields(*item) for item in items]
    file.write(f"{subject},{','.join(_COLUMNS)}\n".encode())

    def write(names: Sequence[Any], ids: np.ndarray, scores: np.ndarray) -> None:
        rows = [
            f"{name},{rank},{middles[id]},{_number(score)}\n"
            for name, items, values in zip(names, ids.tolist(), scores.tolist(), strict=True)
            for name in [_csv_fields(utf8(name))]
            for rank, (id, score) in enumerate(zip(items, values, strict=True), start=1)
            if id
        ]
        file.write("".join(rows).encode())

    yield write


@contextlib.contextmanager
def _jsonl(file: IO[bytes], subject: str, catalog: Catalog) -> Iterator[Write]:
    dump = functools.partial(json.dumps, ensure_ascii=False)
    columns = [[dump(text) for text in _field(catalog, name)] for name in ("key", "title")]

    def write(names: Sequence[Any], ids: np.ndarray, scores: np.ndarray) -> None:
        lines = []
        for name, row, values in zip(names, ids.tolist(), scores.tolist(), strict=True):
            chosen = [id for id in row if id]
            lists = [[texts[id] for id in chosen] for texts in columns]
            lists.append([_number(score) for score in values[: len(chosen)]])
            fields = zip(_FIELDS, map(", ".join, lists), strict=True)
            rest = ", ".join(f'"{field}": [{values}]' for field, values in fields)
            lines.append(f'{{"{subject}": {dump(utf8(name))}, {rest}}}\n')
        file.write("".join(lines).encode())

    yield write


@contextlib.contextmanager
def _parquet_file(file: IO[bytes], subject: str, catalog: Catalog) -> Iterator[Write]:
    import pyarrow
    from pyarrow import parquet

    keys, titles = (_field(catalog, name) for name in ("key", "title"))
    kinds = {
        subject: pyarrow.string() if subject == "user" else pyarrow.int64(),
        "rank": pyarrow.int32(),
        "item": pyarrow.string(),
        "title": pyarrow.string(),
        "score": pyarrow.float32(),
    }
    schema = pyarrow.schema(list(kinds.items()))
    waiting: list[Any] = []  # few rows in a group make a large and slow file

    with parquet.ParquetWriter(file, schema) as table:

        def flush(least: int) -> None:
            if waiting and sum(map(len, waiting)) >= least:
                table.write_table(pyarrow.concat_tables(waiting))
                waiting.clear()

        def write(names: Sequence[Any], ids: np.ndarray, scores: np.ndarray) -> None:
            row, column = np.nonzero(ids)
            subjects, chosen = [utf8(name) for name in names], ids[row, column].tolist()
            columns = (
                [subjects[r] for r in row.tolist()],
                column + 1,
                [keys[id] for id in chosen],
                [titles[id] for id in chosen],
                scores[row, column],
            )
            arrays = [
                pyarrow.array(column, kind)
                for column, kind in zip(columns, kinds.values(), strict=True)
            ]
            waiting.append(pyarrow.table(arrays, schema=schema))
            flush(_GROUP)

        yield write
        flush(1)


_WRITERS = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet_file}
