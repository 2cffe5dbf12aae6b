"""Language models read, in any of their forms; `recjax.convert.writing` writes them.

model = read_language_model("FOLDER", dtype=jnp.bfloat16)      # recognises the form by its files
model.config, model.params                                     # our Config, parameters by path
logits, _ = model.definition.merge(model.params)(tokens)

| form   | files                                                                               |
|--------|-------------------------------------------------------------------------------------|
| recjax | `config.json`, Orbax checkpoint in `params/`                                         |
| hf     | `config.json`, `model.safetensors` or shards with `model.safetensors.index.json`;    |
|        | of GLM also `mp_rank_00_model_states.safetensors` and so on (`rank_files`)           |
| meta   | `params.json`, `consolidated.00.safetensors` or `.pth`, a file a parallel part       |
| flax   | `config.json`, `flax_model.msgpack` or shards with `flax_model.msgpack.index.json`   |

Where a folder has files of several forms, the first of the table counts. What a model is, is read
from its own files: a `config.json` whose model_type is of no family in
`models/language.py` is refused, never read as its nearest relative.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from recjax.convert import flax_files, llama_meta, orbax_files, rank_files, tensors
from recjax.convert.forms import FORMS, check_dtype, check_family, form_of, read_config, with_fields
from recjax.convert.mapping import Rule, load
from recjax.convert.tensors import Tensor
from recjax.errors import InputError
from recjax.models.definition import ArraySample, ModelDef, define, fingerprint
from recjax.models.language import Family, family_for
from recjax.nn.lora import LoRAConfig, add_lora
from recjax.nn.narrow import Form
from recjax.nn.quant import check_form, narrower, quantize
from recjax.typing import Params

# A model's logical axes (`PARAM_AXES`).
Axes = tuple[tuple[str, tuple[str | None, ...]], ...]
# `(shapes by path, axes) -> sharding by path`: on a mesh,
# `lambda shapes, axes: recjax.training.parallel.param_shardings(shapes, axes, mesh)`.
Shardings = Callable[[Mapping[str, Any], Axes], Mapping[str, jax.sharding.Sharding]]


@dataclasses.dataclass(frozen=True, eq=False)
class Loaded:
    """A language model from files.

    Attributes:
        family: its architecture.
        config: its sizes, the family's `Config`.
        params: arrays by path.
        folder: where it was read; tokenizer files are there too, if anywhere. None: it is new.
        lora: of the adapter on it, whose arrays `params` holds, too; or None.
        quant: of its layers' kernels (`recjax.nn.quant`), or None.
        origin: `fingerprint` of the parameters before they were narrowed; "" = they were not.
    """

    family: Family
    config: Any
    params: Params
    folder: Path | None = None
    lora: LoRAConfig | None = None
    quant: Form | None = None
    origin: str = ""

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """The module, with parameters of its own."""
        model = self.family.build(self.config, rngs=rngs)
        model = model if self.lora is None else add_lora(model, self.lora, rngs)
        return model if self.quant is None else quantize(model, self.quant)

    @property
    def fingerprint(self) -> str:
        """The `fingerprint` of the parameters as they were read."""
        return self.origin or fingerprint(self.params)

    @property
    def definition(self) -> ModelDef:
        """The module without its arrays: `definition.merge(params)` is the model."""
        return define(self.build)


def language_model(config: Any, params: Params, folder: Path | None = None) -> Loaded:
    """A model that is in memory, e.g. to write it.

    Args:
        config: of a family.
        params: arrays by path.
        folder: with the tokenizer and the other files that belong to it.
    """
    return Loaded(family_for(config), config, params, folder)


def read_language_model(
    path: str | Path,
    *,
    dtype: Any = None,
    shardings: Shardings | None = None,
    quant: Form | None = None,
    **fields: Any,
) -> Loaded:
    """A language model from a folder, in any of the forms above.

    Tensors go from the files straight into their places on the devices; see `mapping.load`.

    Args:
        path: the folder.
        dtype: of the parameters: float32, bfloat16 or float16; by default that of the files.
        shardings: of the parameters, from their shapes and logical axes; by default all are on the
            first device.
        quant: keeps the layers' kernels in few bits, "int8" or "nf4". Each is narrowed as soon as
            it is read, so that no device holds the wide model (but for recjax's own form, which
            is read at once).
        fields: of the config that no file tells (`remat`, `unroll`).

    Raises:
        InputError: one line naming the file, the key and what was expected: no model there, an
            architecture or an attribute that is not implemented, a file that is missing, truncated
            or damaged, a tensor that is missing, unknown or has another shape.
    """
    folder = Path(path)
    model, rules, state = _open(folder, dtype, quant, fields)
    family, shapes = model.family, model.definition.shapes
    place = None if shardings is None else lambda shapes: shardings(shapes, family.axes)
    model = dataclasses.replace(model, quant=quant)
    samples: dict[str, ArraySample] = {}
    narrowed = None
    if quant is not None:
        stored = model.definition.shapes
        narrowed = narrower(quant, stored, None if place is None else place(stored))

    def each(path: str, array: Any) -> Params:
        if narrowed is None:
            return {path: array}
        samples[path] = ArraySample.of(array)
        return narrowed(path, array)

    params: Params = {}
    if rules:
        params = load(rules, state, shapes, str(folder), dtype=dtype, shardings=place, each=each)
    else:
        whole = orbax_files.read_params(folder, shapes, dtype=dtype, shardings=place)
        for path in list(whole):
            params |= each(path, whole.pop(path))
    return dataclasses.replace(model, params=params, origin=fingerprint(samples) if samples else "")


def outline(
    path: str | Path, *, dtype: Any = None, quant: Form | None = None, **fields: Any
) -> Loaded:
    """A language model without its weights: `params` are shapes and types.

    Args:
        path, dtype, quant, fields: see `read_language_model`; of recjax's own form the type is
            float32 where no other is given.

    Raises:
        InputError: see there, but for what is wrong with numbers.
    """
    model, _, state = _open(Path(path), dtype, quant, fields)
    kind = jnp.dtype(dtype or (next(iter(state.values())).dtype if state else jnp.float32))
    wide = model.definition.shapes
    model = dataclasses.replace(model, quant=quant)
    stored = model.definition.shapes  # of narrow kernels also scales
    kept = {path for path, leaf in stored.items() if path in wide and leaf == wide[path]}
    shapes: dict[str, Any] = {
        path: jax.ShapeDtypeStruct(leaf.shape, kind) if path in kept else leaf
        for path, leaf in stored.items()
    }
    return dataclasses.replace(model, params=shapes)


def _open(
    folder: Path, dtype: Any, quant: Form | None, fields: dict[str, Any]
) -> tuple[Loaded, tuple[Rule, ...], dict[str, Tensor]]:
    """A model without parameters; the rules and the tensors of its files, none of our own form."""
    check_dtype(dtype)
    check_form(quant)
    form = form_of(folder)
    rules: tuple[Rule, ...] = ()
    state: dict[str, Tensor] = {}
    if form == "recjax":
        family, config = read_config(folder)
    else:
        family, config, rules, state = _READERS[form](folder)
    return Loaded(family, with_fields(config, fields), {}, folder), rules, state


_Read = tuple[Family, Any, tuple[Rule, ...], dict[str, Tensor]]


def _read_hf(folder: Path) -> _Read:
    family, config = read_config(folder)
    place = rank_files.place_of(folder)
    if place is None or any((folder / name).exists() for name in FORMS["hf"]):
        found = tensors.read_folder(folder)
        state = {family.bare(key): tensor for key, tensor in found.items()}
    elif not (cuts := getattr(family.hf, "CUTS", None)):
        raise InputError(f"{place}: files of ranks are not read for the family {family.name}")
    else:
        state = rank_files.read(place, cuts, family.bare)
    return family, config, family.hf.RULES, family.hf.tidy(state, config)


def _read_flax(folder: Path) -> _Read:
    family, config = read_config(folder)
    check_family("flax", family, folder)
    rules = flax_files.rules_of(family.hf.RULES)
    shapes = Loaded(family, config, {}).definition.shapes.values()
    numbers = sum(math.prod(leaf.shape) for leaf in shapes) + config.vocab_size * config.dim
    state = flax_files.read_folder(folder, tied=config.tied, largest=8 * numbers + (1 << 20))
    return family, config, rules, state


def _read_meta(folder: Path) -> _Read:
    config, rules, state = llama_meta.read(folder)
    return family_for(config), config, rules, state


_READERS = {"hf": _read_hf, "flax": _read_flax, "meta": _read_meta}
