"""Steam reviews: JSON lines of reviews and of games.

Three layouts: strict JSON (`user_id`, `item_id`, `posted`), and the original crawls, whose lines
are Python literals: of Kang and McAuley (2018), `steam_reviews.json.gz` (`username`, `product_id`,
`date`); of Pathak et al. (2017), `australian_user_reviews.json.gz`, a user a line with `reviews`
posted as "Posted November 5, 2011."
"""

import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

from recjax.data.interactions import BadRows, Catalog, InteractionLog, LogBuilder
from recjax.data.sources._lines import find_file, records
from recjax.data.sources._times import Time, moment
from recjax.data.sources._values import add_item, field, key, shown, title
from recjax.errors import InputError
from recjax.ranges import Checked, Range

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Options(Checked):
    """Options of the Steam reader."""

    reviews: str = "reviews.jsonl"  # in the folder; plain or .gz
    games: str = "games.jsonl"  # "" = titles from the reviews alone
    recommended_only: bool = False  # keep positive reviews only
    # Of "Posted July 15.": Steam leaves out the crawl's own year; 0 = bad rows.
    year: Annotated[int, Range(0, 9999)] = 0


def files(path: Path, options: Options) -> list[Path]:
    """The raw files that `read` reads."""
    names = [options.reviews] + ([options.games] if options.games else [])
    return [find_file(path, name) for name in names]


def _first(kind: Callable[..., T], record: dict[str, Any], names: tuple[str, ...], *more: Any) -> T:
    """The first of the named fields that holds something, else that is there."""
    present = [name for name in names if name in record]
    name = next((n for n in present if record[n] not in (None, "")), [*present, names[0]][0])
    return field(name, kind, record.get(name), *more)


_MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August"]
_MONTHS += ["September", "October", "November", "December"]
_POSTED = re.compile(rf"Posted ({'|'.join(_MONTHS)}) (\d{{1,2}})(?:, (\d{{4}}))?\.?")


def _day(value: Any, year: int) -> Time:
    """The time of `2011-11-05` or `Posted November 5, 2011.`; `ValueError` for anything else."""
    posted = _POSTED.fullmatch(value.strip()) if isinstance(value, str) else None
    if not posted:
        return moment(value)
    if not posted[3] and not year:
        raise ValueError("expected a year in it, or in config.data.options.year")
    month = _MONTHS.index(posted[1]) + 1
    return moment(f"{int(posted[3] or year):04}-{month:02}-{int(posted[2]):02}")


def _reviews(path: Path, bad: BadRows) -> Iterator[tuple[int, dict[str, Any]]]:
    """Single reviews, with the line's number, from lines of one or of all of a user's."""
    for number, record in records(path, bad):
        nested = record.get("reviews")
        if not isinstance(nested, list):
            yield number, record
            continue
        for review in nested:
            if isinstance(review, dict):
                yield number, {**review, "user_id": record.get("user_id")}
            else:
                bad.report(path, number, f"expected a review, got {shown(review)}")


def read(path: Path, options: Options, bad: BadRows) -> tuple[InteractionLog, Catalog]:
    """Reads a folder of Steam reviews.

    Args:
        path: the folder.
        options: names of the files.
        bad: takes reviews without user, game or date.

    With `reviews.jsonl` of the Steam data of 2010-2015, interactions with untitled games dropped
    and a 3-core give 4,838 users, 880 games and 20,970 reviews.
    """
    if not path.is_dir():
        raise InputError(f"{path}: expected the folder of {options.reviews}")
    catalog: Catalog = {}
    if options.games:
        games = find_file(path, options.games)
        for line, record in records(games, bad):
            rest = {k: v for k, v in record.items() if k not in ("item_id", "id", "title")}
            try:
                name = _first(title, record, ("title", "app_name"))
                add_item(catalog, _first(key, record, ("item_id", "id")), {"title": name, **rest})
            except ValueError as error:
                bad.report(games, line, str(error))
    log = LogBuilder(timestamps=True, ratings=False)
    reviews = find_file(path, options.reviews)
    for line, record in _reviews(reviews, bad):
        try:
            user = _first(key, record, ("user_id", "username"))
            item = _first(key, record, ("item_id", "product_id"))
            when = _first(_day, record, ("posted", "date"), options.year)
            if options.recommended_only and not record.get("recommend", True):
                continue
            if record.get("title"):
                add_item(catalog, item, {"title": record["title"]})
        except ValueError as error:
            bad.report(reviews, line, str(error))
            continue
        log.add(user, item, when.seconds, nanoseconds=when.nanoseconds)
    return log.build(), catalog
