"""Amazon reviews: the 2014 and 2018 releases (`.json.gz`; strict JSON, or Python literals in old
files) and the 2023 one (`.jsonl.gz`), with their metadata files."""

import dataclasses
import re
from pathlib import Path
from typing import Any

from recjax.data.interactions import BadRows, Catalog, InteractionLog, LogBuilder
from recjax.data.sources._lines import find_file, records
from recjax.data.sources._times import moment
from recjax.data.sources._values import add_item, field, key, number, title, unescaped
from recjax.errors import InputError

# Raw names -> ours; the first of several that is there counts.
_METADATA = (
    ("brand", ("brand", "store")),
    ("categories", ("category", "categories")),
    ("description", ("description",)),
    ("price", ("price",)),
)


# Names of user, rating and time, and the time's unit.
_OLD = ("reviewerID", "overall", "unixReviewTime", "s")
_NEW = ("user_id", "rating", "timestamp", "ms")


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the Amazon reader."""

    reviews: str = ""  # file in the folder; "" = the path is the file
    metadata: str = ""  # file beside the reviews; "" = no titles


def _paths(path: Path, options: Options) -> tuple[Path, Path | None]:
    if path.is_dir():
        if not options.reviews:
            raise InputError(
                f"config.data.options.reviews: {path} is a folder; expected the file's name"
            )
        reviews = find_file(path, options.reviews)
    else:
        reviews = path
    return reviews, find_file(reviews.parent, options.metadata) if options.metadata else None


def files(path: Path, options: Options) -> list[Path]:
    """The raw files that `read` reads."""
    return [p for p in _paths(path, options) if p is not None]


def read(path: Path, options: Options, bad: BadRows) -> tuple[InteractionLog, Catalog]:
    """Reads reviews, and metadata where they are named.

    Args:
        path: the reviews file, or its folder.
        options: names of the files.
        bad: takes lines without user, item, rating or time.
    """
    reviews, metadata = _paths(path, options)
    if reviews.name.removesuffix(".gz").endswith(".csv"):
        raise InputError(
            f"{reviews}: the amazon reader takes JSON lines; config.data.source=table reads a csv "
            "of ratings, config.data.options.columns names its columns"
        )
    log = LogBuilder(timestamps=True, ratings=True)
    for line, record in records(reviews, bad):
        # Of 2014 and 2018, else of 2023.
        old = not record.keys().isdisjoint(_OLD)
        user, rating, time, unit = _OLD if old else _NEW
        item = "asin" if old else _item(record)
        try:
            who = field(user, key, record.get(user))
            item_key = field(item, key, record.get(item))
            stars = field(rating, number, record.get(rating))
            when = field(time, moment, record.get(time), unit)
        except ValueError as error:
            bad.report(reviews, line, str(error))
            continue
        log.add(who, item_key, when.seconds, stars, when.nanoseconds)
    return log.build(), _catalog(metadata, bad) if metadata else {}


def _item(record: dict[str, Any]) -> str:
    """The name of the field of the item's id."""
    parent = record.get("parent_asin") or "asin" not in record
    return "parent_asin" if parent and "parent_asin" in record else "asin"


def _catalog(path: Path, bad: BadRows) -> Catalog:
    catalog: Catalog = {}
    for line, record in records(path, bad):
        name = _item(record)
        try:
            item = field(name, key, record.get(name))
            found = {"title": _clean(field("title", title, record.get("title")))}
            for ours, raws in _METADATA:
                value = next((v for r in raws if (v := _clean(record.get(r)))), None)
                if value:
                    found[ours] = value
            add_item(catalog, item, found)
        except ValueError as error:
            bad.report(path, line, str(error))
    return catalog


_TAG = re.compile(r"</?[A-Za-z][^<>]*>|<[A-Za-z]+\s[^<>]*=[^<>]*$")  # the last one may be cut off
# The crawls took scripts and styles of some pages for titles and prices.
_PAGE_CODE = re.compile(r"getTime\(\)|\.a-box-inner|function\s*\(")


def _clean(value: Any) -> Any:
    """Metadata as text: no tags, entities or line ends; page code and empty things become None."""
    if isinstance(value, list):
        return [kept for part in value if (kept := _clean(part))] or None
    if not isinstance(value, str):
        return value or None
    if _PAGE_CODE.search(value):
        return None
    text = re.sub(r"^\s*by\s*\n", "", value)  # 2018 brands: "by\n    \n    Apple"
    return " ".join(_TAG.sub(" ", unescaped(text)).split()) or None
