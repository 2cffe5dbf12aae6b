"""recjax's own form of a model's parameters: an Orbax checkpoint in `params/`.

write_params(folder, params)
params = read_params(folder, shapes, shardings=shardings)      # on any mesh
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from recjax.config import nearest
from recjax.errors import InputError
from recjax.json_files import read_object
from recjax.typing import Params

FOLDER = "params"
_DESCRIPTIONS = ("_METADATA", "_CHECKPOINT_METADATA", "_sharding")  # JSON of Orbax


def write_params(folder: Path, params: Mapping[str, Any], dtype: Any = None) -> None:
    """Writes arrays by path into `folder/params`.

    Args:
        folder: exists.
        params: on any devices of this process.
        dtype: of the numbers in the files; by default that of the arrays.
    """
    cast = {path: jnp.asarray(array, dtype) for path, array in params.items()}
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder.absolute() / FOLDER, cast)


def read_params(
    folder: Path,
    shapes: Mapping[str, Any],
    *,
    dtype: Any = None,
    shardings: Callable[[Mapping[str, Any]], Mapping[str, jax.sharding.Sharding]] | None = None,
) -> Params:
    """The arrays of `folder/params`, each device reading its part.

    Args:
        folder: of `write_params`.
        shapes: what the model expects by path.
        dtype: of the parameters; by default that of the files.
        shardings: of the parameters, from their shapes; by default all are on the first device.

    Raises:
        InputError: naming the folder and the path: damaged, missing, unknown, another shape.
    """
    place = folder.absolute() / FOLDER
    for name in _DESCRIPTIONS:
        if (place / name).exists():
            read_object(place / name)
    with ocp.StandardCheckpointer() as checkpointer:
        try:
            stored = dict(checkpointer.metadata(place).item_metadata)
        except Exception as error:  # Orbax has many kinds
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{place}: not a complete Orbax checkpoint ({reason})") from error
        for path in stored:
            if path not in shapes:
                raise InputError(f"{place}: unknown key '{path}'; {nearest(path, shapes)}")
        for path, leaf in shapes.items():
            if path not in stored:
                raise InputError(f"{place}: lacks the key '{path}', expected with {leaf.shape}")
            shape = getattr(stored[path], "shape", None)
            if shape != leaf.shape:
                raise InputError(f"{place}: '{path}' has shape {shape}, expected {leaf.shape}")
        wanted = {
            path: jax.ShapeDtypeStruct(leaf.shape, dtype or stored[path].dtype)
            for path, leaf in shapes.items()
        }
        first = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        placed = dict.fromkeys(wanted, first) if shardings is None else shardings(wanted)
        target = {
            path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placed[path])
            for path, leaf in wanted.items()
        }
        try:
            params = checkpointer.restore(place, target)
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{place}: a damaged Orbax checkpoint ({reason})") from error
    for path, array in params.items():
        if not _finite(array):
            raise InputError(f"{place}: '{path}' holds NaN or infinity, expected finite numbers")
    return params


@jax.jit
def _finite(array: jax.Array) -> jax.Array:
    return jnp.isfinite(array).all()
