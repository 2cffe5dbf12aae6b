"""A new log as histories for a model that was trained on an earlier one.

log = read_log(run.store, run.reading, "today.csv")
log.offsets, log.items, log.user_keys    # item ids of the run's store
"""

import dataclasses
from pathlib import Path

import numpy as np

from recjax.data import filters
from recjax.data.interactions import compact, time_order
from recjax.data.prepare import DataConfig, read_options, read_raw, resolve
from recjax.data.store import Store
from recjax.errors import InputError

# Options of files that say what items are: the store knows its own.
_OF_ITEMS = ("items", "metadata", "games", "title")


@dataclasses.dataclass(frozen=True, eq=False)
class NewLog:
    """Histories of a log's users, of items that a store knows.

    Attributes:
        path: of the log.
        items: [N] int32 item ids of the store, each user's in time order.
        offsets: [U+1] int64: user u's items are `items[offsets[u]:offsets[u+1]]`, or none.
        timestamps: [N] int64 seconds, or None.
        user_keys: [U] raw keys in their order.
        unknown: different items that the store does not know.
        dropped: rows of these items.
    """

    path: Path
    items: np.ndarray
    offsets: np.ndarray
    timestamps: np.ndarray | None
    user_keys: list[str]
    unknown: int
    dropped: int


def read_log(store: Store, config: DataConfig, path: str | Path, key: str = "log") -> NewLog:
    """Reads a log as the store's own was read.

    The reader, its options, `min_rating`, `deduplicate` and `skip_bad_rows` are those of `config`.
    What only chooses data to learn from takes no part: `since`, `until` and the k-core. Files of
    items beside the log are not read. All rows are in memory.

    Args:
        store: whose items are known.
        config: that the store was prepared with.
        path: of the log; relative ones also under `RECJAX_DATA`.
        key: what errors call the path.

    Raises:
        InputError: no such file, a malformed row, no interaction left, a run of simulated data.
    """
    if config.source == "simulated":
        raise InputError(f"{key}: the run's data are simulated; expected a run of a raw log")
    module, options = read_options(config)
    plain = {name: "" for name in _OF_ITEMS if hasattr(options, name)}
    found = resolve(str(path), key)
    log, _, _ = read_raw(config, module, found, dataclasses.replace(options, **plain))
    if config.min_rating is not None:
        log = filters.filter_ratings(log, config.min_rating)
    if config.deduplicate != "keep":
        log = filters.deduplicate(log, config.deduplicate)
    if not len(log):
        raise InputError(f"{found}: no interaction is left; check config.data.min_rating")
    log = compact(log)
    order = time_order(log)
    ids = np.array([store.item_ids.get(item, 0) for item in log.item_keys], np.int32)
    order = order[ids[log.items[order]] > 0]
    lengths = np.bincount(log.users[order], minlength=len(log.user_keys))
    return NewLog(
        found,
        ids[log.items[order]],
        np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
        None if log.timestamps is None else log.timestamps[order],
        list(log.user_keys),
        int(np.count_nonzero(ids == 0)),
        len(log) - len(order),
    )
