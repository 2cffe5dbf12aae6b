"""RecBole's atomic files: tab-separated `.inter` and `.item`, headers typed as `name:type`."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recjax.config import nearest
from recjax.data.interactions import BadRows, Catalog, InteractionLog, LogBuilder
from recjax.data.sources._lines import text_lines
from recjax.data.sources._values import finite, seconds
from recjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Options:
    name: str = ""  # of the data set, NAME.inter; "" = the folder's name
    user: str = "user_id"  # field names, without their types
    item: str = "item_id"
    timestamp: str = "timestamp"  # "" = the file is in time order
    rating: str = ""  # "" = no ratings
    title: str = ""  # of the .item file; "" = the first of title, movie_title, name


_TITLES = ("title", "movie_title", "item_title", "name", "app_name")


def files(path: Path, options: Options) -> list[Path]:
    """The raw files that `read` reads."""
    if not path.is_dir():
        raise InputError(f"{path}: expected a folder of RecBole atomic files")
    stem = path / (options.name or path.name)
    found = [stem.with_name(stem.name + suffix) for suffix in (".inter", ".item")]
    return [found[0]] + [f for f in found[1:] if f.exists()]


def read(path: Path, options: Options, bad: BadRows) -> tuple[InteractionLog, Catalog]:
    """Reads a folder of atomic files.

    Args:
        path: the folder.
        options: the fields.
        bad: takes rows with another number of fields or unreadable values.
    """
    inter, *item = files(path, options)
    log = LogBuilder(timestamps=bool(options.timestamp), ratings=bool(options.rating))
    wanted = [f for f in (options.user, options.item, options.timestamp, options.rating) if f]
    for number, row in _rows(inter, wanted, (), bad):
        try:
            time = seconds(row[options.timestamp]) if options.timestamp else 0
            rating = finite(row[options.rating]) if options.rating else 0.0
        except ValueError:
            bad.report(inter, number, "expected numbers as time and rating")
            continue
        user, key = row[options.user], row[options.item]
        if not user or not key:
            bad.report(inter, number, "empty user or item")
            continue
        log.add(user, key, time, rating)
    return log.build(), _items(item[0], options, bad) if item else {}


def _items(path: Path, options: Options, bad: BadRows) -> Catalog:
    catalog: Catalog = {}
    wanted = [options.item] + ([options.title] if options.title else [])
    # A title is text, though it is typed token_seq.
    for _, row in _rows(path, wanted, (options.item, options.title, *_TITLES), bad):
        key = row.pop(options.item)
        field = options.title or next((t for t in _TITLES if t in row), "")
        title = row.pop(field, "")
        catalog[key] = {"title": title.strip() or None, **row}
    return catalog


def _rows(
    path: Path, wanted: list[str], texts: tuple[str, ...], bad: BadRows
) -> Iterator[tuple[int, dict[str, Any]]]:
    """`(line number, row)`; values of `_seq` fields but the `texts` are lists."""
    names: list[str] = []
    sequences: set[str] = set()
    for number, line in text_lines(path):
        fields = line.split("\t")
        if number == 1:
            names = [field.partition(":")[0] for field in fields]
            sequences = {f.partition(":")[0] for f in fields if f.endswith("_seq")} - {*texts}
            for name in wanted:
                if name not in names:
                    raise InputError(f"{path}:1: no field '{name}'; {nearest(name, names)}")
            continue
        if len(fields) != len(names):
            bad.report(path, number, f"{len(fields)} fields; expected {len(names)}")
            continue
        row: dict[str, Any] = dict(zip(names, fields, strict=True))
        for name in sequences:
            row[name] = row[name].split()
        yield number, row
