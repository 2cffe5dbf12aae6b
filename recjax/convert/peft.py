"""LoRA adapters as peft keeps them: `adapter_config.json` and `adapter_model.safetensors`.

lora, adapter = read_adapter("ADAPTER", base)          # base: of `read_language_model`
model = adapted(base, lora, adapter)                    # a `Loaded` whose params have both
write_adapter("NEW", base, lora, adapter)
plain = merged(base, lora, adapter)                     # without an adapter; any form can hold it

Modules are named as transformers names them; an adapter lies on the same modules in every layer.
Written for `peft` 0.21.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recjax.config import nearest
from recjax.convert.files import new_folder
from recjax.convert.language_model import Loaded, Shardings
from recjax.convert.mapping import TRANSPOSE, Rule, load, to_tensors
from recjax.convert.tensors import Tensor, read_file, write_file
from recjax.errors import InputError
from recjax.json_files import read_object
from recjax.nn.lora import LoRAConfig, add_lora, is_lora, merge_lora
from recjax.typing import Params

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

# The values that are implemented here; absent and null mean the same as the first.
_FIXED: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    # Others (pissa, olora, loftq, ...) change the base model's weights.
    "init_lora_weights": (True, False, "gaussian"),
    "rank_pattern": ({},),
    "alpha_pattern": ({},),
    "loftq_config": ({},),
    **dict.fromkeys(
        (
            "use_rslora", "use_dora", "use_qalora", "use_bdlora", "fan_in_fan_out", "lora_bias",
            "ensure_weight_tying",
        ),
        (False,),
    ),
    **dict.fromkeys(
        (
            "modules_to_save", "exclude_modules", "layers_to_transform", "layers_pattern",
            "layer_replication", "target_parameters", "trainable_token_indices", "megatron_config",
            "eva_config", "corda_config", "lora_ga_config", "velora_config", "arrow_config",
            "alora_invocation_tokens", "kasa_config", "monteclora_config",
        ),
        (None,),
    ),
}  # fmt: skip
_HARMLESS = (
    "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision",
    "inference_mode", "megatron_core", "qalora_group_size", "runtime_config",
)  # fmt: skip
_READ = ("r", "lora_alpha", "lora_dropout", "target_modules")
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
            the base, a setting that is not implemented.
    """
    folder = Path(folder)
    file = folder / CONFIG
    values = read_object(file)
    lora = _read_config(values, str(file), base)
    if not (folder / WEIGHTS).exists() and (folder / "adapter_model.bin").exists():
        raise InputError(
            f"{folder / 'adapter_model.bin'}: a pickle can run code and is not read; where torch "
            f"and peft are installed, PeftModel.save_pretrained makes {WEIGHTS} of it"
        )
    shapes = {
        path: leaf for path, leaf in adapted(base, lora, {}).definition.shapes.items()
        if is_lora(path)
    }  # fmt: skip
    state = _without_copies(read_file(folder / WEIGHTS), base)
    place = None if shardings is None else lambda shapes: shardings(shapes, base.family.axes)
    params = load(_rules(base), state, shapes, str(folder / WEIGHTS), dtype=dtype, shardings=place)
    return lora, params


def write_adapter(
    folder: str | Path,
    base: Loaded,
    lora: LoRAConfig,
    params: Mapping[str, Any],
    *,
    overwrite: bool = False,
) -> None:
    """Writes an adapter that peft reads.

    Args:
        folder: a new one.
        base: the model that it belongs to; its folder is named in the config.
        lora: rank, scale and targets.
        params: with the adapter's own among them.
        overwrite: replace a folder.

    Raises:
        InputError: the folder is not empty or cannot be written; no adapter among the parameters.
    """
    own = {path: array for path, array in params.items() if is_lora(path)}
    modules = [m for m, path in _modules(base).items() if f"{path}/lora/a" in own]
    if not modules:
        raise InputError("no parameters of an adapter (.../lora/a, .../lora/b) to write")
    alpha = int(lora.alpha) if lora.alpha == int(lora.alpha) else lora.alpha
    values = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None if base.folder is None else str(base.folder),
        "r": lora.rank,
        "lora_alpha": alpha,
        "lora_dropout": lora.dropout,
        "target_modules": sorted({name.rpartition(".")[2] for name in modules}),
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }
    with new_folder(Path(folder), overwrite=overwrite) as place:
        (place / CONFIG).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        write_file(place / WEIGHTS, to_tensors(_rules(base), own))


