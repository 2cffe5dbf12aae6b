"""Imports on demand: the names of a package (PEP 562), and the objects that tables name."""

import importlib
from collections.abc import Mapping
from typing import Any


def find(package: str, name: str, public: Mapping[str, str]) -> Any:
    """The function that serves as a package's `__getattr__`.

    Args:
        package: its `__name__`.
        name: what was asked for.
        public: name -> the module that has it; "" where the name is that of a submodule.

    Raises:
        AttributeError: a name that is not public.
    """
    if name not in public:
        raise AttributeError(f"module '{package}' has no attribute '{name}'")
    if not public[name]:
        return importlib.import_module(f"{package}.{name}")
    return getattr(importlib.import_module(public[name]), name)


def resolve(place: str) -> Any:
    """The object that "module:NAME" names."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
