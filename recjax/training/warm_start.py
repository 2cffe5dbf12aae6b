"""Parameters of a trained run as the start of another one, also where its data have changed."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from recjax.data.store import Store, open_store
from recjax.errors import InputError
from recjax.sharded import MESH_AXES
from recjax.training.checkpoint import read_json
from recjax.training.state import init_params
from recjax.typing import Params

_OF_ITEMS = re.compile(r"(items|outputs)/(own/)?embedding|bias")
_OF_USERS = re.compile(r"users/embedding")


def start_from(run: Any, opened: Callable[[Any, Store], Any]) -> dict[str, np.ndarray]:
    """Parameters by path that a run takes over from the one that its `config.start` names.

    Args:
        run: the recommender's run that starts.
        opened: the other run, of its config's section and its data.

    Raises:
        InputError: no such run, one whose data are gone, or one that has none of them.
    """
    other = Path(run.config.start)
    record = read_json(other / "config.json", "config.start to name a recommender's workdir")
    try:
        section = {key: value for key, value in record["config"].items() if key != "system"}
        section["train"] = {**section["train"], "mesh": (-1, 1, 1)}  # that of the other machine
        trained = opened(section, run.store)
        step = trained.latest_step()  # pre-training has no best one
        if trained.checkpoints.meta(step).get("data") != run.store.fingerprint:
            trained = opened(section, open_store(trained.config.data.store))
        params = trained.restore(step)
    except (InputError, KeyError, TypeError) as error:
        raise InputError(f"config.start: {other}: {error}") from None
    started = _taken(run, trained, params)
    if not started:
        raise InputError(
            f"config.start: {other} has no parameter of this model "
            f"({', '.join(list(run.model.shapes)[:3])}, ...) in its shape"
        )
    return started


def _taken(run: Any, other: Any, params: Params) -> dict[str, np.ndarray]:
    """What a run takes over of another one's parameters.

    Paths and shapes must agree; what is frozen is left out. Where the data differ, rows of items
    and of users go by their raw keys, and those of new ones are drawn.
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
