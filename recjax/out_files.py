"""Files of results, such as those of `--out`: where they may stand, and what their kinds share."""

import contextlib
import csv
import io
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from recjax.errors import InputError


def check_out(
    out: Path,
    endings: Collection[str],
    *,
    flag: str = "--out",
    overwrite: bool | None = False,
    ours: Callable[[Path], bool] = lambda path: True,
) -> None:
    """Whether a file may be written; called before anything is computed.

    Args:
        out: the file.
        endings: of its name, such as ".csv".
        flag: names it in errors.
        overwrite: whether it may replace a file; None: the command has no such flag.
        ours: whether a file that stands there is of the same kind (`table_of`): no other one is
            ever replaced.

    Raises:
        InputError: another ending, a parquet file without pyarrow, a folder, no folder to write
            into, or a file that may not be replaced.
    """
    where = f"{flag} {out}".lstrip()
    if out.suffix not in endings:
        raise InputError(f"{where}: expected a name that ends in {', '.join(endings)}")
    if out.suffix == ".parquet":
        parquet(where)
    if out.is_dir():
        raise InputError(f"{where}: is a folder; expected the name of a file")
    if not out.absolute().parent.is_dir():
        raise InputError(f"{where}: there is no folder {out.parent}; make it first")
    if not out.exists():
        return
    if not ours(out):
        raise InputError(
            f"{where}: another file is there, and recjax never replaces it; choose another name"
        )
    if not overwrite:
        how = "choose another name" if overwrite is None else "--overwrite replaces it"
        raise InputError(f"{where}: exists already; {how}")


def table_of(*begins: Sequence[str]) -> Callable[[Path], bool]:
    """Whether a file is a table whose columns begin with one of these lists, or is empty."""

    def ours(path: Path) -> bool:
        found = _columns(path)
        return found == [] or any(list(names) == (found or [])[: len(names)] for names in begins)

    return ours


def _columns(path: Path) -> list[str] | None:
    """Names of a table's columns: of a parquet file's schema, the first record of JSON lines, or
    the header of another file; [] for an empty file, None for no such table."""
    try:
        if not path.is_file():
            return None
        if not path.stat().st_size:
            return []
        if path.suffix == ".parquet":
            return parquet(path).read_schema(path).names
        with path.open("rb") as file:
            line = file.readline(1 << 24).decode().rstrip("\r\n")
        if path.suffix != ".jsonl":
            return line.split("\t" if path.suffix == ".tsv" else ",")
        record = json.loads(line)
        return list(record) if isinstance(record, dict) else None
    except (OSError, ValueError, RecursionError):
        return None


def parquet(where: Path | str) -> Any:
    """`pyarrow.parquet`; `InputError` that names the file where pyarrow is not installed."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise InputError(f"{where}: parquet needs pyarrow; pip install 'recjax[parquet]'") from None
    return pyarrow.parquet


def utf8(text: Any) -> Any:
    """A text that UTF-8 can write: halves of surrogate pairs become "?"."""
    return text.encode("utf-8", "replace").decode() if isinstance(text, str) else text


@contextlib.contextmanager
def csv_writer(file: IO[bytes], delimiter: str = ",") -> Iterator[Any]:
    """A `csv.writer` into a file of bytes, which stays open."""
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    try:
        yield csv.writer(text, lineterminator="\n", delimiter=delimiter)
    finally:
        text.detach()
