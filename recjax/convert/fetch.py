"""Arrays of devices in the host's memory, one at a time."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recjax.nn.backend import host_buffer


@jax.jit
def _copied(array: jax.Array) -> jax.Array:
    return jnp.copy(array)


@jax.jit
def _traced_row(array: jax.Array, row: jax.Array) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(array, row, keepdims=False)


@functools.lru_cache(maxsize=8)
def _gathered(row: bool, mesh: jax.sharding.Mesh) -> Callable[..., jax.Array]:
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return jax.jit(_traced_row if row else _copied, out_shardings=everywhere)


def spans_processes(arrays: Iterable[Any]) -> bool:
    """Whether some array lies on devices of several processes, and on none of them whole."""
    return any(
        isinstance(a, jax.Array) and not (a.is_fully_addressable or a.is_fully_replicated)
        for a in arrays
    )


def on_host(array: Any, row: int | None = None) -> np.ndarray:
    """An array, or one row of it, in the host's memory; the array keeps no copy of it there.

    Where it is split over the devices of several processes, all of them ask for it at the same
    time, and every device holds it for a moment.

    Args:
        array: of numpy or JAX.
        row: along the first axis; None = all.
    """
    if isinstance(array, jax.Array) and array.is_fully_replicated:
        array = array.addressable_data(0)
    whole = host_buffer(array)
    if whole is not None:
        return whole if row is None else whole[row]
    number = () if row is None else (jnp.int32(row),)  # one program a shape, not one a row
    if not array.is_fully_addressable:
        made = _gathered(row is not None, array.sharding.mesh)(array, *number)
        return np.asarray(made.addressable_data(0))
    # JAX would keep what it fetched of the array itself.
    return np.asarray(_copied(array) if row is None else _traced_row(array, *number))
