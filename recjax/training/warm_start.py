"""Parameters of a trained run as the start of another one, also where its data have changed."""

import re
from typing import Any

import jax
import numpy as np

from recjax.sharded import MESH_AXES
from recjax.training.state import init_params
from recjax.typing import Params

_OF_ITEMS = re.compile(r"(items|outputs)/(own/)?embedding|bias")
_OF_USERS = re.compile(r"users/embedding")


def start_from(run: Any, other: Any, params: Params) -> dict[str, np.ndarray]:
    """What a recommender's run takes over from another one, by path.

    Paths and shapes must agree; what is frozen is left out. Where the data differ, rows of items
    and of users go by their raw keys, and those of new ones are drawn.

    Args:
        run: that starts.
        other: that was trained.
        params: of `other`.
    """
    shapes, same = run.model.shapes, run.store.fingerprint == other.store.fingerprint
    out, rows = {}, {}
    for path, value in params.items():
        if path not in shapes or run.roles[path] == "frozen":
            continue
        alike = same and shapes[path].shape == value.shape
        found = None if alike else _rows(path, value.shape, run.store, other.store)
        if found is not None and shapes[path].shape[1:] == value.shape[1:]:
            rows[path] = found
        elif found is None and shapes[path].shape == value.shape:
            out[path] = np.asarray(value)
    if rows:
        but = shapes.keys() - rows.keys()
        own = jax.sharding.Mesh(np.array(jax.local_devices()[:1]).reshape(1, 1, 1), MESH_AXES)
        drawn = init_params(run.build, run.seed, run.placed_axes, own, but=but)  # whole, here
        for path, (old, new) in rows.items():
            out[path] = np.array(drawn[path])
            out[path][new] = np.asarray(params[path])[old]
    return out


def _rows(
    path: str, shape: tuple[int, ...], store: Any, old_store: Any
) -> tuple[np.ndarray, np.ndarray] | None:
    """Rows of the old table and of the new one that belong to the same keys; None = no such table.

    A table of items may have rows behind them.
    """
    if _OF_ITEMS.fullmatch(path) and shape[0] >= old_store.n_items:
        old, new = {**old_store.item_ids, None: 0}, {**store.item_ids, None: 0}  # 0 is padding
    elif _OF_USERS.fullmatch(path) and shape[0] == old_store.n_users:
        old, new = old_store.user_numbers, store.user_numbers
    else:
        return None
    shared = [key for key in old if key in new]
    return np.array([old[k] for k in shared], int), np.array([new[k] for k in shared], int)
