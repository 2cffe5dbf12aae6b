"""The config of a peft adapter: what it chooses of a model, with which ranks and factors.

Every key is read, harmless, or refused by name; numbers and patterns are checked before anything is
allocated.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from recjax.config import nearest
from recjax.convert.language_model import Loaded
from recjax.convert.patterns import Budget, PatternError, matcher
from recjax.errors import InputError
from recjax.nn.lora import MOST_RANK, LoRAConfig

# The values that are implemented here; absent and null mean the same as the first.
_FIXED: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    # Others (pissa, olora, loftq, ...) change the base model's weights.
    "init_lora_weights": (True, False, "gaussian"),
    "loftq_config": ({},),
    **dict.fromkeys(
        (
            "use_dora", "use_qalora", "use_bdlora", "lora_bias", "ensure_weight_tying",
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
    # Of `fan_in_fan_out`, peft itself takes what the module is.
    "fan_in_fan_out", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path",
    "revision", "inference_mode", "megatron_core", "qalora_group_size", "runtime_config",
)  # fmt: skip
_READ = (
    "r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora", "rank_pattern",
    "alpha_pattern",
)  # fmt: skip
_MOST_PATTERNS = 2000  # of ranks or alphas: more than a model has linear maps


def linear_maps(base: Loaded) -> dict[str, str]:
    """The linear maps: transformers' name, with `{layer}` -> our path."""
    return {
        rule.theirs.removesuffix(".weight"): rule.paths[0].removesuffix("/kernel")
        for rule in base.family.hf.RULES
        if rule.paths[0].endswith("/kernel") and rule.paths[0] in base.params
    }


def _short(value: Any) -> str:
    """A value of a file for a message: one line, not much of it."""
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**18 else "a huge number"
    return text if len(text) <= 80 else f"{text[:77]}..."


def read_config(
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
                starts = (len(name) - len(end) for end in _ends(name))
                if name not in out and any(matches(name, start) for start in starts):
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
            # T5's encoder may have another number of layers than its decoder.
            for layer in range(len(base.params[f"{path}/kernel"]) if "{layer}" in module else 1)
        ]
        for module, path in linear_maps(base).items()
    }


def ends_of(paths: Collection[str], base: Loaded) -> list[str]:
    """The shortest ends of names that choose linear maps, by our paths, and no others."""
    names = _names(base)
    others = {
        end for path, own in names.items() if path not in paths for n in own for end in _ends(n)
    }
    chosen = {
        next(end for end in reversed(_ends(name)) if end not in others)
        for path in paths
        for name in names[path]
    }
    return sorted(chosen)


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
        return [path for module, path in linear_maps(base).items() if "{layer}" in module]
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
        linear = ", ".join(module.rpartition(".")[2] for module in linear_maps(base))
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
