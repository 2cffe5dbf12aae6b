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
from typing import Any

import numpy as np

from recjax.models.named import read_section

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


def read_reference(section: Any) -> tuple[Any, Any]:
    """The module of a reference and its own `Config`; see `recjax.models.named`."""
    return read_section(section, "references.", NAMES, "reference")
