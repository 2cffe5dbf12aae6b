"""Language models in any of their forms, in and out: the one front of the converters.

model = read_language_model("FOLDER", dtype=jnp.bfloat16)      # recognises the form by its files
model.config, model.params                                     # our Config, parameters by path
logits, _ = model.definition.merge(model.params)(tokens)

| form | files                                                                                  |
|------|----------------------------------------------------------------------------------------|
| hf   | `config.json`, `model.safetensors` or shards with `model.safetensors.index.json`       |

What a model is, is read from its own files: a `config.json` whose model_type is not in `FAMILIES`
is refused, never read as its nearest relative.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from recjax.convert import llama_hf
from recjax.convert.mapping import load
from recjax.convert.tensors import read_folder, read_object
from recjax.errors import InputError
from recjax.models import llama
from recjax.models.definition import ModelDef, define
from recjax.typing import Params

# A model's logical axes (`PARAM_AXES`).
Axes = tuple[tuple[str, tuple[str | None, ...]], ...]
# `(shapes by path, axes) -> sharding by path`: on a mesh,
# `lambda shapes, axes: recjax.training.parallel.param_shardings(shapes, axes, mesh)`.
Shardings = Callable[[Mapping[str, Any], Axes], Mapping[str, jax.sharding.Sharding]]


@dataclasses.dataclass(frozen=True)
class Family:
    """Models of one architecture.

    Attributes:
        name: `model_type` of `config.json`.
        build: `(config, rngs=..., dtype=...) -> module`.
        axes: logical axes of the parameters.
        hf: Hugging Face's form of it: `read_config`, `write_config`, `RULES`, `tidy`.
    """

    name: str
    build: Callable[..., nnx.Module]
    axes: Axes
    hf: ModuleType


FAMILIES = {"llama": Family("llama", llama.Llama, llama.PARAM_AXES, llama_hf)}


@dataclasses.dataclass(frozen=True, eq=False)
class Loaded:
    """A language model from files.

    Attributes:
        family: its architecture.
        config: its sizes, e.g. `recjax.models.llama.Config`.
        params: arrays by path.
        folder: where it was read; tokenizer files are there too, if anywhere.
    """

    family: Family
    config: Any
    params: Params
    folder: Path

    @property
    def definition(self) -> ModelDef:
        """The module without its arrays: `definition.merge(params)` is the model."""
        return define(lambda rngs: self.family.build(self.config, rngs=rngs))


def read_language_model(
    path: str | Path,
    *,
    dtype: Any = None,
    shardings: Shardings | None = None,
    **fields: Any,
) -> Loaded:
    """A language model from a folder, in any of the forms above.

    Tensors go from the files straight into their places on the devices; see `mapping.load`.

    Args:
        path: the folder.
        dtype: of the parameters: float32, bfloat16 or float16; by default that of the files.
        shardings: of the parameters, from their shapes and logical axes; by default all are on the
            first device.
        fields: of the config that no file tells (`remat`, `unroll`).

    Raises:
        InputError: one line naming the file, the key and what was expected: no model there, an
            architecture or an attribute that is not implemented, a file that is missing, truncated
            or damaged, a tensor that is missing, unknown or has another shape.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected that of a language model")
    if dtype is not None and jnp.dtype(dtype) not in map(jnp.dtype, _DTYPES):
        raise InputError(f"dtype {dtype}: expected one of {', '.join(_DTYPES)}")
    file = folder / "config.json"
    attributes = read_object(file)
    family = family_of(attributes, str(file))
    config = dataclasses.replace(family.hf.read_config(attributes, str(file)), **fields)
    state = family.hf.tidy(read_folder(folder), config)
    model = Loaded(family, config, {}, folder)
    place = None if shardings is None else lambda shapes: shardings(shapes, family.axes)
    params = load(
        family.hf.RULES, state, model.definition.shapes, str(folder), dtype=dtype, shardings=place
    )
    return dataclasses.replace(model, params=params)


_DTYPES = ("float32", "bfloat16", "float16")


def family_of(attributes: Mapping[str, Any], where: str) -> Family:
    """The family that a `config.json` names itself.

    Raises:
        InputError: none that is implemented.
    """
    name = attributes.get("model_type")
    if name not in FAMILIES:
        raise InputError(
            f"{where}: model_type {name!r}, architectures {attributes.get('architectures')}: "
            f"not implemented; expected one of {', '.join(FAMILIES)}"
        )
    return FAMILIES[name]
