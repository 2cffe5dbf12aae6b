"""Cheap references: what is counted in the training split, without gradients.

A reference is one module with
- `Config`, frozen, with `max_length`: how many of a history's newest items it reads,
- `fit(config, sequences) -> {name: array}`,
- `score(config, arrays, ids [B L]) -> [B I]`, under `jax.jit`, higher is better; ids are padded on
  the left with 0, the newest item last,
- `needed(config, sequences) -> (key, bytes)`: the config key that asks for most, and its memory.

They keep a table honest: a trained model that does not reach them has learned little.
"""

import dataclasses
import importlib
from typing import Any

import numpy as np

from recjax.config import build, nearest
from recjax.errors import InputError

NAMES = ("popularity", "cooccurrence", "knn", "ease", "walk")


@dataclasses.dataclass(frozen=True, eq=False)
class Sequences:
    """The training split.

    Attributes:
        items: flat item ids; sequence n is `items[starts[n]:stops[n]]`, oldest item first.
        starts, stops: [n].
        n_items: I, padding included.
    """

    items: np.ndarray
    starts: np.ndarray
    stops: np.ndarray
    n_items: int

    def __len__(self) -> int:
        return len(self.starts)


def read_reference(section: Any, where: str = "config.model") -> tuple[Any, Any]:
    """The module of a reference and its own `Config`, from `name` and fields of the `Config`."""
    values = {key: section[key] for key in section}
    if "name" not in values:
        raise InputError(f"config section '{where}' lacks the key 'name' ({', '.join(NAMES)})")
    name = values.pop("name")
    if name not in NAMES:
        raise InputError(f"{where}.name: no reference '{name}'; {nearest(str(name), NAMES)}")
    module = importlib.import_module(f"recjax.models.references.{name}")
    return module, build(module.Config, values, where)
