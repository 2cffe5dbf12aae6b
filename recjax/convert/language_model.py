"""Language models in any of their forms, in and out: the one front of the converters.

model = read_language_model("FOLDER", dtype=jnp.bfloat16)      # recognises the form by its files
model.config, model.params                                     # our Config, parameters by path
logits, _ = model.definition.merge(model.params)(tokens)
write_language_model("NEW_FOLDER", model, form="hf")

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
import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from recjax.config import nearest
from recjax.convert import flax_files, llama_meta, orbax_files, rank_files, tensors
from recjax.convert.fetch import spans_processes
from recjax.convert.forms import FORMS, form_of, read_config, with_fields
from recjax.convert.mapping import Rule, cast, load, to_tensors
from recjax.convert.tensors import Tensor
from recjax.errors import InputError
from recjax.json_files import read_object
from recjax.models.definition import ModelDef, Told, define, fingerprint
from recjax.models.language import Family, family_for
from recjax.nn.lora import LoRAConfig, add_lora
from recjax.nn.narrow import Form
from recjax.nn.quant import check_form, narrower, quantize
from recjax.paths import check_no_pointer
from recjax.replace import Known, check_place, new_folder, signed
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
    _check_dtype(dtype)
    check_form(quant)
    folder = Path(path)
    model, rules, state = _open(folder, fields)
    family, shapes = model.family, model.definition.shapes
    place = None if shardings is None else lambda shapes: shardings(shapes, family.axes)
    if quant is None:
        if not rules:
            params = orbax_files.read_params(folder, shapes, dtype=dtype, shardings=place)
        else:
            params = load(rules, state, shapes, str(folder), dtype=dtype, shardings=place)
        return dataclasses.replace(model, params=params)
    model = dataclasses.replace(model, quant=quant)
    known, told = model.definition.shapes, {}
    narrowed = narrower(quant, known, None if place is None else place(known))

    def each(path: str, array: Any) -> Params:
        told[path] = Told.of(array)
        return narrowed(path, array)

    params = {}
    if not rules:
        wide = orbax_files.read_params(folder, shapes, dtype=dtype, shardings=place)
        for path in list(wide):
            params |= each(path, wide.pop(path))
    else:
        params = load(rules, state, shapes, str(folder), dtype=dtype, shardings=place, each=each)
    return dataclasses.replace(model, params=params, origin=fingerprint(told))


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
    _check_dtype(dtype)
    check_form(quant)
    model, _, state = _open(Path(path), fields)
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
    folder: Path, fields: dict[str, Any]
) -> tuple[Loaded, tuple[Rule, ...], dict[str, Tensor]]:
    """A model without parameters; the rules and the tensors of its files, none of our own form."""
    form = form_of(folder)
    rules: tuple[Rule, ...] = ()
    state: dict[str, Tensor] = {}
    if form == "recjax":
        family, config = read_config(folder)
    else:
        family, config, rules, state = _READERS[form](folder)
    return Loaded(family, with_fields(config, fields), {}, folder), rules, state


DTYPES = ("float32", "bfloat16", "float16")
# What belongs to a model beside its weights, and is handed on as it is.
_COMPANIONS = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "ice_text.model",
    "cog-pretrain.model",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)
SHARD_BYTES = 5 * 10**9


def write_language_model(
    path: str | Path,
    model: Loaded,
    *,
    form: str = "hf",
    dtype: Any = None,
    overwrite: bool = False,
    shard_bytes: int = SHARD_BYTES,
    known: Known = signed,
    more: Callable[[Path], None] | None = None,
) -> Path:
    """Writes a model, with the tokenizer files of the folder that it came from.

    `config.json` stays as it was, byte by byte, where it still says what the model is. The folder
    appears complete or not at all. Arrays that are split over devices are fetched tensor by tensor.

    Args:
        path: a new folder.
        model: of `read_language_model` or `language_model`.
        form: of the table above.
        dtype: of the numbers in the files; by default that of the parameters.
        overwrite: replace a folder that recjax has written.
        shard_bytes: the largest size of a file of weights (hf).
        known: which folders `overwrite` may replace (`recjax.replace.check_place`).
        more: writes what else belongs into the folder.

    Returns:
        The folder.

    Raises:
        InputError: an unknown form, or one that cannot express the model; the folder may not
            be replaced or cannot be written; numbers beyond float16's range.
    """
    path, family = Path(path), model.family
    if model.quant is not None:
        raise InputError(f"{path}: a model in {model.quant} is not written; read it without quant")
    check_target(path, form=form, dtype=dtype, overwrite=overwrite, known=known)
    _check_form(form, family, path)
    name = str(jnp.dtype(dtype or next(iter(model.params.values())).dtype))

    def state(rules: tuple[Rule, ...]) -> dict[str, Tensor]:
        return {key: cast(t, dtype) for key, t in to_tensors(rules, model.params).items()}

    with new_folder(path, overwrite=overwrite, known=known) as folder:
        if form == "hf":
            tensors.write_folder(folder, state(family.hf.RULES), shard_bytes)
        elif form == "recjax":
            orbax_files.write_params(folder, model.params, dtype)
        elif form == "flax":
            named = state(flax_files.rules_of(family.hf.RULES))
            flax_files.write_folder(folder, named, tied=model.config.tied)
        else:
            llama_meta.write(folder, model.config, state(llama_meta.rules(model.config)))
        if form != "meta":
            (folder / "config.json").write_bytes(_config_file(model, name))
        _copy_companions(model.folder, folder)
        if more is not None:
            more(folder)
    return path


def write_of_all(path: Path, model: Loaded, **options: Any) -> None:
    """`write_language_model` in Hugging Face's form, of a run of several processes.

    All call it with their parts of the parameters, and process 0 writes.

    Args:
        path, model: see there.
        options: `dtype`, `overwrite`, `known` and `more` of it.
    """
    if jax.process_index() == 0:
        write_language_model(path, model, **options)
    elif spans_processes(model.params.values()):
        named = to_tensors(model.family.hf.RULES, model.params)
        tensors.read_as_written(named, SHARD_BYTES)


def check_target(
    path: Path, *, form: str, dtype: Any, overwrite: bool, known: Known = signed
) -> None:
    """Refuses at once what `write_language_model` would refuse after a model was read."""
    if form not in FORMS:
        raise InputError(f"form '{form}': unknown; {nearest(form, FORMS)}")
    _check_dtype(dtype)
    check_place(path, overwrite=overwrite, known=known)


def _check_form(form: str, family: Family, where: Path) -> None:
    if form not in family.forms:
        raise InputError(
            f"{where}: the form {form} has no models of the family {family.name}; expected one of "
            f"{', '.join(family.forms)}"
        )


def _config_file(model: Loaded, dtype: str) -> bytes:
    """`config.json`: that of the model's folder where it is still true, else a new one."""
    hf, base = model.family.hf, None
    file = None if model.folder is None else model.folder / "config.json"
    if file is not None and file.is_file():
        base = read_object(file)
        before = hf.read_config(base, str(file))
        # Not all of our fields are told by files.
        true = hf.write_config(before, dtype) == hf.write_config(model.config, dtype)
        if true and base.get("dtype", base.get("torch_dtype", dtype)) == dtype:
            return file.read_bytes()
    new = hf.write_config(model.config, dtype, base)
    return (json.dumps(new, indent=2) + "\n").encode()


