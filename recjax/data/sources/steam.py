"""Steam reviews: JSON lines of reviews and of games.

Three layouts: strict JSON (`user_id`, `item_id`, `posted`), and the original crawls, whose lines
are Python literals: of Kang and McAuley (2018), `steam_reviews.json.gz` (`username`, `product_id`,
`date`); of Pathak et al. (2017), `australian_user_reviews.json.gz`, a user a line with `reviews`
posted as "Posted November 5, 2011."
"""

import dataclasses
import datetime
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from recjax.data.interactions import BadRows, Catalog, InteractionLog, LogBuilder
from recjax.data.sources._lines import find_file, records
from recjax.errors import InputError
from recjax.ranges import Checked, Range


@dataclasses.dataclass(frozen=True)
class Options(Checked):
    reviews: str = "reviews.jsonl"  # in the folder; plain or .gz
    games: str = "games.jsonl"  # "" = titles from the reviews alone
    recommended_only: bool = False  # keep positive reviews only
    # Of "Posted July 15.": Steam leaves out the crawl's own year; 0 = bad rows.
    year: Annotated[int, Range(0, 9999)] = 0


def files(path: Path, options: Options) -> list[Path]:
    """The raw files that `read` reads."""
    names = [options.reviews] + ([options.games] if options.games else [])
    return [find_file(path, name) for name in names]


def _first(record: dict[str, Any], *keys: str) -> Any:
    return next((record[k] for k in keys if record.get(k) not in (None, "")), None)


_MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August"]
_MONTHS += ["September", "October", "November", "December"]
_POSTED = re.compile(rf"Posted ({'|'.join(_MONTHS)}) (\d{{1,2}})(?:, (\d{{4}}))?\.?")


def _day(text: str, year: int) -> datetime.date:
    """The date of `2011-11-05` or `Posted November 5, 2011.`; `ValueError` for anything else."""
    posted = _POSTED.fullmatch(text.strip())
    if not posted:
        return datetime.date.fromisoformat(text)
    return datetime.date(int(posted[3] or year), _MONTHS.index(posted[1]) + 1, int(posted[2]))


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
                bad.report(path, number, f"expected a review, got {str(review)[:60]!r}")


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
    log = LogBuilder(timestamps=True, ratings=False)
    catalog: Catalog = {}
    reviews = find_file(path, options.reviews)
    for number, record in _reviews(reviews, bad):
        user, item = _first(record, "user_id", "username"), _first(record, "item_id", "product_id")
        try:
            day = _day(str(_first(record, "posted", "date")), options.year)
        except ValueError:
            day = None
        if user is None or item is None or day is None:
            bad.report(reviews, number, "expected a user, a game and a date (YYYY-MM-DD)")
            continue
        if options.recommended_only and not record.get("recommend", True):
            continue
        seconds = (day - datetime.date(1970, 1, 1)).days * 86400
        log.add(str(user), str(item), seconds)
        if record.get("title"):
            catalog.setdefault(str(item), {"title": _clean(record["title"])})
    if options.games:
        games = find_file(path, options.games)
        for number, record in records(games, bad):
            item = _first(record, "item_id", "id")
            if item is None:
                bad.report(games, number, "expected a game with 'item_id'")
                continue
            title = _first(record, "title", "app_name") or catalog.get(str(item), {}).get("title")
            rest = {k: v for k, v in record.items() if k not in ("item_id", "id", "title")}
            catalog[str(item)] = {"title": _clean(title) if title else None, **rest}
    return log.build(), catalog


def _clean(title: str) -> str:
    return " ".join(str(title).split())
