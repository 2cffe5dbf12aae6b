"""From a raw log to a store: read, filter, write."""

import dataclasses
import importlib
import math
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from recjax.config import build, nearest, to_plain
from recjax.data import filters, interactions
from recjax.data.external import write_store_from_disk
from recjax.data.interactions import BadRows, Catalog, InteractionLog
from recjax.data.sources._times import UNITS, moment, numeric_date
from recjax.data.spill import parts, spilling
from recjax.data.store import Store, hash_file, open_store, store_files, write_store
from recjax.errors import InputError
from recjax.own_parts import is_own, own_module
from recjax.paths import home
from recjax.ranges import Checked, Count, FieldError, Range
from recjax.replace import check_place, locked

_DATES = (19900101, 21001231)  # numbers that may be dates
_YEARS = (631152000, 4102444800)  # 1990 to 2100, in seconds
SOURCES = (
    "amazon",
    "movielens",
    "recbole",
    "sequences_txt",
    "simulated",
    "steam",
    "table",
    "tfds",
)


@dataclasses.dataclass(frozen=True)
class DataConfig(Checked):
    """Section `data`: the raw log, its reader and its filters."""

    source: str  # a reader of `recjax.data.sources`, or "package.module" of one's own
    store: str  # folder of the prepared data set
    path: str = ""  # raw data: as given, else under the folder named by RECJAX_DATA
    options: dict = dataclasses.field(default_factory=dict)  # the reader's own `Options`
    min_rating: Annotated[float, Range()] | None = None  # drop interactions rated below
    since: str = ""  # drop earlier interactions; an ISO date or time (UTC)
    until: str = ""  # drop this and later ones
    # Repeated (user, item) pairs; "exact": those whose times are equal, too.
    deduplicate: Literal["keep", "first", "last", "exact"] = "keep"
    drop_untitled: bool = False  # interactions with items that have no title
    k_core_users: Count = 0  # least interactions a user; repeated with k_core_items until stable
    k_core_items: Count = 0  # least interactions an item
    skip_bad_rows: Count = 0  # malformed rows tolerated (and counted) before it is an error
    # Rows are kept on the disk beside the store, for logs larger than memory; keys of users and
    # items stay in memory, packed. The store is the same.
    out_of_core: bool = False

    def __post_init__(self):
        super().__post_init__()
        self.times()

    def times(self) -> tuple[int, int]:
        """`since` and `until` in seconds; all of time by default."""
        since, until = date_seconds("since", self.since), date_seconds("until", self.until)
        return since or 0, np.iinfo(np.int64).max if until is None else until


def date_seconds(name: str, text: str) -> int | None:
    """The seconds of a config's field with an ISO date or time (UTC); None where it is empty."""
    try:
        if text.isdecimal():  # seconds, or 20240301?
            raise ValueError("expected a date such as 2024-03-01")
        return moment(text).seconds if text else None
    except ValueError as error:
        raise FieldError(name, f"'{text}': {error}") from None


def resolve(path: str, key: str = "config.data.path") -> Path:
    """The path of raw data, which a config's key names: as given, else under `RECJAX_DATA`."""
    given = home(path)
    patterned = set(path) & set("*?[")
    pattern = "; the table reader's option 'file' takes a pattern" if patterned else ""
    if given.is_absolute() or given.exists():
        if not given.exists():
            raise InputError(f"{key}: no file or folder {given}{pattern}")
        return given
    root = os.environ.get("RECJAX_DATA")
    if root and (Path(root) / given).exists():
        return Path(root) / given
    where = f"nor {Path(root) / given}" if root else "and RECJAX_DATA is not set"
    raise InputError(f"{key}: no file or folder {given} {where}{pattern}")


def is_gone(path: str) -> bool:
    """Whether raw data that a run was made of are no longer there; its store serves."""
    try:
        resolve(path)
    except InputError:
        return bool(path)
    return False


def _origin(files: list[Path]) -> list[dict[str, Any]]:
    """Name, size and hash of the raw files."""
    for file in files:
        if not file.is_file():
            raise InputError(f"{file}: no such file")
    entries = []
    for file in files:
        try:
            entries.append({"name": file.name, **hash_file(file)})
        except OSError as error:
            raise InputError(f"cannot read {file}: {error.strerror}") from error
    return entries


