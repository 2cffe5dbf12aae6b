"""MovieLens in its raw layouts: 100K (`u.data`), 1M and 10M (`ratings.dat`), 20M, 25M and latest
(`ratings.csv`). Films carry `title` (cleaned), `year` and `genres`."""

import csv
import dataclasses
import re
from pathlib import Path

import numpy as np

from recjax.data.interactions import BadRows, Catalog, InteractionLog, LogBuilder
from recjax.data.sources._lines import text_lines
from recjax.data.sources._values import finite, seconds
from recjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Options:
    clean_titles: bool = True  # "Shining, The (1980)" -> "The Shining"


@dataclasses.dataclass(frozen=True)
class _Layout:
    ratings: str
    movies: str
    separator: str
    encoding: str
    header: bool


_LAYOUTS = (
    _Layout("u.data", "u.item", "\t", "latin-1", False),
    _Layout("ratings.dat", "movies.dat", "::", "latin-1", False),
    _Layout("ratings.csv", "movies.csv", ",", "utf-8", True),
)

_YEAR = re.compile(r"^(.*?)\s*\((\d{4})(?:[-–]\d{0,4})?\)\s*(?:\(V\))?\s*$")  # noqa: RUF001
_ARTICLES = (
    "The|A|An|Le|La|Les|L'|Un|Une|Il|Lo|Gli|Una|Uno|El|Los|Las|Der|Die|Das|Ein|Eine"
    "|De|Het|Een|Den|Det|En|Ett|O|Os|Um|Uma"
)
_TRAILING = re.compile(rf"^(.+), ({_ARTICLES})$")


def clean_title(raw: str) -> tuple[str, int | None]:
    """`(title, year)` of a raw MovieLens title.

    The year leaves the title and the article comes back to the front, in the alternative title
    too: "Postman, The (Postino, Il) (1994)" -> ("The Postman (Il Postino)", 1994).
    """
    title, year = raw.strip(), None
    match = _YEAR.match(title)
    if match and match[1]:
        title, year = match[1], int(match[2])

    def forward(text: str) -> str:
        found = _TRAILING.match(text.strip())
        if not found:
            return text.strip()
        space = "" if found[2].endswith("'") else " "
        return f"{found[2]}{space}{found[1]}"

    main, *others = re.split(r"\s*\(([^()]*)\)\s*", title)
    # The split gives text, bracket, text, ...: only "text (bracket)" is a title with another one.
    if len(others) == 2 and not others[1] and main:
        return f"{forward(main)} ({forward(others[0])})", year
    return forward(title), year


def _layout(path: Path) -> _Layout:
    for layout in _LAYOUTS:
        if (path / layout.ratings).is_file():
            return layout
    names = ", ".join(layout.ratings for layout in _LAYOUTS)
    raise InputError(f"{path}: no MovieLens ratings there; expected one of {names}")


def files(path: Path, options: Options) -> list[Path]:
    """The raw files that `read` reads."""
    del options
    layout = _layout(path)
    found = [path / layout.ratings, path / layout.movies]
    return found + [p for p in (path / "u.genre",) if layout.ratings == "u.data" and p.exists()]


def read(path: Path, options: Options, bad: BadRows) -> tuple[InteractionLog, Catalog]:
    """Reads a MovieLens folder.

    Args:
        path: the unpacked folder.
        options: what to do to titles.
        bad: takes rows that are not `user item rating timestamp`.
    """
    layout = _layout(path)
    log = _fast_ratings(path / layout.ratings, layout)
    if log is None:
        log = _ratings(path / layout.ratings, layout, bad)
    return log, _movies(path, layout, options, bad)


def _fast_ratings(path: Path, layout: _Layout) -> InteractionLog | None:
    """Numbers by the million, or None where a row needs a closer look."""
    if len(layout.separator) > 1 or not path.stat().st_size:
        return None
    try:
        rows = np.loadtxt(
            path,
            dtype=[("user", "i8"), ("item", "i8"), ("rating", "f4"), ("time", "i8")],
            delimiter=layout.separator,
            skiprows=int(layout.header),
            comments=None,
            ndmin=1,
        )
    except ValueError:
        return None
    if not len(rows) or rows["user"].min() < 0 or rows["item"].min() < 0:
        return None
    if not np.isfinite(rows["rating"]).all():
        return None
    users, items = (np.unique(rows[k], return_inverse=True) for k in ("user", "item"))
    return InteractionLog(
        users=users[1].astype(np.int32),
        items=items[1].astype(np.int32),
        timestamps=rows["time"].copy(),
        ratings=rows["rating"].copy(),
        user_keys=[str(k) for k in users[0]],
        item_keys=[str(k) for k in items[0]],
    )


def _ratings(path: Path, layout: _Layout, bad: BadRows) -> InteractionLog:
    log = LogBuilder(timestamps=True, ratings=True)
    for number, line in text_lines(path, layout.encoding):
        if number == 1 and layout.header:
            continue
        fields = line.split(layout.separator)
        try:
            user, item, rating, timestamp = fields
            if not (user.isdigit() and item.isdigit()):
                raise ValueError
            log.add(user, item, seconds(timestamp), finite(rating))
        except ValueError:
            bad.report(path, number, f"expected 'user item rating timestamp', got {line[:60]!r}")
    return log.build()


def _movies(path: Path, layout: _Layout, options: Options, bad: BadRows) -> Catalog:
    genre_names: list[str] = []
    if layout.ratings == "u.data" and (path / "u.genre").exists():
        for _, line in text_lines(path / "u.genre", layout.encoding):
            if "|" in line:
                genre_names.append(line.partition("|")[0])
    catalog: Catalog = {}
    movies = path / layout.movies
    for number, line in text_lines(movies, layout.encoding):
        if number == 1 and layout.header:
            continue
        try:
            if layout.ratings == "u.data":
                key, raw, *rest = line.split("|")
                flags = rest[-len(genre_names) :] if genre_names else []
                genres = [g for g, flag in zip(genre_names, flags, strict=True) if flag == "1"]
            elif layout.separator == "::":
                key, raw, joined = line.split("::")
                genres = joined.split("|")
            else:
                key, raw, joined = next(csv.reader([line]))
                genres = joined.split("|")
        except (ValueError, StopIteration):
            bad.report(movies, number, f"expected 'film, title, genres', got {line[:60]!r}")
            continue
        title, year = clean_title(raw)
        if not options.clean_titles:
            title = raw.strip()
        genres = [g for g in genres if g not in ("unknown", "(no genres listed)", "")]
        catalog[key] = {"title": title or None, "year": year, "genres": genres}
    return catalog
