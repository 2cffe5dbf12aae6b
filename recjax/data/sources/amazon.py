"""Amazon reviews: the 2014 and 2018 releases (`.json.gz`; strict JSON, or Python literals in old
files) and the 2023 one (`.jsonl.gz`), with their metadata files."""

import dataclasses
import html
import re
from pathlib import Path
from typing import Any

from recjax.data.interactions import BadRows, Catalog, InteractionLog, LogBuilder
from recjax.data.sources._lines import find_file, records
from recjax.data.sources._values import finite, seconds
from recjax.errors import InputError

# Raw names -> ours; the first of several that is there counts.
_METADATA = (
    ("brand", ("brand", "store")),
    ("categories", ("category", "categories")),
    ("description", ("description",)),
    ("price", ("price",)),
)


@dataclasses.dataclass(frozen=True)
class Options:
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
    log = LogBuilder(timestamps=True, ratings=True)
    for number, record in records(reviews, bad):
        try:
            if "reviewerID" in record:  # 2014, 2018
                user, item = record["reviewerID"], record["asin"]
                rating, time = record["overall"], seconds(record["unixReviewTime"])
            else:  # 2023, times in milliseconds
                user, item = record["user_id"], record.get("parent_asin") or record["asin"]
                rating, time = record["rating"], seconds(record["timestamp"]) // 1000
            if not user or not item:
                raise ValueError
            log.add(str(user), str(item), time, finite(rating))
        except (KeyError, ValueError):
            bad.report(reviews, number, "expected a review with user, item, rating and time")
    return log.build(), _catalog(metadata, bad) if metadata else {}


def _catalog(path: Path, bad: BadRows) -> Catalog:
    catalog: Catalog = {}
    for number, record in records(path, bad):
        key = str(record.get("parent_asin") or record.get("asin") or "")
        if not key:
            bad.report(path, number, "expected an item with 'asin' or 'parent_asin'")
            continue
        title = _clean(record.get("title"))
        entry: dict[str, Any] = {"title": title if isinstance(title, str) else None}
        for name, raws in _METADATA:
            value = next((v for r in raws if (v := _clean(record.get(r)))), None)
            if value:
                entry[name] = value
        # Repeated items: a record with a title wins.
        if entry["title"] or key not in catalog:
            catalog[key] = entry
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
    return " ".join(_TAG.sub(" ", html.unescape(text)).split()) or None
