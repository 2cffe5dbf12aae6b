"""The texts of reviews, by interaction of a prepared data set.

reviews = read_reviews("Gift_Cards_5.json.gz", store)
reviews.bodies[5], reviews.headlines[5]        # of the interaction at place 5 of `store.items`

A review belongs to the interaction of its user and item; where a pair has several, to the one of
its time. Users, items and times stand where the store's table has them, or under the names of
Amazon (2014, 2018 and 2023) and of Steam. A review's text and headline have one of the names below,
in the record itself or in one of its objects; "Review Text" is "review_text", too.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recjax.config import listed
from recjax.data.interactions import BadRows
from recjax.data.sources._lines import records
from recjax.data.sources._tables import Form, plain_name, rows
from recjax.data.sources._times import TimeUnit, moment, moment_of
from recjax.data.sources._values import field, inside, key, paths, unescaped
from recjax.data.store import Store, hash_file
from recjax.errors import InputError
from recjax.paths import home

_USER = ("reviewerID", "user_id", "username", "user")
_ITEM = ("parent_asin", "asin", "item_id", "product_id", "item")
_TIME = ("unixReviewTime", "timestamp", "posted", "date")
_BODY = ("review_text", "text", "review", "review_body", "body", "comment", "content")
_HEADLINE = ("summary", "headline", "review_headline", "review_title", "title")
_NAME = ("reviewerName", "user_name")


@dataclasses.dataclass(frozen=True, eq=False)
class Reviews:
    """The users' reviews.

    Attributes:
        bodies, headlines: [N] by place in the store's flat `items`; "" where there is none.
        names: of users, by their number in the store.
        sha256: of the file.
    """

    bodies: list[str]
    headlines: list[str]
    names: dict[int, str]
    sha256: str = ""


def read_reviews(path: str | Path, store: Store, key: str = "reviews") -> Reviews:
    """The reviews in a file that belong to a store's interactions.

    Args:
        path: JSON lines, csv, tsv (each may be `.gz`) or parquet. Its `title` is a headline where
            it has no other one and it is not the item's title; the column with the items' titles
            in the store's own log is none.
        store: the data set; others' reviews are left out.
        key: of the config that names the file, for errors.

    Raises:
        InputError: no such file; more lines that are no record, or without a user or an item, than
            the store was prepared to leave out (`skip_bad_rows`); a file with no review of this
            data set, or none with text.
    """
    path = home(path)
    bad = BadRows((store.manifest.get("bad_rows") or {}).get("limit") or None)
    owner = np.repeat(np.arange(store.n_users), np.diff(store.offsets))
    where: dict[tuple[int, int], list[int]] = {}
    for place, pair in enumerate(zip(owner.tolist(), store.items.tolist(), strict=True)):
        where.setdefault(pair, []).append(place)
    bodies, headlines = [""] * len(owner), [""] * len(owner)
    names: dict[int, str] = {}
    columns: set[str] = set()  # of the reviews that belong here
    of_table = store.manifest.get("options") or {}
    options = (of_table.get("options") or {}) if of_table.get("source") == "table" else {}
    of_user, of_item = (options.get("user", ""), *_USER), (options.get("item", ""), *_ITEM)
    source = store.manifest.get("source") or {}
    own = bool(options) and path.name in {file["name"] for file in source.get("files", ())}
    item_title = options["title"] if own else ""
    for line, record in _records(path, options, own, bad):
        try:
            user = store.user_numbers.get(_id(record, of_user, "user"))
            item = store.item_ids.get(_id(record, of_item, "item"))
        except ValueError as error:
            bad.report(path, line, str(error))
            continue
        places = where.get((-1 if user is None else user, item or 0), [])
        if len(places) > 1 and store.timestamps is not None:
            time = _seconds(record, options)
            places = [k for k in places if int(store.timestamps[k]) == time]
        if not places or user is None or item is None:
            continue
        columns.update(paths(record))
        place = places[0]
        body, headline = _written(record, item_title)
        bodies[place] = bodies[place] or body
        if headline and headline != store.titles[item]:
            headlines[place] = headlines[place] or headline
        name = _text(_first(record, _NAME))
        if name:
            names.setdefault(user, name)
    if not columns:
        raise InputError(f"{key}: {path}: no review of a user and an item of {store.path}")
    if not any(bodies):
        raise InputError(
            f"{path}: its reviews have no text; expected it under one of {', '.join(_BODY)}; "
            f"{listed(columns)}"
        )
    return Reviews(bodies, headlines, names, hash_file(path)["sha256"])


def _records(
    path: Path, options: Mapping[str, Any], own: bool, bad: BadRows
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The file's records; of the store's own log, written as its options say."""
    if not plain_name(path).endswith((".csv", ".tsv", ".parquet")):
        return records(path, bad)
    if not own:
        return rows(path, Form({}, "", "columns", whole=True), bad)
    text = {name: options[name] for name in ("separator", "quoted", "escaped", "encoding")}
    return rows(path, Form({}, options["columns"], "columns", whole=True, **text), bad)


def _id(record: Mapping[str, Any], names: tuple[str, ...], of: str) -> str:
    value = _first(record, names)
    if value is None:
        raise ValueError(f"no {of}'s id; expected one of {', '.join(filter(None, names))}")
    return field(of, key, value)


def _first(record: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    found = (inside(record, name) for name in names if name)
    return next((value for value in found if value not in (None, "")), None)


def _written(record: Mapping[str, Any], item_title: str) -> tuple[str, str]:
    """A review's text and headline; a value under `item_title` is neither."""
    objects = ((f"{name}.", value) for name, value in record.items() if isinstance(value, Mapping))
    found = []
    for outer, part in (("", record), *objects):
        texts = {
            re.sub(r"[\W_]", "", name).lower(): _text(value)
            for name, value in part.items()
            if outer + name != item_title
        }
        body, headline = (
            next(filter(None, (texts.get(name.replace("_", "")) for name in names)), "")
            for names in (_BODY, _HEADLINE)
        )
        found.append((body, headline))
    return next((pair for pair in found if pair[0]), found[0])


def _text(value: Any) -> str:
    return " ".join(unescaped(value).split()) if isinstance(value, str) else ""


def _seconds(record: Mapping[str, Any], options: Mapping[str, Any]) -> int | None:
    name = options.get("timestamp", "")
    value = inside(record, name) if name else None
    try:
        if value is not None:
            form = options.get("time_format", "")
            return moment_of(name, value, options.get("time_unit", "s"), form).seconds
        value = _first(record, _TIME)
        unit: TimeUnit = "ms" if "parent_asin" in record else "s"
        return None if value is None else moment(value, unit).seconds
    except ValueError:
        return None
