"""LoRA adapters as peft keeps them: `adapter_config.json` and `adapter_model.safetensors`.

lora, adapter = read_adapter("ADAPTER", base)          # base: of `read_language_model`
model = adapted(base, lora, adapter)                    # a `Loaded` whose params have both
write_adapter("NEW", base, lora, adapter)
plain = merged(base, lora, adapter)                     # without an adapter; any form can hold it

Modules are named as transformers names them; an adapter lies on the same modules in every layer.
Ranks and alphas of their own (`rank_pattern`, `alpha_pattern`) become one rank, the largest: zeros
fill up A and B, and B takes the rest of the module's factor. What is computed is the same, and it
is written as such an adapter. Written for `peft` 0.21.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from recjax.convert.forms import DTYPES
from recjax.convert.language_model import Loaded, Shardings
from recjax.convert.mapping import TRANSPOSE, Rule, load, to_tensors
from recjax.convert.peft_config import ends_of, linear_maps, read_config
from recjax.convert.tensors import Tensor, read_file, write_file
from recjax.errors import InputError
from recjax.json_files import read_object
from recjax.models.definition import fingerprint
from recjax.nn.lora import LoRAConfig, is_lora, merge_lora
from recjax.replace import new_folder
from recjax.typing import Params

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ORIGIN = "recjax.json"  # of adapters that were trained here: the base's fingerprint and type

_PREFIX = "base_model.model."


def read_adapter(
    folder: str | Path, base: Loaded, *, dtype: Any = np.float32, shardings: Shardings | None = None
) -> tuple[LoRAConfig, Params]:
    """An adapter for a base model.

    Args:
        folder: of peft's `save_pretrained`.
        base: the model that it belongs to.
        dtype: of the adapter's parameters.
        shardings: see `read_language_model`.

    Returns:
        Rank, scale and targets, and the adapter's own parameters by path: A [layers in R] and
        B [layers R out] of each target.

    Raises:
        InputError: naming the file and the key: no adapter, one that is damaged or does not fit
            the base, a setting that is not implemented, a pattern that is broken or too costly.
    """
    folder = Path(folder)
    file = folder / CONFIG
    if not file.exists() and (folder / "adapter" / CONFIG).is_file():
        raise InputError(f"{folder}: a run's workdir; expected its adapter, {folder / 'adapter'}")
    values = read_object(file)
    lora, own = read_config(values, str(file), base)
    if not (folder / WEIGHTS).exists() and (folder / "adapter_model.bin").exists():
        raise InputError(
            f"{folder / 'adapter_model.bin'}: a pickle can run code and is not read; where torch "
            f"and peft are installed, PeftModel.save_pretrained makes {WEIGHTS} of it"
        )
    _check_origin(folder, base)
    shapes = {
        path: leaf for path, leaf in adapted(base, lora, {}).definition.shapes.items()
        if is_lora(path)
    }  # fmt: skip
    state = {_bare(key, base): tensor for key, tensor in read_file(folder / WEIGHTS).items()}
    state = _widened(_without_copies(state, base), lora, own)
    place = None if shardings is None else lambda shapes: shardings(shapes, base.family.axes)
    params = load(_rules(base), state, shapes, str(folder / WEIGHTS), dtype=dtype, shardings=place)
    return lora, params


def write_adapter(
    folder: str | Path,
    base: Loaded,
    lora: LoRAConfig,
    params: Mapping[str, Any],
    *,
    origin: str | None = None,
    overwrite: bool = False,
) -> None:
    """Writes an adapter that peft reads.

    Args:
        folder: a new one.
        base: the model that it belongs to; its folder is named in the config.
        lora: rank, scale and targets.
        params: with the adapter's own among them.
        origin: the base's fingerprint: `read_adapter` then refuses another base.
        overwrite: replace a folder that recjax has written.

    Raises:
        InputError: the folder may not be replaced or cannot be written; no adapter among the
            parameters.
    """
    own = {path: array for path, array in params.items() if is_lora(path)}
    paths = [path for path in linear_maps(base).values() if f"{path}/lora/a" in own]
    if not paths:
        raise InputError("no parameters of an adapter (.../lora/a, .../lora/b) to write")
    alpha = int(lora.alpha) if lora.alpha == int(lora.alpha) else lora.alpha
    values = {
        "peft_type": "LORA",
        "task_type": "SEQ_2_SEQ_LM" if base.family.build.reads_encoder else "CAUSAL_LM",
        "base_model_name_or_path": None if base.folder is None else str(base.folder),
        "r": lora.rank,
        "lora_alpha": alpha,
        "lora_dropout": lora.dropout,
        "target_modules": ends_of(paths, base),
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "use_rslora": lora.rslora,
        "inference_mode": True,
    }
    with new_folder(Path(folder), overwrite=overwrite) as place:
        (place / CONFIG).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        write_file(place / WEIGHTS, to_tensors(_rules(base), own))
        if origin is not None:
            told = {"base": origin, "dtype": str(next(iter(base.params.values())).dtype)}
            (place / ORIGIN).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def _check_origin(folder: Path, base: Loaded) -> None:
    """Whether the base is the one that the adapter was trained on, where the folder tells it.

    A base that was read in a coarser type than it had in training cannot tell.
    """
    if not (folder / ORIGIN).exists():
        return
    told = read_object(folder / ORIGIN)
    if told.get("dtype") not in DTYPES or not isinstance(told.get("base"), str):
        raise InputError(f"{folder / ORIGIN}: expected the keys 'base' and 'dtype'")
    kind = jnp.dtype(told["dtype"])
    if any(a.dtype not in (kind, jnp.float32) for a in base.params.values()):
        return
    found = fingerprint(base.params, kind)
    if found != told["base"]:
        raise InputError(
            f"{folder}: an adapter of another base model than {base.folder} (fingerprint "
            f"{told['base'][:16]}, this one's is {found})"
        )


def adapted(base: Loaded, lora: LoRAConfig, params: Mapping[str, Any]) -> Loaded:
    """The base model with an adapter on it."""
    return dataclasses.replace(base, lora=lora, params={**base.params, **params})


def merged(base: Loaded, lora: LoRAConfig, params: Mapping[str, Any]) -> Loaded:
    """A model without an adapter that computes the same as the base with it."""
    own = {path: array for path, array in params.items() if is_lora(path)}
    return dataclasses.replace(base, params=merge_lora({**base.params, **own}, lora))


def _bare(key: str, base: Loaded) -> str:
    """peft's key without the prefixes of the family's classes."""
    inner = key.removeprefix(_PREFIX)
    return key if inner == key else f"{_PREFIX}{base.family.bare(inner)}"


def _without_copies(state: Mapping[str, Tensor], base: Loaded) -> dict[str, Tensor]:
    """Tensors without those of the base, which peft adds when the head has an adapter.

    Raises:
        InputError: one that differs from the base's: it was trained too.
    """
    rules = {f"{_PREFIX}{r.theirs}": r for r in base.family.hf.RULES if r.paths[0] in base.params}
    out = dict(state)
    for key, tensor in state.items():
        rule = rules.get(key.replace(".base_layer.", "."))
        if rule is None:
            continue
        ours = np.asarray(base.params[rule.paths[0]])
        theirs = rule.transform.forward(tensor.read())[0].astype(ours.dtype)
        if not np.array_equal(theirs, ours):
            raise InputError(
                f"{tensor.source}: '{key}' differs from the base model's: weights that were "
                "trained beside the adapter are not implemented"
            )
        del out[key]
    return out


def _rules(base: Loaded) -> tuple[Rule, ...]:
    return tuple(
        Rule(f"{_PREFIX}{name}.lora_{side.upper()}.weight", f"{path}/lora/{side}", TRANSPOSE)
        for name, path in linear_maps(base).items()
        for side in ("a", "b")
    )


def _widened(
    state: Mapping[str, Tensor], lora: LoRAConfig, own: Mapping[str, LoRAConfig]
) -> dict[str, Tensor]:
    """Tensors of modules with a rank or a factor of their own, in those of all."""
    out = dict(state)
    for module, its in own.items():
        factor = its.scale / lora.scale
        if (its.rank, factor) == (lora.rank, 1.0):
            continue
        for side, axis, times in (("A", 0, 1.0), ("B", 1, factor)):
            key = f"{_PREFIX}{module}.lora_{side}.weight"
            if key not in state:
                continue  # which `load` tells
            tensor = state[key]
            if len(tensor.shape) != 2 or tensor.shape[axis] != its.rank:
                raise InputError(
                    f"{tensor.source}: '{key}' has shape {tensor.shape}, expected rank {its.rank} "
                    f"by {CONFIG}"
                )
            out[key] = _wide(tensor, axis, lora.rank, times)
    return out


def _wide(tensor: Tensor, axis: int, rank: int, factor: float) -> Tensor:
    """A tensor times a factor, with zeros up to a rank."""
    shape = list(tensor.shape)
    shape[axis] = rank

    def read(index: Any) -> np.ndarray:
        part = tensor.read()
        out = np.zeros(shape, np.float32)
        out[tuple(slice(n) for n in part.shape)] = part.astype(np.float32) * np.float32(factor)
        return out[index]

    return Tensor(tuple(shape), np.dtype(np.float32), tensor.source, read)
