"""Rows of parquet files."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from recjax.data.sources._times import UNITS, Time
from recjax.errors import InputError
from recjax.out_files import parquet

_BATCH = 1 << 16  # rows


def parquet_rows(
    path: Path, wanted: list[str] | None, time: str, check: Callable[[list[str]], None]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """`(row number from 1, row)` of a parquet file.

    Args:
        path: the file.
        wanted: names of the columns, or paths into them (`events.aid`); None for all.
        time: name of the column whose times and dates are to be whole, as `Time`; "" = none.
        check: gets the file's names of columns.

    Raises:
        InputError: no such file, a damaged one, no pyarrow; what `check` raises.
    """
    reader = parquet(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    number = 0
    try:
        table = reader.ParquetFile(path)
        names = table.schema_arrow.names
        check(names)
        if wanted is not None:
            wanted = [name if name in names else name.partition(".")[0] for name in wanted]
            wanted = list(dict.fromkeys(wanted))
        for batch in table.iter_batches(batch_size=_BATCH, columns=wanted):
            columns = {
                name: _values(column, name == time)
                for name, column in zip(batch.schema.names, batch.columns, strict=True)
            }
            for values in zip(*columns.values(), strict=True):
                number += 1
                yield number, dict(zip(columns, values, strict=True))
    except InputError:
        raise
    except (OSError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())[:120]
        where = f" after row {number}" if number else ""
        raise InputError(f"{path}: not a parquet file, or damaged{where} ({reason})") from None


def _values(column: Any, as_times: bool) -> list[Any]:
    """A column's values as Python's."""
    import pyarrow

    kind = column.type
    if pyarrow.types.is_timestamp(kind):
        # Python's times have no nanoseconds, and end with the year 9999.
        if as_times:
            unit = UNITS[kind.unit]
            return [
                None if n is None else Time(n // unit, n % unit * (10**9 // unit))
                for n in column.cast(pyarrow.int64()).to_pylist()
            ]
        column = column.cast(pyarrow.timestamp("us"), safe=False)
    elif pyarrow.types.is_nested(kind):
        column = column.cast(_in_microseconds(kind), safe=False)
    elif pyarrow.types.is_date32(kind) and as_times:
        days = column.cast(pyarrow.int32()).to_pylist()
        return [None if n is None else Time(n * 86400) for n in days]
    try:
        return column.to_pylist()
    except OverflowError:
        return [_date(value) for value in column]


def _in_microseconds(kind: Any) -> Any:
    """A nested type without nanoseconds, which Python's times do not have."""
    import pyarrow
    from pyarrow import types

    if types.is_timestamp(kind):
        return pyarrow.timestamp("us", kind.tz) if kind.unit == "ns" else kind
    if types.is_list(kind):
        return pyarrow.list_(_in_microseconds(kind.value_type))
    if types.is_large_list(kind):
        return pyarrow.large_list(_in_microseconds(kind.value_type))
    if types.is_struct(kind):
        return pyarrow.struct([field.with_type(_in_microseconds(field.type)) for field in kind])
    return kind


def _date(value: Any) -> Any:
    """A date or time as Python's; None for one after the year 9999, which Python does not have."""
    try:
        return value.as_py()
    except OverflowError:
        return None
