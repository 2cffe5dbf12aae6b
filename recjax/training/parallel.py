"""Meshes and shardings: from logical axes to devices.

A model names the logical axes of its parameters (`PARAM_AXES`, an ordered list of regex and axes);
`RULES` says which mesh axis each logical axis is split over. The same code runs on a laptop
(a 1x1x1 mesh) and on a pod. The rules themselves stand in `recjax.sharded`.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from recjax.errors import InputError
from recjax.nn.backend import platform
from recjax.sharded import BATCH, MESH_AXES, Axes, mesh_axes
from recjax.training.group import current
from recjax.typing import Array

# (regex over paths, a name of `RULES` for each axis); after `ruled`, mesh axes in place of names.
AxisRules = Sequence[tuple[str, tuple[Axes | None, ...]]]

_MOST = 1 << 20  # devices of an axis


def make_mesh(shape: tuple[int, int, int] = (-1, 1, 1), name: str = "config.train.mesh") -> Mesh:
    """A mesh over all devices with the axes `data`, `fsdp`, `tensor`.

    Args:
        shape: sizes of the axes; one of them may be -1 (what is left).
        name: of the setting, for errors.

    Raises:
        InputError: the sizes do not multiply to the number of devices.
    """
    devices = jax.device_count()
    known = math.prod(s for s in shape if s != -1)
    sizes = tuple(devices // known if s == -1 else s for s in shape)
    if shape.count(-1) > 1 or min(sizes) < 1 or math.prod(sizes) != devices:
        raise InputError(f"{name} {shape} does not fit {devices} devices")
    return jax.make_mesh(sizes, MESH_AXES, axis_types=(AxisType.Auto,) * 3)


def mesh_sizes(text: str, *, rest: bool = True) -> tuple[int, int, int]:
    """The sizes of data, fsdp and tensor in a flag's text, such as "-1,1,1".

    Args:
        text: of `--mesh`.
        rest: whether a size may be -1 (what is left).

    Raises:
        InputError: no three such sizes.
    """
    try:
        data, fsdp, tensor = map(int, text.split(","))
    except ValueError:
        data = fsdp = tensor = 0
    if not all(1 <= size <= _MOST or (rest and size == -1) for size in (data, fsdp, tensor)):
        names, left = ",".join(MESH_AXES), "; -1 is what is left" if rest else ""
        raise InputError(f"mesh {text}: expected three sizes, {names}, of 1 to {_MOST:,}{left}")
    return data, fsdp, tensor


def sizes_here(text: str) -> tuple[int, int, int]:
    """`mesh_sizes`, which fit the devices here; `InputError` where they do not."""
    sizes = mesh_sizes(text)
    make_mesh(sizes, "--mesh")
    return sizes


def mesh_here(text: str) -> Mesh | None:
    """The mesh of the devices here that the text of `--mesh` tells; None for one device."""
    mesh = make_mesh(mesh_sizes(text), "--mesh")
    return mesh if mesh.size > 1 else None


def spec_for(path: str, shape: tuple[int, ...], axes: AxisRules, mesh: Mesh) -> PartitionSpec:
    """The partition of one parameter: first matching rule of `axes`, then `RULES`.

    A dimension that the mesh axes do not divide is replicated, and so is a second dimension that
    asks for a mesh axis already used by the first.

    Raises:
        ValueError: no rule covers the parameter, or the rule has another number of axes.
    """
    logical = _names(path, shape, axes)
    parts = _parts(shape, logical, mesh)
    return PartitionSpec(*(axes_of if divides else None for axes_of, divides in parts))


def _names(path: str, shape: Sequence[int], axes: AxisRules) -> Sequence[Axes | None]:
    """Names of the dimensions by the first matching rule."""
    logical = next((names for pattern, names in axes if re.fullmatch(pattern, path)), None)
    if logical is None:
        raise ValueError(f"no sharding rule covers parameter {path}")
    if logical == (None,):
        return (None,) * len(shape)
    if len(logical) != len(shape):
        raise ValueError(f"parameter {path} has shape {shape}, its rule names axes {logical}")
    return logical


def _parts(
    shape: Sequence[int], names: Sequence[Axes | None], mesh: Any
) -> list[tuple[tuple[str, ...], bool]]:
    """The mesh axes that would split each dimension, and whether they do."""
    used: set[str] = set()
    out = []
    for size, name in zip(shape, names, strict=True):
        wanted = name if isinstance(name, tuple) else mesh_axes(name)
        wanted = tuple(a for a in wanted if a not in used and mesh.shape[a] > 1)
        divides = bool(wanted) and size % math.prod(mesh.shape[a] for a in wanted) == 0
        used.update(wanted if divides else ())
        out.append((wanted, divides))
    return out


def ruled(axes: AxisRules, rules: Mapping[str, Axes]) -> AxisRules:
    """Sharding rules with the mesh axes of a config's `train.rules` in place of logical names."""

    def given(name: Axes | None) -> Axes | None:
        return mesh_axes(name, rules) if isinstance(name, str) and name in rules else name

    return [(pattern, tuple(map(given, names))) for pattern, names in axes]


