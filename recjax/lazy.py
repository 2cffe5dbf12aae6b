"""Names of a package that are imported when they are asked for (PEP 562)."""

import importlib
from collections.abc import Mapping
from typing import Any


def find(package: str, name: str, public: Mapping[str, str]) -> Any:
    """What a package's `__getattr__` returns.

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
