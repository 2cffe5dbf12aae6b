"""Preparation of logs larger than memory; the stores are those of `recjax.data.prepare`.

Rows are dealt to buckets of neighbouring users (`recjax.data.spill`). In each they are sorted, and
repeated ones are dropped; a round of the k-core counts over all buckets which users and items are
left; then the arrays of the store are written one bucket after the other.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recjax.data.filters import count_duplicates, deduplicate, exact_duplicates, note_of_exact
from recjax.data.interactions import (
    Catalog,
    InteractionLog,
    key_numbers,
    key_order,
    out_of_order,
    time_order,
)
from recjax.data.keys import Keys
from recjax.data.spill import Buckets, Column, Rows, grouped
from recjax.data.store import Store, finish, open_store, store_files
from recjax.data.verify import ARRAYS
from recjax.errors import InputError
from recjax.replace import new_folder


def write_store_from_disk(
    path: Path,
    log: InteractionLog,
    catalog: Catalog,
    manifest: dict[str, Any],
    spill: Path,
    config: Any,
    *,
    overwrite: bool,
) -> Store:
    """Filters a log as `config` (a `DataConfig`) says and writes the store.

    Args:
        path, catalog, manifest, overwrite: see `recjax.data.store.write_store`.
        log: of a reader, while `recjax.data.spill.spilling`.
        spill: a folder for the buckets.
        config: the filters.

    Raises:
        InputError: what the filters and `write_store` refuse.
    """
    ranks, user_keys = _ranked(log.user_keys)
    item_ranks, item_keys = _ranked(log.item_keys)
    if config.min_rating is not None and log.ratings is None:
        raise InputError("config.data.min_rating is set, but the source has no ratings")
    timed = bool(config.since or config.until)
    if timed and log.timestamps is None:
        raise InputError("config.data.since or until is set, but the source has no times")
    since, until = config.times()
    titled = np.fromiter((bool(catalog.get(key, {}).get("title")) for key in item_keys), bool)
    buckets = grouped(log, ranks, spill)
    late = duplicates = exact = 0
    for number in range(buckets.count):
        rows = _as_log(buckets.read(number), user_keys, item_keys, item_ranks)
        late += out_of_order(rows)
        keep = np.ones(len(rows), bool)
        if config.min_rating is not None:
            keep &= rows.ratings >= config.min_rating
        if timed:
            keep &= (rows.timestamps >= since) & (rows.timestamps < until)
        if config.drop_untitled:
            keep &= titled[rows.items]
        rows = _chosen(rows, keep)
        duplicates += count_duplicates(rows)
        exact += len(exact_duplicates(rows))
        if config.deduplicate != "keep":
            rows = deduplicate(rows, config.deduplicate)
        rows = _chosen(rows, time_order(rows))
        names = [f.name for f in dataclasses.fields(Rows)]
        buckets.replace(number, Rows(*(getattr(rows, name) for name in names)))
    users, items = _k_core(buckets, len(user_keys), len(item_keys), config)
    total = int(users.sum())
    if not total:
        raise InputError(
            f"{path}: no interaction is left to write; check the filters "
            "(min_rating, k_core_users, k_core_items) and the source"
        )
    buckets, users, user_keys = _in_order(buckets, users, items, user_keys, spill)
    new_ids, item_keys = _renumbered(items, item_keys)
    if late:
        note = f"{late} rows were out of time order and have been sorted"
        manifest = {**manifest, "warnings": [note, *manifest["warnings"]]}
    if exact and config.deduplicate == "keep":
        manifest = {**manifest, "warnings": [*manifest["warnings"], note_of_exact(exact)]}
    manifest = {**manifest, "duplicates": {"found": duplicates, "kept": config.deduplicate}}
    with new_folder(path, overwrite=overwrite, known=store_files, sign=False) as folder:
        offsets = np.zeros(np.count_nonzero(users) + 1, ARRAYS["offsets"])
        np.cumsum(users[users > 0], out=offsets[1:])
        np.save(folder / "offsets.npy", offsets)
        del offsets
        for name in ("items", "timestamps", "ratings"):
            if getattr(log, name) is not None:
                left = (getattr(r, name) for r in _alive(buckets, users, items, (name,)))
                if name == "items":
                    left = (new_ids[ids] for ids in left)
                _write(folder, name, total, left)
        finish(folder, _taken(user_keys, np.flatnonzero(users)), item_keys, catalog, manifest)
    return open_store(path)


def _ranked(keys: Sequence[str]) -> tuple[np.ndarray, Sequence[str]]:
    """[n] int32 places of keys in their order, and the keys in it."""
    order = np.asarray(key_order(keys), np.int64)
    ranks = np.empty(len(keys), np.int32)
    ranks[order] = np.arange(len(keys), dtype=np.int32)
    return ranks, _taken(keys, order)


def _left(counts: np.ndarray, keys: Sequence[str]) -> tuple[np.ndarray, Sequence[str]]:
    """[k] places of the keys that are left, in their order, and these keys.

    The places rise, unless all that is left are numbers and something else was among the keys.
    """
    left = np.flatnonzero(counts)
    left_keys = _taken(keys, left)
    if len(left) == len(counts) or key_numbers(left_keys) is None or key_numbers(keys) is not None:
        return left, left_keys
    order = np.asarray(key_order(left_keys), np.int64)
    return left[order], _taken(left_keys, order)


def _renumbered(items: np.ndarray, keys: Sequence[str]) -> tuple[np.ndarray, Sequence[str]]:
    """[I] int32 ids from 1 of the items that are left, and their keys by id."""
    left, left_keys = _left(items, keys)
    ids = np.zeros(len(items), np.int32)
    ids[left] = np.arange(1, len(left) + 1, dtype=np.int32)
    return ids, left_keys


def _in_order(
    buckets: Buckets, users: np.ndarray, items: np.ndarray, keys: Sequence[str], spill: Path
) -> tuple[Buckets, np.ndarray, Sequence[str]]:
    """Buckets, interactions of each user and keys, whose users are in the order of those left."""
    left, left_keys = _left(users, keys)
    if (np.diff(left) > 0).all():
        return buckets, users, keys
    names = {"users": "i", "items": "i", "timestamps": "q", "ratings": "f"}
    columns: dict[str, Column] = {}
    for rows in _alive(buckets, users, items, names):
        for name, kind in names.items():
            values = getattr(rows, name)
            if values is not None:
                columns.setdefault(name, Column(kind, values.dtype)).extend(values)
                columns[name].spill()
    arrays: dict[str, Any] = {k: columns[k].array() if k in columns else None for k in names}
    ranks = np.zeros(len(users), np.int32)
    ranks[left] = np.arange(len(left), dtype=np.int32)
    folder = spill / "in-order"
    folder.mkdir()
    log = InteractionLog(**arrays, user_keys=left_keys, item_keys=())
    regrouped = grouped(log, ranks, folder)
    for number in range(regrouped.count):
        rows = regrouped.read(number)
        regrouped.replace(number, rows.take(np.argsort(rows.users, kind="stable")))
    return regrouped, users[left], left_keys


def _taken(keys: Sequence[str], which: np.ndarray) -> Sequence[str]:
    return keys.take(which) if isinstance(keys, Keys) else [keys[i] for i in which]


def _as_log(
    rows: Rows, user_keys: Sequence[str], item_keys: Sequence[str], item_ranks: np.ndarray
) -> InteractionLog:
    return InteractionLog(
        rows.users, item_ranks[rows.items], rows.timestamps, rows.ratings, user_keys, item_keys,
        rows.nanoseconds,
    )  # fmt: skip


def _chosen(log: InteractionLog, rows: np.ndarray) -> InteractionLog:
    columns = ("users", "items", "timestamps", "ratings", "nanoseconds")
    taken = {n: getattr(log, n)[rows] for n in columns if getattr(log, n) is not None}
    return dataclasses.replace(log, **taken)


def _k_core(buckets: Buckets, users: int, items: int, config: Any) -> tuple[np.ndarray, np.ndarray]:
    """Interactions of each user [U] and item [I] that are left; 0 = it is dropped."""
    of_user, of_item = np.ones(users, np.int32), np.ones(items, np.int32)
    while True:
        counts = np.zeros(users, np.int32), np.zeros(items, np.int32)
        for rows in _alive(buckets, of_user, of_item, ("users", "items")):
            for count, ids in zip(counts, (rows.users, rows.items), strict=True):
                np.add.at(count, ids, np.int32(1))
        of_user, of_item = counts
        few = (of_user < config.k_core_users) & (of_user > 0)
        rare = (of_item < config.k_core_items) & (of_item > 0)
        if not few.any() and not rare.any():
            return of_user, of_item
        of_user[few], of_item[rare] = 0, 0


def _alive(buckets: Buckets, users: np.ndarray, items: np.ndarray, columns: Any) -> Any:
    """Columns of rows whose users and items are left, bucket by bucket."""
    for number in range(buckets.count):
        rows = buckets.read(number, {"users", "items", *columns})
        yield rows.take((users[rows.users] > 0) & (items[rows.items] > 0))


def _write(folder: Path, name: str, total: int, parts: Any) -> None:
    """An array of a store, part by part."""
    dtype = np.dtype(ARRAYS[name])
    with (folder / f"{name}.npy").open("wb") as file:
        header = {"descr": dtype.str, "fortran_order": False, "shape": (total,)}
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            file.write(np.ascontiguousarray(part.astype(dtype)).tobytes())
