"""A table of each parameter's place on a mesh."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from recjax.training.parallel import AxisRules, param_shardings


@dataclasses.dataclass(frozen=True)
class Placed:
    """A parameter on a mesh.

    Attributes:
        path: of the parameter.
        shape: of all of it.
        dtype: by name.
        split: of each dimension, the mesh axes that it is split over; "-" = none.
        device_bytes: of one device's part.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    split: tuple[str, ...]
    device_bytes: int


def placed(params: Mapping[str, Any], axes: AxisRules, mesh: Any) -> tuple[Placed, ...]:
    """Every parameter, the largest part first.

    Args:
        params: shapes and types by path.
        axes: logical axes of the parameters.
        mesh: real or abstract.
    """
    out = []
    for path, sharding in param_shardings(params, axes, mesh).items():
        leaf = params[path]
        spec = [*sharding.spec, *[None] * len(leaf.shape)][: len(leaf.shape)]
        split = tuple("-" if s is None else s if isinstance(s, str) else "+".join(s) for s in spec)
        size = math.prod(sharding.shard_shape(leaf.shape)) * jnp.dtype(leaf.dtype).itemsize
        out.append(Placed(path, tuple(leaf.shape), str(jnp.dtype(leaf.dtype)), split, size))
    return tuple(sorted(out, key=lambda parameter: (-parameter.device_bytes, parameter.path)))


def table(rows: tuple[Placed, ...]) -> list[str]:
    """Lines of text: path, shape, type, what splits each dimension, MB on each device."""
    cells = [
        (
            parameter.path, " ".join(map(str, parameter.shape)), parameter.dtype,
            " ".join(parameter.split), f"{parameter.device_bytes / 1e6:,.3f}",
        )
        for parameter in rows
    ]  # fmt: skip
    cells.insert(0, ("parameter", "shape", "type", "split over", "MB on each device"))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  "
        + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
