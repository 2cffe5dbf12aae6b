"""Steam reviews: JSON lines of reviews and of games.

Two layouts: strict JSON (`user_id`, `item_id`, `posted`), and the original crawl of Kang and
McAuley (2018), `steam_reviews.json.gz`, whose lines are Python literals (`username`, `product_id`,
`date`)."""

import dataclasses
import datetime
from pathlib import Path
from typing import Any

from recjax.data.interactions import BadRows, Catalog, InteractionLog, LogBuilder
from recjax.data.sources._lines import find_file, records
from recjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Options:
    reviews: str = "reviews.jsonl"  # in the folder; plain or .gz
    games: str = "games.jsonl"  # "" = titles from the reviews alone
    recommended_only: bool = False  # keep positive reviews only


def files(path: Path, options: Options) -> list[Path]:
    """The raw files that `read` reads."""
    names = [options.reviews] + ([options.games] if options.games else [])
    return [find_file(path, name) for name in names]


def _first(record: dict[str, Any], *keys: str) -> Any:
    return next((record[k] for k in keys if record.get(k) not in (None, "")), None)


def read(path: Path, options: Options, bad: BadRows) -> tuple[InteractionLog, Catalog]:
    """Reads a folder of Steam reviews.

    Args:
        path: the folder.
        options: names of the files.
        bad: takes lines without user, game or date.
    """
    if not path.is_dir():
        raise InputError(f"{path}: expected the folder of {options.reviews}")
    log = LogBuilder(timestamps=True, ratings=False)
    catalog: Catalog = {}
    reviews = find_file(path, options.reviews)
    for number, record in records(reviews, bad):
        user, item = _first(record, "user_id", "username"), _first(record, "item_id", "product_id")
        date = _first(record, "posted", "date")
        try:
            day = datetime.date.fromisoformat(str(date))
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
