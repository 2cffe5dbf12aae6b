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
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recjax.config import nearest
from recjax.convert.language_model import Loaded, Shardings
from recjax.convert.mapping import TRANSPOSE, Rule, load, to_tensors
from recjax.convert.patterns import Budget, PatternError, matcher
from recjax.convert.tensors import Tensor, read_file, write_file
from recjax.errors import InputError
from recjax.json_files import read_object
from recjax.nn.lora import MOST_RANK, LoRAConfig, add_lora, is_lora, merge_lora
from recjax.replace import new_folder
from recjax.typing import Params

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

# The values that are implemented here; absent and null mean the same as the first.
_FIXED: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    # Others (pissa, olora, loftq, ...) change the base model's weights.
    "init_lora_weights": (True, False, "gaussian"),
    "loftq_config": ({},),
    **dict.fromkeys(
        (
            "use_dora", "use_qalora", "use_bdlora", "fan_in_fan_out", "lora_bias",
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
_READ = (
    "r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora", "rank_pattern",
    "alpha_pattern",
)  # fmt: skip
_MOST_PATTERNS = 2000  # of ranks or alphas: more than a model has linear maps
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
    values = read_object(file)
    lora, own = _read_config(values, str(file), base)
    if not (folder / WEIGHTS).exists() and (folder / "adapter_model.bin").exists():
        raise InputError(
            f"{folder / 'adapter_model.bin'}: a pickle can run code and is not read; where torch "
            f"and peft are installed, PeftModel.save_pretrained makes {WEIGHTS} of it"
        )
    shapes = {
        path: leaf for path, leaf in adapted(base, lora, {}).definition.shapes.items()
        if is_lora(path)
    }  # fmt: skip
    state = _widened(_without_copies(read_file(folder / WEIGHTS), base), lora, own)
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
        overwrite: replace a folder that recjax has written.

    Raises:
        InputError: the folder may not be replaced or cannot be written; no adapter among the
            parameters.
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
        "use_rslora": lora.rslora,
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


def _short(value: Any) -> str:
    """A value of a file for a message: one line, not much of it."""
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**18 else "a huge number"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _read_config(
    values: Mapping[str, Any], where: str, base: Loaded
) -> tuple[LoRAConfig, dict[str, LoRAConfig]]:
    """Rank, scale and targets of the adapter, and of each of its modules by full name."""
    known = {*_FIXED, *_HARMLESS, *_READ}
    for key, value in values.items():
        if key not in known:
            hint = nearest(key, known)
            raise InputError(f"{where}: unknown key {_short(key)}: {_short(value)}; {hint}")
        if key not in _FIXED or value is None or value in _FIXED[key]:
            continue
        if _FIXED[key][0] in (None, {}) and value in ([], {}, ""):
            continue  # none
        raise InputError(
            f"{where}: '{key}' is {_short(value)}; only {_FIXED[key][0]!r} is implemented"
        )
    for key in ("r", "lora_alpha", "target_modules"):
        if values.get(key) is None:
            raise InputError(f"{where}: lacks the key '{key}'")
    rank = _rank(values["r"], f"{where}: 'r'")
    alpha = _alpha(values["lora_alpha"], f"{where}: 'lora_alpha'")
    dropout = values.get("lora_dropout") or 0.0
    if type(dropout) not in (int, float) or not 0 <= dropout < 1:
        raise InputError(
            f"{where}: 'lora_dropout' is {_short(dropout)}, expected a number from 0 to below 1"
        )
    rslora = values.get("use_rslora") or False
    if rslora is not True and rslora is not False:
        raise InputError(f"{where}: 'use_rslora' is {_short(rslora)}, expected true or false")
    targets = targets_of(values["target_modules"], f"{where}: 'target_modules'", base)
    names = _names(base)
    chosen = [name for path in targets for name in names[path]]
    ranks = _by_pattern(values.get("rank_pattern"), f"{where}: 'rank_pattern'", chosen, _rank)
    alphas = _by_pattern(values.get("alpha_pattern"), f"{where}: 'alpha_pattern'", chosen, _alpha)

    def config(rank: int, alpha: float) -> LoRAConfig:
        return LoRAConfig(rank, alpha, rslora, float(dropout), tuple(map(re.escape, targets)))

    pairs = {name: (ranks.get(name, rank), alphas.get(name, alpha)) for name in chosen}
    if len(set(pairs.values())) == 1:
        rank, alpha = next(iter(pairs.values()))
    else:
        rank = max(rank for rank, _ in pairs.values())
    return config(rank, alpha), {name: config(*pair) for name, pair in pairs.items()}


def _rank(value: Any, where: str) -> int:
    if type(value) is not int or not 1 <= value <= MOST_RANK:
        raise InputError(
            f"{where} is {_short(value)}, expected a whole number from 1 to {MOST_RANK:,}"
        )
    return value


def _alpha(value: Any, where: str) -> float:
    if type(value) not in (int, float) or not 0 < value <= np.finfo(np.float32).max:
        raise InputError(f"{where} is {_short(value)}, expected a number above 0")
    return float(value)


def _by_pattern(
    given: Any, where: str, names: Sequence[str], check: Callable[[Any, str], Any]
) -> dict[str, Any]:
    """Values of modules by full name: of the first pattern that matches its end, as in peft."""
    if given in (None, [], {}):
        return {}
    if not isinstance(given, dict) or len(given) > _MOST_PATTERNS:
        raise InputError(
            f"{where} is {_short(given)}, expected an object of at most {_MOST_PATTERNS:,} patterns"
        )
    out: dict[str, Any] = {}
    budget = Budget()
    for pattern, value in given.items():
        value = check(value, f"{where}: {_short(pattern)}")
        try:
            matches = matcher(pattern, budget)
            for name in names:
                if name not in out and any(map(matches, _ends(name))):
                    out[name] = value
        except PatternError as error:
            raise InputError(f"{where}: {_short(pattern)}: {error}") from None
    return out


def _ends(name: str) -> list[str]:
    """A module's full name, and its ends after each dot."""
    parts = name.split(".")
    return [".".join(parts[k:]) for k in range(len(parts))]


def _names(base: Loaded) -> dict[str, list[str]]:
    """Full names of the linear maps in every layer, by our path."""
    return {
        path: [
            module.replace("{layer}", str(layer))
            for layer in range(base.config.layers if "{layer}" in module else 1)
        ]
        for module, path in _modules(base).items()
    }


def targets_of(given: Any, where: str, base: Loaded) -> list[str]:
    """Our paths of the modules that peft would choose.

    Args:
        given: "all-linear" (but the head), ends of names ("q_proj"), or a regex of whole names.
        where: what names the setting, for errors.
        base: the model.

    Raises:
        InputError: nothing like that, a name of no linear map, modules in some layers only, a regex
            that is broken or too costly.
    """
    names = _names(base)
    if given == "all-linear":
        return [path for module, path in _modules(base).items() if "{layer}" in module]
    if not isinstance(given, (str, list, tuple)) or not all(isinstance(n, str) for n in given):
        raise InputError(f"{where} is {_short(given)}, expected names or a regex")
    if not given:
        raise InputError(f"{where} is {_short(given)}, expected at least one linear map")
    if isinstance(given, str):
        try:
            matches = matcher(given, Budget())
            hits = {name: {given} if matches(name) else set() for n in names.values() for name in n}
        except PatternError as error:
            raise InputError(f"{where} is {_short(given)}: {error}") from None
    else:
        wanted = set(given)
        hits = {name: wanted & {*_ends(name)} for n in names.values() for name in n}
    unused = ({given} if isinstance(given, str) else set(given)).difference(*hits.values())
    if unused:
        linear = ", ".join(module.rpartition(".")[2] for module in _modules(base))
        raise InputError(
            f"{where}: {_short(min(unused))} is no linear map of this model; known: {linear}"
        )
    out = []
    for path, own in names.items():
        found = [bool(hits[name]) for name in own]
        if any(found) and not all(found):
            raise InputError(f"{where}: {_short(given)} chooses '{path}' in some layers only")
        if all(found):
            out.append(path)
    return out