def read_options(config: DataConfig) -> tuple[Any, Any]:
    """The reader's module and its `Options`, from the config's `source` and `options`."""
    if is_own(config.source):
        module = own_module(config.source, "config.data.source", ("Options", "files", "read"))
        return module, build(module.Options, config.options, "config.data.options")
    if config.source not in SOURCES:
        raise InputError(
            f"config.data.source: no reader '{config.source}'; {nearest(config.source, SOURCES)}"
        )
    module = importlib.import_module(f"recjax.data.sources.{config.source}")
    return module, build(module.Options, config.options, "config.data.options")


def prepare(config: DataConfig, *, overwrite: bool = False) -> Store:
    """Reads a raw log, filters it and writes the store; one that is up to date is only opened.

    The order of the filters: ratings, times, titles, duplicates, k-core.

    Args:
        config: what to read and how.
        overwrite: replace a store made from other data or options, once the new one is whole.

    Raises:
        InputError: an unknown source or option, bad rows beyond the limit, nothing left after the
            filters, a store at `config.store` made from something else, or one that another process
            is preparing.
    """
    module, options = read_options(config)
    if not config.store:
        raise InputError("config.data.store: is empty; expected a folder for the prepared data")
    if not config.path and config.source != "simulated":
        raise InputError(f"config.data.path: the '{config.source}' reader needs a file or folder")
    path = resolve(config.path) if config.path else Path()
    made_from = {
        "source": {"name": config.source, "files": _origin(module.files(path, options))},
        "options": {**to_plain(config), "options": to_plain(options)},
    }
    # No properties of the data; how many rows were left out is in the manifest.
    for name in ("store", "path", "out_of_core", "skip_bad_rows"):
        made_from["options"].pop(name)
    if (home(config.store) / "manifest.json").exists() and not overwrite:
        store = open_store(config.store)
        if not _differences(store, made_from, options):
            return store
        raise InputError(
            f"{config.store}: made from other data or options (differs in "
            f"{', '.join(_differences(store, made_from, options))}); "
            "`recjax prepare --overwrite` with the same --config prepares it again, "
            "--config.data.store=DIR keeps both"
        )
    place = home(config.store)
    check_place(place, overwrite=overwrite, known=store_files)  # not after the log is read
    with locked(place):
        if config.out_of_core:
            return _from_disk(config, module, path, options, made_from, overwrite)
        log, catalog, manifest = _read(config, module, path, options)
        return write_store(place, log, catalog, made_from | manifest, overwrite=overwrite)


def _read(
    config: DataConfig, module: Any, path: Path, options: Any
) -> tuple[InteractionLog, Catalog, dict[str, Any]]:
    """The log after the filters, and its record for the manifest."""
    log, catalog, bad_rows = read_raw(config, module, path, options)
    notes = []
    late = interactions.out_of_order(log)
    if late:
        notes.append(f"{late} rows were out of time order and have been sorted")
    notes += _note_of_times(log, config)
    if config.min_rating is not None:
        log = filters.filter_ratings(log, config.min_rating)
    if config.since or config.until:
        log = filters.filter_times(log, *config.times())
    if config.drop_untitled:
        titled = [bool(catalog.get(key, {}).get("title")) for key in log.item_keys]
        log = filters.select(log, np.array(titled)[log.items])
    duplicates = filters.count_duplicates(log)
    exact = filters.exact_duplicates(log) if duplicates else np.zeros(0, np.int64)
    if len(exact) and config.deduplicate == "keep":
        notes.append(filters.note_of_exact(len(exact)))
    if config.deduplicate != "keep":
        log = filters.deduplicate(log, config.deduplicate)
    if config.k_core_users or config.k_core_items:
        log = filters.k_core(log, config.k_core_users, config.k_core_items)
    return (
        log,
        catalog,
        {
            "bad_rows": bad_rows,
            "duplicates": {"found": duplicates, "kept": config.deduplicate},
            "warnings": notes,
        },
    )


def read_raw(
    config: DataConfig, module: Any, path: Path, options: Any
) -> tuple[InteractionLog, Catalog, dict[str, Any]]:
    """The log as it is read, the catalogue, and the bad rows."""
    bad = BadRows(config.skip_bad_rows)
    log, catalog = module.read(path, options, bad)
    if not len(log):
        raise InputError(f"{path}: there is no interaction in it")
    _check_times(log, options, path)
    _check_unit(log, options, path)
    record = {"count": bad.count, "examples": bad.examples, "limit": config.skip_bad_rows}
    return log, catalog, record


