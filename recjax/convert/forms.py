"""Folders of language models: their forms, told by the files, and the family of a `config.json`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from recjax.config import build, near_file, to_plain
from recjax.convert import flax_files, llama_meta, orbax_files, tensors
from recjax.errors import InputError
from recjax.json_files import read_object
from recjax.models.language import FAMILIES, Family
from recjax.ranges import short
from recjax.replace import recovered

# Form -> the files that tell it.
FORMS: dict[str, tuple[str, ...]] = {
    "recjax": (orbax_files.FOLDER,),
    "hf": (tensors.SINGLE, tensors.INDEX),
    "meta": (llama_meta.PARAMS,),
    "flax": (flax_files.SINGLE, flax_files.INDEX),
}
DTYPES = ("float32", "bfloat16", "float16")


def form_of(folder: Path) -> str:
    """Which form a folder's files have, by its table.

    Raises:
        InputError: no such folder, or none of a language model.
    """
    recovered(folder)
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such folder; expected that of a language model, which you "
            f"have on this machine: nothing is downloaded{near_file(folder)}"
        )
    for form, patterns in FORMS.items():
        if any(next(folder.glob(pattern), None) for pattern in patterns):
            return form
    if (folder / "adapter_config.json").exists():
        raise InputError(
            f"{folder}: an adapter of peft; expected the folder of its base model, and the adapter "
            "beside it (--adapter)"
        )
    if (folder / "config.json").exists():
        return "hf"  # whose reader says what is missing
    files = ", ".join(patterns[0] for patterns in FORMS.values())
    raise InputError(f"{folder}: no language model; expected config.json and one of {files}")


def read_config(folder: Path) -> tuple[Family, Any]:
    """The family and the config that a folder's `config.json` names.

    Raises:
        InputError: naming the file and the attribute.
    """
    file = folder / "config.json"
    attributes = read_object(file)
    family = family_of(attributes, str(file))
    return family, family.hf.read_config(attributes, str(file))


def family_of(attributes: Mapping[str, Any], where: str) -> Family:
    """The family that a `config.json` names itself.

    Raises:
        InputError: none that is implemented.
    """
    name = attributes.get("model_type")
    known: dict[str, list[Family]] = {}
    for family in FAMILIES.values():
        for kind in family.model_types:
            known.setdefault(kind, []).append(family)
    if name is None and isinstance(attributes.get("config"), dict):
        raise InputError(
            f"{where}: of a run's workdir; expected that of a language model, which a run that "
            "trained one has in WORKDIR/hf"
        )
    if not isinstance(name, str) or name not in known:
        kinds = short(attributes.get("architectures"))
        raise InputError(
            f"{where}: model_type {short(name)}, architectures {kinds}: not implemented; expected "
            f"one of {', '.join(known)}"
        )
    marked = [family for family in known[name] if family.mark in attributes]
    return (marked or known[name])[0]


def with_fields(config: Any, fields: Mapping[str, Any]) -> Any:
    """A model's config with other values of some fields; `InputError` naming a wrong one."""
    return build(type(config), to_plain(config) | {**fields}, "model") if fields else config


def check_family(form: str, family: Family, where: Path) -> None:
    """Raises `InputError` for a form that has no models of a family."""
    if form not in family.forms:
        raise InputError(
            f"{where}: the form {form} has no models of the family {family.name}; expected one of "
            f"{', '.join(family.forms)}"
        )


def check_dtype(dtype: Any) -> None:
    """Raises `InputError` for what is neither one of `DTYPES` nor None."""
    try:
        known = dtype is None or jnp.dtype(dtype).name in DTYPES
    except TypeError:
        known = False
    if not known:
        raise InputError(f"dtype {dtype}: expected one of {', '.join(DTYPES)}")
