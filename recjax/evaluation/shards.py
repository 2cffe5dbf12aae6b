"""Batches that are split over devices, each of which measures its part.

How a batch's rows are split is a `NamedSharding` (`recjax.training.parallel.batch_sharding`), or
None for one device.
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import NamedSharding, PartitionSpec

from recjax.sharded import BATCH, Split
from recjax.typing import Array

T = TypeVar("T")


def _axes(sharding: NamedSharding) -> tuple[str, ...]:
    """The mesh axes that split the rows."""
    return tuple(sharding.spec[0])


def shards_of(sharding: NamedSharding | None) -> int:
    """The number of parts that rows are split into."""
    return 1 if sharding is None else math.prod(sharding.mesh.shape[a] for a in _axes(sharding))


def split_batch(
    batch: Mapping[str, np.ndarray], sharding: NamedSharding | None
) -> dict[str, Array]:
    """Puts a batch on its devices, each a part of its rows; every process has the whole batch."""
    if sharding is None:
        return jax.device_put(dict(batch))
    return {
        name: jax.make_array_from_callback(rows.shape, sharding, rows.__getitem__)
        for name, rows in batch.items()
    }


def filled(batch: Mapping[str, np.ndarray], rows: int) -> dict[str, np.ndarray]:
    """A batch of arrays [B ...], padded to `rows` rows by copies of its first one."""
    return {
        name: np.concatenate([a, np.repeat(a[:1], rows - len(a), axis=0)])
        for name, a in batch.items()
    }


def on_each(
    function: Callable[..., Any], sharding: NamedSharding | None, whole: tuple, *rows: Any
) -> Any:
    """`function(*whole, *rows)` inside a jitted function, each device for its part of the rows.

    Nothing is gathered, which sorting would otherwise do: JAX splits no `top_k`.

    Args:
        function: returns arrays of rows.
        whole: what every device reads all of.
        rows: arrays [B ...], or trees of them.
    """
    if sharding is None or shards_of(sharding) == 1:
        return function(*whole, *rows)
    return jax.shard_map(
        function,
        mesh=sharding.mesh,
        in_specs=(*(PartitionSpec() for _ in whole), *(sharding.spec for _ in rows)),
        out_specs=sharding.spec,
        axis_names=set(_axes(sharding)),
        check_vma=False,  # nothing is differentiated through it
    )(*whole, *rows)


def by_rows(
    function: Callable[..., Any],
    sharding: NamedSharding | None,
    whole: Mapping[str, Any],
    rows: Mapping[str, Any],
) -> Any:
    """`on_each` for a function with keyword arguments: `function(**whole, **rows)`."""
    return on_each(lambda whole, rows: function(**whole, **rows), sharding, (whole,), rows)


def over_items(
    function: Callable[..., Any],
    sharding: NamedSharding | None,
    split: Split | None,
    table: tuple,
    *rows: Any,
) -> Any:
    """`on_each` where also a table's rows may be split over the devices.

    Args:
        function: `(*table, *rows, split=)`; `split` is None where each device has whole tables.
        sharding: of the rows.
        split: of the table.
        table: arrays [I ...] that are split alike.
        rows: arrays [B ...], or trees of them.
    """
    if split is None:
        return on_each(functools.partial(function, split=None), sharding, table, *rows)
    by_row, by_example = PartitionSpec(split.axes), PartitionSpec(BATCH)
    return split.map(
        functools.partial(function, split=split),
        (*(by_row for _ in table), *(by_example for _ in rows)),
        by_example,
    )(*table, *rows)


def pipelined(launched: Iterable[T]) -> Iterator[T]:
    """Results of batches, each given when the next one is launched: the devices compute a batch
    while the host makes the next one."""
    waiting: list[T] = []
    for result in launched:
        yield from waiting
        waiting = [result]
    yield from waiting


def fetch(result: Any) -> Any:
    """Arrays on the host; every process gets them whole."""
    return jax.tree.map(
        lambda x: np.asarray(x) if x.is_fully_addressable else process_allgather(x, tiled=True),
        result,
    )
