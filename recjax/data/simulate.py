"""Simulated interaction logs over a bundled catalogue of real books.

A user has a taste over genres (Dirichlet) that drifts. Each next item either follows the last one
(a Markov step to one of its three successors: two of its genre, one popular item) or is a popular
item of a genre drawn from the taste. Nobody meets an item twice. So there is something to learn at
every level: popularity, taste, order.

The catalogue (`catalogue.jsonl`) holds facts only: titles, authors, genres and years of first
publication (plays: or performance) of books that came out before 1929.
"""

import dataclasses
import json
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from recjax.data.interactions import Catalog, InteractionLog
from recjax.errors import InputError
from recjax.memory import check_memory, host_bytes
from recjax.ranges import Checked, Count, FieldError, Range, Seed, Share
from recjax.replace import new_folder

_SUCCESSOR_WEIGHTS = (0.6, 0.3, 0.1)
_USERS_AT_A_TIME = 1 << 16
_ATTEMPTS = 4  # draws before an already met item is replaced by the next one in the catalogue
_FIRST_DAY, _LAST_DAY = 1577836800, 1672531200  # 2020-01-01 .. 2023-01-01: users' first visits


@dataclasses.dataclass(frozen=True)
class SimulateConfig(Checked):
    """Settings of the simulation; the same config gives the same log.

    Raises:
        InputError: a value out of its range, named as `config.key`.
    """

    seed: Seed = 0  # of everything random, 0 or more
    users: Annotated[int, Range(1)] = 3000  # users, each with at least min_length interactions
    items: Count = 0  # 0 = the bundled catalogue; more than it has = further parts of its books
    # Interactions a user, geometric above the minimum (before the cut).
    mean_length: Annotated[float, Range(1)] = 20.0
    min_length: Annotated[int, Range(1)] = 5  # interactions of the shortest history
    # Longer histories are cut to this; items must be twice as many.
    max_length: Annotated[int, Range(1)] = 100
    markov: Share = 0.5  # probability of a Markov step
    # Dirichlet concentration, up to 1000: lower = fewer genres a user.
    taste: Annotated[float, Range(above=0, most=1000)] = 0.3
    drift: Share = 0.05  # probability that the taste shifts halfway to a new one, a step
    # Zipf exponent of the items' popularity, up to 10.
    popularity: Annotated[float, Range(0, 10)] = 0.8

    _where = "config"  # how errors name the section; no field

    def __post_init__(self):
        super().__post_init__()
        if self.max_length < self.min_length:
            raise FieldError("max_length", f"expected at least min_length, got {self.max_length}")
        if not self.min_length <= self.mean_length <= self.max_length:
            raise FieldError(
                "mean_length", f"expected min_length to max_length, got {self.mean_length}"
            )


