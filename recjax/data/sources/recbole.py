"""RecBole's atomic files: tab-separated `.inter` and `.item`, headers typed as `name:type`."""

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recjax.config import nearest
from recjax.data.interactions import BadRows, Catalog, InteractionLog, LogBuilder
from recjax.data.sources._blocks import Places, add_blocks
from recjax.data.sources._lines import looks_like_data, other_separator, separator_of, text_lines
from recjax.data.sources._times import TimeUnit, moment_of
from recjax.data.sources._values import add_item, field, key, number, shown, title
from recjax.data.sources.movielens import articles_first
from recjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the RecBole reader."""

    name: str = ""  # of the data set, NAME.inter; "" = the folder's name
    user: str = "user_id"  # field names, without their types
    item: str = "item_id"
    timestamp: str = "timestamp"  # "" = the file is in time order
    time_unit: TimeUnit = "s"  # of timestamps that are numbers; date: 20240301
    rating: str = ""  # "" = no ratings
    title: str = ""  # of the .item file; "" = the first of title, movie_title, name
    clean_titles: bool = True  # MovieLens' "Shining, The" -> "The Shining"
    separator: str = ""  # of the fields, one character; "" = tab


_TITLES = ("title", "movie_title", "item_title", "name", "app_name")


def files(path: Path, options: Options) -> list[Path]:
    """The raw files that `read` reads."""
    if not path.is_dir():
        raise InputError(f"{path}: expected a folder of RecBole atomic files")
    stem = path / (options.name or path.name)
    found = [stem.with_name(stem.name + suffix) for suffix in (".inter", ".item")]
    given = sorted(file.name for file in path.glob(f"{stem.name}.*.inter"))
    if given and not found[0].exists():
        raise InputError(
            f"{found[0]}: no such file, but {', '.join(given)}; recjax splits by itself "
            f"(config.split), and config.data.source=table reads them as one log: "
            f"options.file='{stem.name}.*.inter' options.user='{options.user}:token' "
            f"options.item='{options.item}:token' options.timestamp='timestamp:float' "
            "options.separator=tab"
        )
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
    done = _plain_beginning(inter, options, wanted, log)
    for line, row in _rows(inter, options, wanted, (), bad, done):
        try:
            user = field(options.user, key, row[options.user])
            thing = field(options.item, key, row[options.item])
            time = moment_of(options.timestamp, row.get(options.timestamp), options.time_unit)
            rating = field(options.rating, number, row[options.rating]) if options.rating else 0.0
        except ValueError as error:
            bad.report(inter, line, str(error))
            continue
        log.add(user, thing, time.seconds, rating, time.nanoseconds)
    return log.build(), _items(item[0], options, bad) if item else {}


def _plain_beginning(
    path: Path, options: Options, wanted: list[str], log: LogBuilder
) -> tuple[int, int]:
    """See `add_blocks`."""

    def places_of(first: list[str]) -> tuple[Places, bool] | None:
        names = [field.partition(":")[0].strip() for field in first]
        wanted_here = all(name in names for name in wanted)
        if not names or not wanted_here or f"{options.item}_list" in names:
            return None
        fields = (options.user, options.item, options.timestamp, options.rating)
        # A name that stands twice is the last field of it, as in a row.
        last = {name: at for at, name in enumerate(names)}
        user, item, time, rating = (last[name] if name else -1 for name in fields)
        places = Places(len(names), user, item, time, rating, options.timestamp, options.time_unit)
        return places, True

    separator = separator_of(options.separator, "\t", "config.data.options.separator")
    return add_blocks(path, separator, False, log, places_of) if path.is_file() else (0, 0)


def _items(path: Path, options: Options, bad: BadRows) -> Catalog:
    catalog: Catalog = {}
    wanted = [options.item] + ([options.title] if options.title else [])
    # A title is text, though it is typed token_seq.
    for line, row in _rows(path, options, wanted, (options.item, options.title, *_TITLES), bad):
        of_title = options.title or next((t for t in _TITLES if t in row), "")
        try:
            item = field(options.item, key, row.pop(options.item))
            name = title(row.pop(of_title, None))
            if name and options.clean_titles:
                name = articles_first(name)
            add_item(catalog, item, {"title": name, **row})
        except ValueError as error:
            bad.report(path, line, str(error))
    return catalog


def _rows(
    path: Path,
    options: Options,
    wanted: list[str],
    texts: tuple[str, ...],
    bad: BadRows,
    done: tuple[int, int] = (0, 0),
) -> Iterator[tuple[int, dict[str, Any]]]:
    """`(line number, row)`; values of `_seq` fields but the `texts` are lists. `done` bytes and
    lines were read otherwise, the header among them."""
    separator = separator_of(options.separator, "\t", "config.data.options.separator")
    names: list[str] = []
    sequences: set[str] = set()
    lines = text_lines(path)
    if done[1]:
        lines = itertools.chain([next(lines)], text_lines(path, done=done))
    for at, line in lines:
        fields = line.split(separator)
        if at == 1:
            names = [field.partition(":")[0].strip() for field in fields]
            sequences = {f.partition(":")[0] for f in fields if f.endswith("_seq")} - {*texts}
            listed = f"{options.item}_list"
            if options.user in wanted and listed in names:
                raise InputError(
                    f"{path}:1: '{listed}' has histories beside their next items, and these would "
                    "be lost; expected a row for each interaction"
                )
            for name in wanted:
                if name not in names:
                    raise InputError(f"{path}:1: {_missing(name, names, line, separator)}")
            continue
        if len(fields) != len(names):
            bad.report(path, at, f"{len(fields)} fields; expected {len(names)}")
            continue
        row: dict[str, Any] = dict(zip(names, fields, strict=True))
        for name in sequences:
            row[name] = row[name].split()
        yield at, row


def _missing(name: str, names: list[str], line: str, separator: str) -> str:
    """Why a field is not there: another separator, no header, or another name."""
    if len(names) == 1 and (other := other_separator(line, separator)):
        return (
            f"no {separator!r} between the fields of {shown(line)}; "
            f"config.data.options.separator={other!r} splits them"
        )
    if looks_like_data(names):
        return f"expected a header 'user_id:token ...', got {shown(line)}"
    return f"no field '{name}'; {nearest(name, names)}"