def _check_times(log: InteractionLog, options: Any, path: Path) -> None:
    """Refuses times that all are dates of 1990 to 2100, written as numbers such as 20240301.

    As seconds they would lie in two weeks of August 1970.
    """
    if log.timestamps is None:
        return
    size = UNITS.get(getattr(options, "time_unit", "s"), 1)
    start = 0
    for times in parts(log.timestamps):
        if times.max() > _DATES[1] // size:
            return
        numbers = times * size
        if log.nanoseconds is not None:
            numbers = numbers + log.nanoseconds[start : start + len(times)] // (10**9 // size)
        start += len(times)
        if numbers.min() < _DATES[0] or numbers.max() > _DATES[1]:
            return
        try:
            for number in np.unique(numbers).tolist():
                numeric_date(number)
        except ValueError:
            return
    known = hasattr(options, "time_unit")
    hint = ", or config.data.options.time_unit: date" if known else ""
    raise InputError(
        f"{path}: every time is a date written as a number ({number}); expected seconds since 1970 "
        f"or ISO dates{hint}"
    )


def _check_unit(log: InteractionLog, options: Any, path: Path) -> None:
    """Refuses times before 1990 that all lie after it in a coarser unit than `time_unit`."""
    size = UNITS.get(getattr(options, "time_unit", "s"), 1)
    if log.timestamps is None or size == 1:
        return
    first, last = _ends(log)
    for unit, other in UNITS.items():
        factor = size // other
        if other < size and _YEARS[0] <= first * factor and last * factor < _YEARS[1]:
            raise InputError(
                f"{path}: every time lies before 1990 (config.data.options.time_unit: "
                f"{options.time_unit}); config.data.options.time_unit={unit} makes the first one "
                f"of {1970 + int(first * factor) // 31556952}"
            )


def _note_of_times(log: InteractionLog, config: DataConfig) -> list[str]:
    """A note where some times lie before 1990, and others do not: what is missing is often 0."""
    if log.timestamps is None or config.since or _ends(log)[1] < _YEARS[0]:
        return []
    early = sum(int(np.count_nonzero(some < _YEARS[0])) for some in parts(log.timestamps))
    if not early:
        return []
    return [
        f"{early:,} of {len(log):,} times lie before 1990: are they missing, or of another unit?"
    ]


def _ends(log: InteractionLog) -> tuple[float, float]:
    """The first and the last time, in seconds with their parts."""
    assert log.timestamps is not None
    low, high, start = math.inf, -math.inf, 0
    for some in parts(log.timestamps):
        times = some
        if log.nanoseconds is not None:
            times = some + log.nanoseconds[start : start + len(some)] / 1e9
        low, high, start = min(low, times.min()), max(high, times.max()), start + len(some)
    return float(low), float(high)


def _from_disk(
    config: DataConfig, module: Any, path: Path, options: Any, made_from: dict, overwrite: bool
) -> Store:
    """Does what `_read` and `write_store` do, with the rows on disk."""
    place = home(config.store)
    beside = place.absolute().parent
    beside.mkdir(parents=True, exist_ok=True)
    with spilling(beside) as folder:
        log, catalog, bad_rows = read_raw(config, module, path, options)
        notes = _note_of_times(log, config)
        manifest = made_from | {"bad_rows": bad_rows, "warnings": notes}
        return write_store_from_disk(
            place, log, catalog, manifest, folder, config, overwrite=overwrite
        )


def _differences(store: Store, made_from: dict[str, Any], options: Any) -> list[str]:
    """The options that differ in a store; an option that it does not know had its default."""
    old = _defaults(DataConfig) | store.manifest.get("options", {})
    old["options"] = _defaults(options) | (old.get("options") or {})
    new = made_from["options"]
    changed = [key for key in new if old[key] != new[key]]
    return (["source"] if store.manifest.get("source") != made_from["source"] else []) + changed


def _defaults(config: Any) -> dict[str, Any]:
    """The fields of a dataclass (or of an instance's class) that have a plain default."""
    fields = dataclasses.fields(config)
    return {f.name: to_plain(f.default) for f in fields if f.default is not dataclasses.MISSING}