def load_catalogue() -> list[dict[str, Any]]:
    """The bundled books: `key`, `title`, `author`, `year`, `genres`."""
    text = resources.files("recjax.data").joinpath("catalogue.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def _records(items: int) -> list[dict[str, Any]]:
    """`items` catalogue records (0 = the bundled ones): the bundled ones, then sequels of them."""
    books = load_catalogue()
    count = items or len(books)
    out = books[:count]
    for index in range(len(books), count):
        part, book = divmod(index, len(books))
        base = books[book]
        key, title = f"{base['key']}-{part + 1}", f"{base['title']}, Part {part + 1}"
        out.append({**base, "key": key, "title": title})
    return out


@dataclasses.dataclass(frozen=True)
class _World:
    """The users' common world.

    Attributes:
        weights: [I'] popularity.
        genre_cdf: cumulative popularity of every (genre, item) pair; genre g fills (g, g+1].
        genre_items: the pairs' items.
        first: [I'] the first genre of every item.
        successors: [I' 3].
        genres: number of genres.
    """

    weights: np.ndarray
    genre_cdf: np.ndarray
    genre_items: np.ndarray
    first: np.ndarray
    successors: np.ndarray
    genres: int


def _make_world(records: list[dict[str, Any]], config: SimulateConfig) -> _World:
    rng = np.random.default_rng([config.seed, 0])
    n = len(records)
    names = sorted({g for r in records for g in r["genres"]})
    index = {g: k for k, g in enumerate(names)}
    weights = (1.0 + rng.permutation(n)) ** -config.popularity
    counts = np.array([len(r["genres"]) for r in records])
    genre = np.array([index[g] for r in records for g in r["genres"]])
    item = np.repeat(np.arange(n), counts)
    order = np.argsort(genre, kind="stable")
    genre, item = genre[order], item[order]
    total = np.bincount(genre, weights=weights[item], minlength=len(names))
    share = np.cumsum(weights[item] / total[genre])  # rises by 1 a genre
    # Two cycles through the items of each first genre, and one popular item.
    first = np.array([index[r["genres"][0]] for r in records])
    successors = np.empty((n, 3), np.int32)
    for column in range(2):
        shuffled = rng.permutation(n)
        shuffled = shuffled[np.argsort(first[shuffled], kind="stable")]
        bounds = np.concatenate([[0], np.cumsum(np.bincount(first, minlength=len(names)))])
        following = np.arange(1, n + 1)
        ends = bounds[1:][np.diff(bounds) > 0]
        following[ends - 1] = bounds[:-1][np.diff(bounds) > 0]
        successors[shuffled, column] = shuffled[following]
    cdf = np.cumsum(weights) / weights.sum()
    successors[:, 2] = np.minimum(np.searchsorted(cdf, rng.random(n)), n - 1)
    return _World(weights, share, item.astype(np.int32), first, successors, len(names))


def _check_memory(config: SimulateConfig) -> None:
    """Whether the log fits: two numbers of 8 bytes and an item's 4 a row, keys, records."""
    needed = {
        "users": round(config.users * (64 + 20 * config.mean_length)),
        "items": 256 * config.items,
    }
    check_memory({f"{config._where}.{k}": n for k, n in needed.items()}, host_bytes())


def simulate(config: SimulateConfig) -> tuple[InteractionLog, Catalog]:
    """A simulated log, the same for the same config, sorted by user and time.

    Ratings (1 .. 5) say how well an item's genre fits the user's taste at the time. Times rise
    within a user.

    Raises:
        InputError: fewer items than twice the longest history, or more data than memory holds.
    """
    _check_memory(config)
    records = _records(config.items)
    if len(records) < 2 * config.max_length:
        raise InputError(
            f"{config._where}.items: {len(records)} items are too few for histories of up to "
            f"{config.max_length}; expected at least {2 * config.max_length}"
        )
    world = _make_world(records, config)
    parts = []
    for start in range(0, config.users, _USERS_AT_A_TIME):
        count = min(_USERS_AT_A_TIME, config.users - start)
        rng = np.random.default_rng([config.seed, 1, start])
        users, *columns = _simulate_users(count, world, config, rng)
        parts.append((users + start, *columns))
    users, items, timestamps, ratings = (np.concatenate(c) for c in zip(*parts, strict=True))
    log = InteractionLog(
        users=users.astype(np.int32),
        items=items,
        timestamps=timestamps,
        ratings=ratings,
        user_keys=[str(u + 1) for u in range(config.users)],
        item_keys=[r["key"] for r in records],
    )
    return log, {r["key"]: {k: v for k, v in r.items() if k != "key"} for r in records}


def _lengths(count: int, config: SimulateConfig, rng: np.random.Generator) -> np.ndarray:
    """[count] history lengths, longest first."""
    extra = config.mean_length - config.min_length
    drawn = rng.geometric(1 / (1 + extra), count) - 1 if extra else np.zeros(count, np.int64)
    return -np.sort(-np.minimum(config.min_length + drawn, config.max_length))


def _simulate_users(count: int, world: _World, config: SimulateConfig, rng: np.random.Generator):
    """Flat (users, items, timestamps, ratings) of some users, sorted by user and time.

    The users are simulated side by side, one step after the other; the longest histories come
    first, so that those still going on are always the first ones.
    """
    lengths = _lengths(count, config, rng)
    longest = int(lengths[0])
    items = np.zeros((longest, count), np.int32)
    ratings = np.zeros((longest, count), np.float32)
    taste = rng.dirichlet(np.full(world.genres, config.taste), count)
    for step in range(longest):
        active = int(np.searchsorted(-lengths, -step, side="left"))
        shift = np.flatnonzero(rng.random(active) < config.drift)
        fresh = rng.dirichlet(np.full(world.genres, config.taste), len(shift))
        taste[shift] = 0.5 * (taste[shift] + fresh)
        cumulative = np.cumsum(taste[:active], axis=1)
        before = items[:step, :active]
        todo = np.arange(active)
        for _ in range(_ATTEMPTS):
            drawn = _draw(todo, before, cumulative, world, config, rng)
            items[step, todo] = drawn
            todo = todo[(before[:, todo] == drawn).any(axis=0)]
            if not len(todo):
                break
        while len(todo):  # the next item in the catalogue that the user has not met
            items[step, todo] = (items[step, todo] + 1) % len(world.weights)
            todo = todo[(before[:, todo] == items[step, todo]).any(axis=0)]
        genre = world.first[items[step, :active]]
        fit = taste[np.arange(active), genre] / taste[:active].max(axis=1)
        noise = rng.normal(0.0, 0.8, active)
        ratings[step, :active] = np.clip(np.rint(2.5 + 2.0 * fit + noise), 1, 5)
    taken = np.arange(longest)[:, None] < lengths
    shuffled = rng.permutation(count)  # or a user's number would tell the length
    order = np.argsort(shuffled)
    taken = taken[:, order].T
    users = np.repeat(np.arange(count), lengths[order])
    first = rng.integers(_FIRST_DAY, _LAST_DAY, count)
    gaps = 60 + rng.exponential(2 * 86400.0, len(users)).astype(np.int64)
    ends = np.cumsum(lengths[order])
    begins = ends - lengths[order]
    total = np.cumsum(gaps)
    timestamps = first[users] + total - np.repeat(total[begins], lengths[order])
    return users, items[:, order].T[taken], timestamps, ratings[:, order].T[taken]


def _draw(rows, before, cumulative, world, config, rng) -> np.ndarray:
    """One candidate for the next item of each of the users `rows`."""
    n = len(rows)
    genre = (rng.random(n)[:, None] > cumulative[rows]).sum(axis=1)
    genre = np.minimum(genre, world.genres - 1)
    place = np.searchsorted(world.genre_cdf, genre + rng.random(n), side="right")
    drawn = world.genre_items[np.minimum(place, len(world.genre_items) - 1)]
    if len(before):
        column = np.searchsorted(np.cumsum(_SUCCESSOR_WEIGHTS), rng.random(n), side="right")
        follow = world.successors[before[-1, rows], np.minimum(column, 2)]
        drawn = np.where(rng.random(n) < config.markov, follow, drawn)
    return drawn


def write_raw(
    log: InteractionLog, catalog: Catalog, folder: Path, *, overwrite: bool = False
) -> None:
    """Writes a log as a user would have it: `interactions.csv` (user, item, timestamp, rating) and
    `items.jsonl` (item, title, ...); the `table` reader reads them.

    Raises:
        InputError: the folder exists and `overwrite` is off; the disk is full or not writable.
    """
    assert log.timestamps is not None and log.ratings is not None
    with new_folder(folder, overwrite=overwrite) as temporary:
        with (temporary / "interactions.csv").open("w", encoding="utf-8") as file:
            file.write("user,item,timestamp,rating\n")
            for start in range(0, len(log), 1 << 20):
                part = slice(start, start + (1 << 20))
                columns = (log.users, log.items, log.timestamps, log.ratings)
                lists = (column[part].tolist() for column in columns)
                file.writelines(
                    f"{log.user_keys[u]},{log.item_keys[i]},{t},{r:g}\n"
                    for u, i, t, r in zip(*lists, strict=True)
                )
        with (temporary / "items.jsonl").open("w", encoding="utf-8") as file:
            for key, record in catalog.items():
                file.write(json.dumps({"item": key, **record}, ensure_ascii=False) + "\n")
