"""Models that a config's section names: their modules, and their own configs."""

import importlib
import re
from collections.abc import Collection
from typing import Any

from recjax.config import build, nearest, to_plain
from recjax.errors import InputError
from recjax.own_parts import is_own, own_module

# What a module of each kind has.
_NEEDED = {
    "recommender": ("Config", "PARAM_AXES", "Recommender"),
    "reference": ("Config", "needed", "fit", "score"),
    "explainer": ("Config", "PARAM_AXES", "Model"),
}
# Names of papers whose models are settings of another one.
_ELSEWHERE = {
    "bsarec": "it is 'filtered' with preset 'bsarec-beauty'",
    "fmlp": "it is 'filtered' with preset 'fmlp'",
    "fmlprec": "it is 'filtered' with preset 'fmlp'",
    "esasrec": "it is 'ligr' with a sampled softmax",
    "gru4rec+": "it is 'gru4rec' with objective 'bpr_max'",
    "gsasrec": "it is 'sasrec' with objective 'gbce'",
    "bprmf": "it is 'bpr'",
}


def named_module(name: Any, package: str, names: Collection[str], kind: str) -> Any:
    """The module of a model.

    Args:
        name: of the model; with a dot, of a module of one's own.
        package: of the modules, inside `recjax.models`: "" or one that ends with a dot.
        names: all that there are.
        kind: what they are, for the error.

    Raises:
        InputError: another name, or a module that is no model.
    """
    if is_own(name):
        return own_module(name, "config.model.name", _NEEDED[kind])
    if name not in names:
        other = _ELSEWHERE.get(re.sub(r"[\s_-]", "", str(name)).lower())
        hint = other if other and other.split("'")[1] in names else nearest(str(name), names)
        raise InputError(f"config.model.name: no {kind} '{name}'; {hint}")
    return importlib.import_module(f"recjax.models.{package}{name}")


def read_section(section: Any, package: str, names: Collection[str], kind: str) -> tuple[Any, Any]:
    """The module of a model and its own `Config`.

    Args:
        section: `name`, fields of the model's `Config`, and `preset`: one of the module's
            `PRESETS`, whose values the fields change.
        package, names, kind: see `named_module`.

    Raises:
        InputError: naming the key.
    """
    values = {key: section[key] for key in section}
    if "name" not in values:
        raise InputError(f"config section 'config.model' lacks the key 'name' ({', '.join(names)})")
    name, preset = values.pop("name"), values.pop("preset", "")
    module = named_module(name, package, names, kind)
    if preset:
        presets = getattr(module, "PRESETS", {})
        if preset not in presets:
            hint = nearest(str(preset), presets)
            raise InputError(f"config.model.preset: no preset '{preset}' of {name}; {hint}")
        values = to_plain(presets[preset]) | values
    return module, build(module.Config, values, "config.model")
