"""Arrays that are split over devices: axes of the mesh, rules, and what models need of them.

`RULES` says over which axes of the mesh each logical axis is split; a run's `config.train.rules`
changes them. While a step is traced, `placing` tells models where they run: `constrain` keeps
activations split, `rows_of` looks up rows of a table without gathering the table. Without a
`placing`, and on one device, both do nothing special.
"""

import contextlib
import contextvars
import functools
import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from recjax.typing import Array

MESH_AXES = ("data", "fsdp", "tensor")
BATCH = ("data", "fsdp")  # the axes that split the rows of a batch
Axes = str | tuple[str, ...]

# Logical axis -> mesh axes. An axis that is not named here is replicated.
RULES: dict[str, Axes] = {
    "items": ("fsdp", "tensor"),
    "vocab": ("fsdp", "tensor"),
    "embed": "fsdp",
    "heads": "tensor",
    "kv_heads": "tensor",
    "mlp": "tensor",
    "length": (),  # of activations between layers; "tensor" splits long contexts
}


class Places(NamedTuple):
    """Where something runs.

    Attributes:
        mesh: the devices.
        rules: see `RULES`.
    """

    mesh: Mesh
    rules: Mapping[str, Axes] = RULES


_current: contextvars.ContextVar[Places | None] = contextvars.ContextVar("places", default=None)


@contextlib.contextmanager
def placing(mesh: Mesh | None, rules: Mapping[str, Axes] = RULES) -> Iterator[None]:
    """While this is active, models know their devices; for code that is being traced."""
    token = _current.set(None if mesh is None or mesh.size == 1 else Places(mesh, rules))
    try:
        yield
    finally:
        _current.reset(token)


def is_placed() -> bool:
    """Whether what is traced runs on several devices, by a `placing`."""
    return _current.get() is not None


def mesh_axes(name: str | None, rules: Mapping[str, Axes] = RULES) -> tuple[str, ...]:
    """The mesh axes of a logical axis."""
    wanted = rules.get(name, ()) if name else ()
    return (wanted,) if isinstance(wanted, str) else tuple(wanted)


def split_axes(size: int, name: str, mesh: Mesh, rules: Mapping[str, Axes]) -> tuple[str, ...]:
    """The mesh axes over which so many rows of a table are split; none where they do not divide."""
    axes = tuple(a for a in mesh_axes(name, rules) if mesh.shape[a] > 1)
    return () if size % math.prod(mesh.shape[a] for a in axes) else axes


def table_axes(size: int, name: str, mesh: Mesh) -> tuple[str, ...]:
    """`split_axes` by the rules that hold where this is traced."""
    places = _current.get()
    return split_axes(size, name, mesh, RULES if places is None else places.rules)


def constrain(x: Array, *names: str | None) -> Array:
    """Keeps an activation split: a name for each axis, "batch" or of the rules, or None.

    Axes that their mesh axes do not divide stay whole.
    """
    places = _current.get()
    if places is None:
        return x
    spec: list[tuple[str, ...] | None] = []
    for size, name in zip(x.shape, names, strict=True):
        wanted = BATCH if name == "batch" else mesh_axes(name, places.rules)
        used = {a for part in spec if part for a in part}
        axes = tuple(a for a in wanted if places.mesh.shape[a] > 1 and a not in used)
        divides = axes and not size % math.prod(places.mesh.shape[a] for a in axes)
        spec.append(axes if divides else None)
    sharding = NamedSharding(places.mesh, PartitionSpec(*spec))
    return jax.lax.with_sharding_constraint(x, sharding)


class Split(NamedTuple):
    """The split of a table's rows, as each device sees it.

    Attributes:
        mesh: the devices.
        axes: that split the rows.
    """

    mesh: Mesh
    axes: tuple[str, ...]

    @property
    def gathered(self) -> tuple[str, ...]:
        """Axes that split rows of a batch, too: their devices work on each other's positions."""
        return tuple(a for a in BATCH if a in self.axes)

    @property
    def summed(self) -> tuple[str, ...]:
        """Axes that split the table alone."""
        return tuple(a for a in self.axes if a not in BATCH)

    @property
    def rest(self) -> tuple[str, ...]:
        """Axes of the batch that do not split the table: its gradients are summed over them."""
        return tuple(a for a in BATCH if a not in self.axes)

    @property
    def together(self) -> int:
        """The number of devices whose positions are gathered."""
        return math.prod(self.mesh.shape[a] for a in self.gathered)

    def first(self, table: Array) -> Array:
        """Number of the first row of this device's part."""
        return jax.lax.axis_index(self.axes) * len(table)

    def gather(self, x: Array) -> Array:
        """Positions of all devices that share the table."""
        if not self.gathered or not x.size:
            return x
        return jax.lax.all_gather(x, self.gathered, tiled=True)

    def own(self, x: Array) -> Array:
        """This device's positions, summed over the table's parts."""
        if self.summed:
            x = jax.lax.psum(x, self.summed)
        if self.gathered:
            x = jax.lax.psum_scatter(x, self.gathered, scatter_dimension=0, tiled=True)
        return x

    def map(self, function, in_specs, out_specs):
        """`function` on each device."""
        return jax.shard_map(
            function, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
        )


def rows_of(table: Array, ids: Array, name: str) -> Array:
    """`table[ids]`, [I D] and [...] -> [... D], without gathering a table that is split.

    Each device looks up, for the positions of all that share its table with it, the rows that it
    holds.

    Args:
        table: [I D].
        ids: row numbers.
        name: the logical axis of the rows.
    """
    places = _current.get()
    axes = () if places is None else split_axes(len(table), name, *places)
    if places is None or not axes or ids.size % math.prod(places.mesh.shape[a] for a in BATCH):
        return table[ids]
    flat = _rows(table, ids.reshape(-1), Split(places.mesh, axes))
    return flat.reshape(*ids.shape, *table.shape[1:])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _rows(table: Array, ids: Array, split: Split) -> Array:
    def one(table: Array, ids: Array) -> Array:
        place = split.gather(ids) - split.first(table)
        inside = (place >= 0) & (place < len(table))
        local = table[jnp.clip(place, 0, len(table) - 1)]
        return split.own(jnp.where(inside[:, None], local, 0))

    by_row, by_position = PartitionSpec(split.axes), PartitionSpec(BATCH)
    return split.map(one, (by_row, by_position), by_position)(table, ids)


def _rows_fwd(table: Array, ids: Array, split: Split):
    return _rows(table, ids, split), (ids, jnp.zeros((0, len(table)), table.dtype))


def _rows_bwd(split: Split, residuals, d_rows: Array):
    ids, like = residuals
    rows = like.shape[1] // math.prod(split.mesh.shape[a] for a in split.axes)

    def one(ids: Array, d_rows: Array) -> Array:
        out = jnp.zeros((rows, d_rows.shape[1]), like.dtype)
        place = split.gather(ids) - split.first(out)
        place = jnp.where((place >= 0) & (place < rows), place, rows)
        out = out.at[place].add(split.gather(d_rows).astype(like.dtype), mode="drop")
        return jax.lax.psum(out, split.rest) if split.rest else out

    by_row, by_position = PartitionSpec(split.axes), PartitionSpec(BATCH)
    return split.map(one, (by_position, by_position), by_row)(ids, d_rows), None


_rows.defvjp(_rows_fwd, _rows_bwd)