def adapted(base: Loaded, lora: LoRAConfig, params: Mapping[str, Any]) -> Loaded:
    """The base model with an adapter on it."""

    def build(config: Any, *, rngs: Any, **options: Any) -> Any:
        return add_lora(base.family.build(config, rngs=rngs, **options), lora, rngs)

    family = dataclasses.replace(base.family, build=build)
    return dataclasses.replace(base, family=family, params={**base.params, **params})


def merged(base: Loaded, lora: LoRAConfig, params: Mapping[str, Any]) -> Loaded:
    """A model without an adapter that computes the same as the base with it."""
    own = {path: array for path, array in params.items() if is_lora(path)}
    return dataclasses.replace(base, params=merge_lora({**base.params, **own}, lora))


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


def _modules(base: Loaded) -> dict[str, str]:
    """The linear maps: transformers' name, with `{layer}` -> our path."""
    return {
        rule.theirs.removesuffix(".weight"): rule.paths[0].removesuffix("/kernel")
        for rule in base.family.hf.RULES
        if rule.transform is TRANSPOSE and rule.paths[0] in base.params
    }


def _rules(base: Loaded) -> tuple[Rule, ...]:
    return tuple(
        Rule(f"{_PREFIX}{name}.lora_{side.upper()}.weight", f"{path}/lora/{side}", TRANSPOSE)
        for name, path in _modules(base).items()
        for side in ("a", "b")
    )


def _read_config(values: Mapping[str, Any], where: str, base: Loaded) -> LoRAConfig:
    known = {*_FIXED, *_HARMLESS, *_READ}
    for key, value in values.items():
        if key not in known:
            raise InputError(f"{where}: unknown key '{key}': {value!r}; {nearest(key, known)}")
        if key in _FIXED and value is not None and value not in _FIXED[key]:
            raise InputError(
                f"{where}: '{key}' is {value!r}; only {_FIXED[key][0]!r} is implemented"
            )
    for key in _READ:
        if values.get(key) is None and key != "lora_dropout":
            raise InputError(f"{where}: lacks the key '{key}'")
    numbers = [values["r"], values["lora_alpha"], values.get("lora_dropout") or 0.0]
    if type(numbers[0]) is not int or not all(type(n) in (int, float) for n in numbers):
        raise InputError(f"{where}: expected numbers for r, lora_alpha and lora_dropout")
    targets = tuple(map(re.escape, _targets(values["target_modules"], where, base)))
    try:
        return LoRAConfig(numbers[0], float(numbers[1]), float(numbers[2]), targets)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from None


def _targets(given: Any, where: str, base: Loaded) -> list[str]:
    """Our paths of the modules that peft would choose."""
    modules = _modules(base)
    layers = base.config.layers
    if given == "all-linear":  # but the head
        given = [name for name in modules if "{layer}" in name]
        return [modules[name] for name in given]
    out = []
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{where}: 'target_modules' is {given!r}, expected names or a regex")
    unused = set(names)
    for module, path in modules.items():
        found = []
        for layer in range(layers if "{layer}" in module else 1):
            name = module.replace("{layer}", str(layer))
            if isinstance(given, str):
                hits = {given} if re.fullmatch(given, name) else set()
            else:
                hits = {t for t in names if name == t or name.endswith(f".{t}")}
            unused -= hits
            found.append(bool(hits))
        if any(found) and not all(found):
            raise InputError(
                f"{where}: 'target_modules' {given!r} chooses '{module}' in some layers only"
            )
        if any(found):
            out.append(path)
    if unused:
        linear = ", ".join(name.rpartition(".")[2] for name in modules)
        raise InputError(
            f"{where}: 'target_modules': '{min(unused)}' is no linear map of this model; known: "
            f"{linear}"
        )
    return out