def undivided(shapes: Mapping[str, Any], axes: AxisRules, mesh: Any) -> list[str]:
    """Parameters that the rules split and a mesh cannot: a line a kind of parameter.

    Args:
        shapes: parameters by path, abstract ones too.
        axes: the model's.
        mesh: a mesh, or an abstract one.
    """
    out: list[str] = []
    for path, a in shapes.items():
        names = _names(path, a.shape, axes)
        parts = list(zip(a.shape, _parts(a.shape, names, mesh), strict=True))
        used = {axis for _, (wanted, divides) in parts if divides for axis in wanted}
        for size, (wanted, _) in parts:
            if not used.issuperset(wanted):
                count = math.prod(mesh.shape[w] for w in wanted)
                axes_text = " x ".join(wanted)
                out.append(f"{axes_text} = {count} does not divide the {size:,} of '{path}'")
    return out


def whole_rows(size: int, name: str, mesh: Mesh, rules: Mapping[str, Axes]) -> int:
    """Rows of a table of at least `size` that the devices divide."""
    parts = math.prod(mesh.shape[a] for a in mesh_axes(name, rules))
    return -(-size // parts) * parts


def param_shardings(
    abstract: Mapping[str, Any], axes: AxisRules, mesh: Mesh
) -> dict[str, NamedSharding]:
    """A sharding for every parameter of an (abstract) parameter dict."""
    return {p: NamedSharding(mesh, spec_for(p, a.shape, axes, mesh)) for p, a in abstract.items()}


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding that keeps a whole copy on each device."""
    return NamedSharding(mesh, PartitionSpec())


def data_size(mesh: Mesh) -> int:
    """Over how many shards the batch axis is split."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def row_multiple(batch_size: int, mesh: Mesh, parts: int = 1) -> int:
    """A step's rows are a multiple of this.

    Args:
        batch_size: `config.train.batch_size`.
        mesh: the devices.
        parts: `config.train.accumulate`.

    Raises:
        InputError: the batch is no multiple.
    """
    shards = data_size(mesh)
    if batch_size % (shards * parts):
        divisor = f"the {shards} parts that config.train.mesh splits a batch into"
        if parts > 1:
            divisor += f", times config.train.accumulate={parts}"
        raise InputError(f"config.train.batch_size: {batch_size} is no multiple of {divisor}")
    return shards * parts


def rows_of_process(mesh: Mesh, parts: int = 1) -> dict[str, Any]:
    """Which rows of a batch this process makes: `row_multiple` and `process` of `TokenBatches`.

    Processes that an axis joins which does not split rows (tensor) hold the same rows, and make
    them alike: `process` is (number, count) of the different parts.

    Args:
        mesh: the devices.
        parts: of a batch that each device takes one after the other.

    Raises:
        InputError: processes whose parts differ in size, or have only some rows in common.
    """
    rows: dict[int, set[int]] = {}
    for place, devices in enumerate(mesh.devices.reshape(data_size(mesh), -1)):
        for device in devices:
            rows.setdefault(device.process_index, set()).add(place)
    different = sorted({tuple(sorted(own)) for own in rows.values()})
    if len(different) * len(different[0]) != data_size(mesh) or len({*map(len, different)}) > 1:
        sizes = ", ".join(
            f"process {k} has {sum(d.process_index == k for d in mesh.devices.flat)}"
            for k in sorted(rows)[:4]
        )
        raise InputError(
            f"config.train.mesh: {tuple(mesh.devices.shape)} splits rows unevenly over the "
            f"processes ({sizes} devices); expected as many devices in each, and data x fsdp rows "
            "that they divide, or that divide them"
        )
    number = different.index(tuple(sorted(rows[jax.process_index()])))
    return {"row_multiple": len(different[0]) * parts, "process": (number, len(different))}


def most_of_all(values: Sequence[int]) -> list[int]:
    """The maximum over processes of each of several numbers."""
    return [
        max(each) for each in zip(*current().gather("sizes of a batch", list(values)), strict=True)
    ]


def batch_sharding(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """The sharding of a batch along `axis` (the rows)."""
    return NamedSharding(mesh, PartitionSpec(*(None,) * axis, BATCH))


def shard_batch(batch: dict[str, np.ndarray], mesh: Mesh, axis: int = 0) -> dict[str, Array]:
    """Puts this process's part of a batch on its devices, split over `axis` (the rows)."""
    sharding = batch_sharding(mesh, axis)
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}


def abstract_batch(batch: Any, mesh: Mesh, axis: int) -> Any:
    """The shapes of what `shard_batch` gives."""
    split = batch_sharding(mesh, axis)
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=split), batch)


def on_all(params: Mapping[str, Any], mesh: Mesh) -> dict[str, Array]:
    """Parameters whole on each device, which then writes texts of its own."""
    return jax.jit(lambda p: p, out_shardings=replicated(mesh))(dict(params))


def for_writing(params: Mapping[str, Any], mesh: Mesh) -> dict[str, Array]:
    """Parameters of a run as its language model writes with them.

    They stay as they are split; but CPU devices get them whole, for XLA (jax 0.10 and 0.12) aborts
    where it splits some loops of generation over several of them.
    """
    return on_all(params, mesh) if mesh.size > 1 and platform() == "cpu" else dict(params)


def replicate(tree, mesh: Mesh):
    """Puts host arrays, equal on every process, on all devices."""
    sharding = replicated(mesh)

    def put(x):
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(put, tree)
