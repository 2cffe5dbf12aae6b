"""Score files are written: a table, and the set of its aspects beside it."""

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from recjax.config import to_plain
from recjax.errors import InputError
from recjax.guided.aspects import BESIDE, ITEM, AspectSet
from recjax.replace import new_file, write_text

ENDINGS = (".tsv", ".csv", ".parquet")


def write_scores(
    path: str | Path,
    keys: Iterable[str],
    values: np.ndarray,
    aspects: AspectSet,
    key: str = ITEM,
) -> None:
    """Writes a score file, and its set beside it; each is there when it is whole.

    Args:
        path: ends in .tsv, .csv or .parquet; what stands there is replaced.
        keys: raw ids.
        values: [n A]; NaN = no score (an empty cell).
        aspects: of the columns.
        key: `ITEM` or `USER`.

    Raises:
        InputError: another ending, no pyarrow for a parquet file, or it cannot be written.
    """
    path = Path(path)
    check_ending(path)
    plainly = to_plain(aspects)
    write_text(path.with_name(path.name + BESIDE), json.dumps(plainly, indent=1) + "\n")
    rows = zip(keys, np.asarray(values, np.float64), strict=True)
    if path.suffix == ".parquet":
        _write_parquet(path, rows, aspects, key)
        return
    with new_file(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
        writer = csv.writer(
            text, lineterminator="\n", delimiter="\t" if path.suffix == ".tsv" else ","
        )
        writer.writerow([key, *aspects.names])
        for name, row in rows:
            writer.writerow([name, *("" if np.isnan(v) else f"{v:.6g}" for v in row)])
        text.detach()  # the file stays open


def check_ending(path: Path) -> None:
    """Whether scores can be written as such a file; `InputError` where not."""
    if path.suffix not in ENDINGS:
        raise InputError(f"{path}: expected a name that ends in {', '.join(ENDINGS)}")
    if path.suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            raise InputError(
                f"{path}: parquet needs pyarrow; pip install 'recjax[parquet]'"
            ) from None


def _write_parquet(path: Path, rows: Any, aspects: AspectSet, key: str) -> None:
    import pyarrow
    from pyarrow import parquet

    keys, values = [], []
    for name, row in rows:
        keys.append(name)
        values.append(row)
    table = np.stack(values) if values else np.zeros((0, len(aspects)))
    columns = {key: pyarrow.array(keys, pyarrow.string())}
    for name, column in zip(aspects.names, table.T, strict=True):
        columns[name] = pyarrow.array(column.astype(np.float32), from_pandas=True)
    with new_file(path) as file:
        parquet.write_table(pyarrow.table(columns), file)