def _copy_companions(source: Path | None, folder: Path) -> None:
    for name in _COMPANIONS:
        if source is not None and (source / name).is_file():
            check_no_pointer(source / name)
            if name.endswith(".json"):  # half a file would be told where it is used
                try:
                    json.loads((source / name).read_bytes())
                except (ValueError, RecursionError) as error:
                    raise InputError(f"{source / name}: not readable as JSON ({error})") from None
            shutil.copyfile(source / name, folder / name)


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
    _check_form("flax", family, folder)
    rules = flax_files.rules_of(family.hf.RULES)
    shapes = Loaded(family, config, {}).definition.shapes.values()
    numbers = sum(math.prod(leaf.shape) for leaf in shapes) + config.vocab_size * config.dim
    state = flax_files.read_folder(folder, tied=config.tied, largest=8 * numbers + (1 << 20))
    return family, config, rules, state


def _read_meta(folder: Path) -> _Read:
    config, rules, state = llama_meta.read(folder)
    return family_for(config), config, rules, state


_READERS = {"hf": _read_hf, "flax": _read_flax, "meta": _read_meta}


def _check_dtype(dtype: Any) -> None:
    try:
        known = dtype is None or jnp.dtype(dtype).name in DTYPES
    except TypeError:
        known = False
    if not known:
        raise InputError(f"dtype {dtype}: expected one of {', '.join(DTYPES)}")
