"""MovieLens in its raw layouts: 100K (`u.data`), 1M and 10M (`ratings.dat`), 20M, 25M and latest
(`ratings.csv`). Films carry `title` (cleaned), `year` and `genres`."""

import csv
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from recjax.data.interactions import BadRows, Catalog, InteractionLog, LogBuilder
from recjax.data.sources._lines import csv_reader, text_lines
from recjax.data.sources._times import YEAR_10000, moment
from recjax.data.sources._values import add_item, field, key, number, shown, title
from recjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the MovieLens reader."""

    clean_titles: bool = True  # "Shining, The (1980)" -> "The Shining"


@dataclasses.dataclass(frozen=True)
class _Layout:
    ratings: str
    movies: str
    separator: str
    ratings_header: str = ""  # first lines that must be there; "" = none
    movies_header: str = ""


_LAYOUTS = (
    _Layout("u.data", "u.item", "\t"),
    _Layout("ratings.dat", "movies.dat", "::"),
    _Layout(
        "ratings.csv",
        "movies.csv",
        ",",
        ratings_header="userId,movieId,rating,timestamp",
        movies_header="movieId,title,genres",
    ),
)

_YEAR = re.compile(r"^(.*?)\s*\((\d{4})(?:[-–]\d{0,4})?\)\s*(?:\(V\))?\s*$")  # noqa: RUF001
_ARTICLES = (
    "The|A|An|Le|La|Les|L'|Un|Une|Il|Lo|I|Gli|Una|Uno|El|Los|Las|Der|Die|Das|Ein|Eine"
    "|De|Het|Een|Den|Det|En|Ett|O|Os|Um|Uma"
)
_TRAILING = re.compile(rf"^(a\.k\.a\. )?(.+), ({_ARTICLES})$")


def clean_title(raw: str) -> tuple[str, int | None]:
    """`(title, year)` of a raw MovieLens title.

    The year leaves the title and the article comes back to the front, in alternative titles
    too: "Postman, The (Postino, Il) (1994)" -> ("The Postman (Il Postino)", 1994).
    """
    match = _YEAR.match(raw.strip())
    if match and match[1]:
        return articles_first(match[1]), int(match[2])
    return articles_first(raw.strip()), None


def articles_first(title: str) -> str:
    """ "Postman, The (Postino, Il)" -> "The Postman (Il Postino)"."""

    def forward(text: str) -> str:
        match = _TRAILING.match(text.strip())
        if not match:
            return text.strip()
        prefix, rest, article = match[1] or "", match[2], match[3]
        space = "" if article.endswith("'") else " "
        return f"{prefix}{article}{space}{rest}"

    # The split gives text, bracket, text, ...: only "text (bracket) (bracket)" is a title with
    # other ones; brackets elsewhere are part of the title.
    main, *others = re.split(r"\s*\(([^()]*)\)\s*", title)
    if not main or any(others[1::2]):
        return forward(title)
    return " ".join([forward(main), *(f"({forward(other)})" for other in others[::2])])


def _layout(path: Path) -> _Layout:
    for layout in _LAYOUTS:
        if (path / layout.ratings).is_file():
            return layout
    names = ", ".join(layout.ratings for layout in _LAYOUTS)
    if path.is_file():
        raise InputError(f"{path}: a file; expected the unpacked folder with one of {names}")
    inner = (p.parent for layout in _LAYOUTS for p in sorted(path.glob(f"*/{layout.ratings}")))
    found = next((f"; {folder} has them" for folder in inner), "")
    raise InputError(f"{path}: no MovieLens ratings there; expected one of {names}{found}")


def files(path: Path, options: Options) -> list[Path]:
    """The raw files that `read` reads."""
    del options
    layout = _layout(path)
    paths = [path / layout.ratings, path / layout.movies]
    return paths + [p for p in (path / "u.genre",) if layout.ratings == "u.data" and p.exists()]


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


def _encoding(path: Path, layout: _Layout) -> str:
    """UTF-8 of csv; of the others UTF-8 (10M) where it is that, else latin-1 (100K, 1M)."""
    if layout.separator != ",":
        try:
            path.read_text("utf-8")
        except (UnicodeDecodeError, OSError):
            return "latin-1"
    return "utf-8"


def _rows(path: Path, encoding: str, header: str) -> Iterator[tuple[int, str]]:
    """Numbered lines after the header, which must be there: else a row would pass for it, or
    columns in another order for the known ones."""
    lines = text_lines(path, encoding)
    if header:
        _, first = next(lines)
        if first.replace('"', "").strip() != header:
            raise InputError(f"{path}:1: expected the header '{header}', got {first[:60]!r}")
    return lines


def _count_lines(path: Path) -> int:
    """Lines without the blank ones at the end."""
    count, end = 0, b""
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            count += chunk.count(b"\n")
            end = end[-100:] + chunk
    blank = end[len(end.rstrip()) :]
    return count - blank.count(b"\n") + 1


def _fast_ratings(path: Path, layout: _Layout) -> InteractionLog | None:
    """Numbers by the million, or None where a row needs a closer look."""
    header = layout.ratings_header
    if next(_rows(path, "utf-8", header), None) is None:
        return None
    columns = [("user", "i8"), ("item", "i8"), ("rating", "f4"), ("time", "i8")]
    if layout.separator == "::":  # between single colons, every other field is empty
        columns = [c for k, own in enumerate(columns) for c in ((f"gap{k}", "S1"), own)][1:]
    try:
        rows = np.loadtxt(
            path,
            dtype=columns,
            delimiter=layout.separator[0],
            skiprows=int(bool(header)),
            comments=None,
            ndmin=1,
        )
    except ValueError:
        return None
    if len(rows) != _count_lines(path) - bool(header):  # numpy passes over empty rows
        return None
    if rows["user"].min() < 0 or rows["item"].min() < 0:
        return None
    if not np.isfinite(rows["rating"]).all():
        return None
    if rows["time"].min() < 0 or rows["time"].max() >= YEAR_10000:
        return None
    if any(rows[name].any() for name, kind in columns if kind == "S1"):
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
    for at, line in _rows(path, "utf-8", layout.ratings_header):
        fields = line.split(layout.separator)
        if len(fields) != 4:
            bad.report(path, at, f"expected 'user item rating timestamp', got {shown(line)}")
            continue
        try:
            user, item = (
                field(n, _digits, f) for n, f in zip(("user", "item"), fields[:2], strict=True)
            )
            rating, when = field("rating", number, fields[2]), field("timestamp", moment, fields[3])
        except ValueError as error:
            bad.report(path, at, str(error))
            continue
        log.add(user, item, when.seconds, rating, when.nanoseconds)
    return log.build()


def _digits(value: str) -> str:
    found = key(value)
    if not (found.isascii() and found.isdigit()):
        raise ValueError("expected a whole number")
    return found.lstrip("0") or "0"


def _movies(path: Path, layout: _Layout, options: Options, bad: BadRows) -> Catalog:
    genre_names: list[str] = []
    if layout.ratings == "u.data" and (path / "u.genre").exists():
        for _, line in text_lines(path / "u.genre", "latin-1"):
            if "|" in line:
                genre_names.append(line.partition("|")[0])
    catalog: Catalog = {}
    movies = path / layout.movies
    for at, line in _rows(movies, _encoding(movies, layout), layout.movies_header):
        try:
            if layout.ratings == "u.data":
                item, raw, *rest = line.split("|")
                flags = rest[-len(genre_names) :] if genre_names else []
                genres = [g for g, flag in zip(genre_names, flags, strict=True) if flag == "1"]
            elif layout.separator == "::":
                item, named = line.split("::", 1)
                raw, joined = named.rsplit("::", 1)
                genres = joined.split("|")
            else:
                item, raw, joined = next(csv_reader([line]))
                genres = joined.split("|")
        except (ValueError, StopIteration, csv.Error):
            bad.report(movies, at, f"expected 'film, title, genres', got {shown(line)}")
            continue
        genres = [g for g in genres if g not in ("unknown", "(no genres listed)", "")]
        try:
            name, year = title(raw), None
            if name and options.clean_titles:
                name, year = clean_title(name)
            add_item(
                catalog,
                field("film", _digits, item),
                {"title": name, "year": year, "genres": genres},
            )
        except ValueError as error:
            bad.report(movies, at, str(error))
    return catalog
