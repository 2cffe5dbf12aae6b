"""Every layout that the readers take, written from the same rows and items."""

import csv
import dataclasses
import io
import json
from collections.abc import Callable
from types import ModuleType

from recjax.data.interactions import BadRows
from recjax.data.sources import amazon, movielens, recbole, sequences_txt, steam, table

ROWS = [
    {"user": "1", "item": "10", "time": 100, "rating": 5.0},
    {"user": "1", "item": "11", "time": 200, "rating": 4.0},
    {"user": "2", "item": "10", "time": 300, "rating": 3.0},
]
ITEMS = [{"item": "10", "title": "Tea"}, {"item": "11", "title": "Pot"}]


@dataclasses.dataclass(frozen=True)
class Layout:
    """One layout of one reader.

    Attributes:
        module: the reader.
        write: `(folder, rows, items) -> (path, options)`.
        names: of the fields as the files spell them; a field that the layout lacks is not there.
        typed: values keep their kind: None, NaN, lists.
        text: names of the files that are lines of text: the interactions' and the items'.
    """

    module: ModuleType
    write: Callable
    names: dict[str, str]
    typed: bool = False
    text: tuple[str, ...] = ()

    def read(self, folder, rows=None, items=None, limit=0):
        """`(log, catalog)` of rows and items."""
        path, options = self.write(
            folder, ROWS if rows is None else rows, ITEMS if items is None else items
        )
        return self.reread(path, options, limit)

    def reread(self, path, options, limit=0):
        return self.module.read(path, self.module.Options(**options), BadRows(limit))


