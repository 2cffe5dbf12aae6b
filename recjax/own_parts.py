"""Parts of one's own that a config names: "package.module", with a dot."""

import importlib
from collections.abc import Collection
from typing import Any

from recjax.errors import InputError


def is_own(name: Any) -> bool:
    """Whether a name is that of a module outside of this package, and no name of ours."""
    return isinstance(name, str) and "." in name


def own_module(name: str, key: str, needed: Collection[str]) -> Any:
    """A module of one's own, imported.

    Args:
        name: "package.module", where Python finds it.
        key: of the config, for errors.
        needed: names that it must have.

    Raises:
        InputError: it cannot be imported, or lacks a name.
    """
    try:
        module = importlib.import_module(name)
    except Exception as error:  # whatever its code raises
        raise InputError(
            f"{key}: cannot import '{name}' ({type(error).__name__}: {error}); expected a module "
            "that Python finds (PYTHONPATH)"
        ) from error
    missing = [part for part in needed if not hasattr(module, part)]
    if missing:
        raise InputError(f"{key}: module '{name}' lacks {', '.join(missing)}")
    return module
