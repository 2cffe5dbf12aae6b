"""The texts of reviews, by interaction of a prepared data set.

reviews = read_reviews("Gift_Cards_5.json.gz", store)
reviews.bodies[5], reviews.headlines[5]        # of the interaction at place 5 of `store.items`

A review belongs to the interaction of its user and item; where a pair has several, to the one of
its time. Field names are those of the store's table, of Amazon (2014, 2018 and 2023) and of Steam.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from recjax.data.interactions import BadRows
from recjax.data.sources._lines import records
from recjax.data.sources._times import TimeUnit, moment, moment_of
from recjax.data.sources._values import field, key, unescaped
from recjax.data.store import Store, hash_file
from recjax.errors import InputError
from recjax.paths import home

_USER = ("reviewerID", "user_id", "username", "user")
_ITEM = ("parent_asin", "asin", "item_id", "product_id", "item")
_TIME = ("unixReviewTime", "timestamp", "posted", "date")
_BODY = ("reviewText", "text", "review", "review_text", "body")
_HEADLINE = ("summary", "title", "headline")
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


def read_reviews(path: str | Path, store: Store) -> Reviews:
    """The reviews in a file of JSON lines, plain or `.gz`, that belong to a store's interactions.

    Args:
        path: of the file; its `title` is a headline where it is not the item's title.
        store: the data set; others' reviews are left out.

    Raises:
        InputError: no such file, a line that is no object, a file with no review of this data set
            or none with text.
    """
    path = home(path)
    owner = np.repeat(np.arange(store.n_users), np.diff(store.offsets))
    where: dict[tuple[int, int], list[int]] = {}
    for place, pair in enumerate(zip(owner.tolist(), store.items.tolist(), strict=True)):
        where.setdefault(pair, []).append(place)
    bodies, headlines = [""] * len(owner), [""] * len(owner)
    names: dict[int, str] = {}
    matched = 0
    data_options = store.manifest.get("options") or {}
    reader_options = (
        data_options.get("options") or {} if data_options.get("source") == "table" else {}
    )
    of_user, of_item = (
        (reader_options.get("user", ""), *_USER),
        (reader_options.get("item", ""), *_ITEM),
    )
    for line, record in records(path, BadRows()):
        try:
            user = store.user_numbers.get(field("user", key, _first(record, of_user)))
            item = store.item_ids.get(field("item", key, _first(record, of_item)))
        except ValueError as error:
            raise InputError(f"{path}:{line}: {error}") from None
        places = where.get((-1 if user is None else user, item or 0), [])
        if len(places) > 1 and store.timestamps is not None:
            time = _seconds(record, reader_options)
            places = [k for k in places if int(store.timestamps[k]) == time]
        if not places or user is None or item is None:
            continue
        matched += 1
        place = places[0]
        bodies[place] = bodies[place] or _text(_first(record, _BODY))
        headline = _text(_first(record, _HEADLINE))
        if headline and headline != store.titles[item]:
            headlines[place] = headlines[place] or headline
        name = _text(_first(record, _NAME))
        if name:
            names.setdefault(user, name)
    if not matched:
        raise InputError(f"{path}: no review of a user and an item of {store.path}")
    if not any(bodies):
        raise InputError(
            f"{path}: its {matched:,} reviews have no text; expected one of {', '.join(_BODY)}"
        )
    return Reviews(bodies, headlines, names, hash_file(path)["sha256"])


def _first(record: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((record[n] for n in names if record.get(n) not in (None, "")), None)


def _text(value: Any) -> str:
    return " ".join(unescaped(value).split()) if isinstance(value, str) else ""


def _seconds(record: dict[str, Any], options: dict[str, Any]) -> int | None:
    name = options.get("timestamp", "")
    value = _first(record, _TIME)
    try:
        if name and name in record:
            form = options.get("time_format", "")
            return moment_of(name, record[name], options.get("time_unit", "s"), form).seconds
        unit: TimeUnit = "ms" if "parent_asin" in record else "s"
        return None if value is None else moment(value, unit).seconds
    except ValueError:
        return None