def _csv(folder, rows, items, separator=",", end="csv"):
    for name, records in (("log", rows), ("items", items)):
        text = io.StringIO()
        writer = csv.DictWriter(text, list(records[0]), delimiter=separator, lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        (folder / f"{name}.{end}").write_text(text.getvalue(), encoding="utf-8")
    options = {"timestamp": "time", "rating": "rating", "items": f"items.{end}"}
    return folder / f"log.{end}", options


def _tsv(folder, rows, items):
    return _csv(folder, rows, items, "\t", "tsv")


def _jsonl(path, records):
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")


def _json_tables(folder, rows, items):
    for name, records in (("log", rows), ("items", items)):
        _jsonl(folder / f"{name}.jsonl", records)
    options = {"timestamp": "time", "rating": "rating", "items": "items.jsonl"}
    return folder / "log.jsonl", options


def _parquet(folder, rows, items):
    import pyarrow
    import pyarrow.parquet as parquet

    for name, records in (("log", rows), ("items", items)):
        columns = {key: [record[key] for record in records] for key in records[0]}
        parquet.write_table(pyarrow.table(columns), folder / f"{name}.parquet")
    options = {"timestamp": "time", "rating": "rating", "items": "items.parquet"}
    return folder / "log.parquet", options


def _tabs(path, header, records):
    lines = ["\t".join(str(value) for value in record.values()) for record in records]
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")


def _recbole(folder, rows, items):
    (folder / "rb").mkdir(exist_ok=True)
    header = "user_id:token\titem_id:token\ttimestamp:float\trating:float"
    _tabs(folder / "rb/rb.inter", header, rows)
    _tabs(folder / "rb/rb.item", "item_id:token\ttitle:token_seq", items)
    return folder / "rb", {"rating": "rating"}


def _renamed(records, **names):
    return [{new: record[old] for new, old in names.items() if old in record} for record in records]


def _amazon(folder, reviews, items, write):
    write(folder / "reviews.json", reviews)
    write(folder / "meta.json", items)
    return folder / "reviews.json", {"metadata": "meta.json"}


def _amazon_2014(folder, rows, items):
    names = {"reviewerID": "user", "asin": "item", "unixReviewTime": "time", "overall": "rating"}
    items = _renamed(items, asin="item", title="title")
    return _amazon(folder, _renamed(rows, **names), items, _literals)


def _amazon_2023(folder, rows, items):
    names = {"user_id": "user", "parent_asin": "item", "timestamp": "time", "rating": "rating"}
    rows = [
        {**row, "time": row["time"] * 1000} if isinstance(row["time"], int | float) else row
        for row in rows
    ]
    items = _renamed(items, parent_asin="item", title="title")
    return _amazon(folder, _renamed(rows, **names), items, _jsonl)


def _literals(path, records):
    """Lines as Python 2 wrote them: ASCII, pairs of surrogates for what is beyond 16 bits."""
    lines = []
    for record in records:
        line = ascii(record).replace(": nan", ": None").replace(": inf", ": 1e999")
        lines.append(line.replace("\\U0001f63a", "\\ud83d\\ude3a"))
    path.write_text("\n".join(lines) + "\n")


def _steam(folder, rows, items, write=_jsonl):
    write(folder / "r.json", _renamed(rows, user_id="user", item_id="item", posted="time"))
    write(folder / "g.json", _renamed(items, item_id="item", title="title"))
    return folder, {"reviews": "r.json", "games": "g.json"}


def _steam_crawl(folder, rows, items):
    _literals(folder / "r.json", _renamed(rows, username="user", product_id="item", date="time"))
    _literals(folder / "g.json", _renamed(items, id="item", title="title"))
    return folder, {"reviews": "r.json", "games": "g.json"}


def _sequences(folder, rows, items):
    users: dict = {}
    for row in rows:
        users.setdefault(row["user"], []).append(row["item"])
    lines = [" ".join(map(str, [user, *them])) for user, them in users.items()]
    (folder / "s.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    _jsonl(folder / "i.jsonl", _renamed(items, item_id="item", title="title"))
    return folder / "s.txt", {"items": "i.jsonl"}


def _movielens(ratings, movies, separator, headers=("", ""), end=""):
    def write(folder, rows, items):
        order = ("user", "item", "rating", "time")
        lines = [separator.join(str(row[name]) for name in order) for row in rows]
        (folder / ratings).write_text(headers[0] + "".join(line + "\n" for line in lines))
        between = "|" if ratings == "u.data" else separator
        films = [between.join([str(i["item"]), str(i["title"]) + end]) + "\n" for i in items]
        (folder / movies).write_text(headers[1] + "".join(films), encoding="utf-8")
        return folder, {}

    return write


_NAMES = {name: name for name in ("user", "item", "time", "rating")}
_RECBOLE = {"user": "user_id", "item": "item_id", "time": "timestamp", "rating": "rating"}
_ML = {"user": "user", "item": "item", "time": "timestamp", "rating": "rating"}
_OLD = {"user": "reviewerID", "item": "asin", "time": "unixReviewTime", "rating": "overall"}
_NEW = {"user": "user_id", "item": "parent_asin", "time": "timestamp", "rating": "rating"}
_CRAWL = {"user": "username", "item": "product_id", "time": "date"}
_CSV_HEADERS = ("userId,movieId,rating,timestamp\n", "movieId,title,genres\n")
LAYOUTS = {
    "csv": Layout(table, _csv, _NAMES, text=("log.csv", "items.csv")),
    "tsv": Layout(table, _tsv, _NAMES, text=("log.tsv", "items.tsv")),
    "jsonl": Layout(table, _json_tables, _NAMES, typed=True, text=("log.jsonl", "items.jsonl")),
    "parquet": Layout(table, _parquet, _NAMES, typed=True),
    "recbole": Layout(recbole, _recbole, _RECBOLE, text=("rb/rb.inter", "rb/rb.item")),
    "amazon-2014": Layout(
        amazon, _amazon_2014, _OLD, typed=True, text=("reviews.json", "meta.json")
    ),
    "amazon-2023": Layout(
        amazon, _amazon_2023, _NEW, typed=True, text=("reviews.json", "meta.json")
    ),
    "steam": Layout(
        steam,
        _steam,
        {"user": "user_id", "item": "item_id", "time": "posted"},
        typed=True,
        text=("r.json", "g.json"),
    ),
    "steam-crawl": Layout(steam, _steam_crawl, _CRAWL, typed=True, text=("r.json", "g.json")),
    "sequences": Layout(
        sequences_txt, _sequences, {"user": "user", "item": "item"}, text=("s.txt", "i.jsonl")
    ),
    "ml-100k": Layout(
        movielens,
        _movielens("u.data", "u.item", "\t", end="|x"),
        _ML,
        text=("u.data", "u.item"),
    ),
    "ml-1m": Layout(
        movielens,
        _movielens("ratings.dat", "movies.dat", "::", end="::A"),
        _ML,
        text=("ratings.dat", "movies.dat"),
    ),
    "ml-25m": Layout(
        movielens,
        _movielens("ratings.csv", "movies.csv", ",", _CSV_HEADERS, end=",A"),
        _ML,
        text=("ratings.csv", "movies.csv"),
    ),
}
