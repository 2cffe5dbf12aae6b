"""Sequence text of S3-Rec and P5: a line a user, `user item item ...`, oldest item first."""

import dataclasses
from pathlib import Path

from recjax.data.interactions import BadRows, Catalog, InteractionLog, LogBuilder
from recjax.data.sources._lines import records, text_lines
from recjax.data.sources._values import add_item, field, key
from recjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the reader of sequence text."""

    items: str = ""  # JSON lines beside the file: item_id, title, and anything else
    item_key: str = "item_id"  # the records' key of the item


def files(path: Path, options: Options) -> list[Path]:
    """The raw files that `read` reads."""
    if path.is_dir():
        raise InputError(f"{path}: expected the sequence text file, got a folder")
    return [path, path.parent / options.items] if options.items else [path]


def read(path: Path, options: Options, bad: BadRows) -> tuple[InteractionLog, Catalog]:
    """Reads a sequence file.

    Args:
        path: the text file.
        options: where the catalogue is.
        bad: takes lines without an item, users met before, and what is no id.
    """
    log = LogBuilder(timestamps=False, ratings=False)
    seen: dict[str, int] = {}
    pairs = True  # so far each line has one item
    for number, line in text_lines(path):
        fields = line.split()
        if len(fields) < 2:
            bad.report(path, number, f"expected 'user item item ...', got {line[:60]!r}")
            continue
        try:
            user, *items = (
                field("user" if n == 0 else "item", key, v) for n, v in enumerate(fields)
            )
        except ValueError as error:
            bad.report(path, number, str(error))
            continue
        pairs = pairs and len(items) == 1
        if user in seen and pairs:
            raise InputError(
                f"{path}:{number}: user {user} again (first on line {seen[user]}), and each line "
                "has one item; lines of 'user item' are read by config.data.source=table with "
                "options.columns=user,item options.separator=' ' options.timestamp="
            )
        if user in seen:
            bad.report(path, number, f"user {user} again (first on line {seen[user]})")
            continue
        seen[user] = number
        for item in items:
            log.add(user, item)
    catalog: Catalog = {}
    if options.items:
        catalog = read_items(path.parent / options.items, options.item_key, bad)
    return log.build(), catalog


def read_items(path: Path, name: str, bad: BadRows) -> Catalog:
    """A catalogue of JSON lines: each record has its item's raw key under `name`."""
    catalog: Catalog = {}
    for number, record in records(path, bad):
        try:
            item = field(name, key, record.pop(name, None))
            add_item(catalog, item, record)
        except ValueError as error:
            bad.report(path, number, str(error))
    return catalog
