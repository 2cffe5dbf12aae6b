import csv
import json
from collections import Counter

import numpy as np
import pytest

from recjax.config import build
from recjax.data import simulate as module
from recjax.data.interactions import BadRows
from recjax.data.simulate import SimulateConfig, load_catalogue, simulate, write_raw
from recjax.data.sources import simulated, table
from recjax.errors import InputError

GENRES = {
    *("Adventure", "Children", "Drama", "Fantasy", "Gothic", "History", "Humour", "Mystery"),
    *("Philosophy", "Poetry", "Realism", "Romance", "Satire", "Science Fiction", "Travel"),
}
SMALL = SimulateConfig(users=800, mean_length=15.0, max_length=60)


def test_catalogue_holds_facts_in_one_form():
    books = load_catalogue()
    assert len(books) >= 300
    assert len({b["title"] for b in books}) == len({b["key"] for b in books}) == len(books)
    for book in books:
        assert set(book) == {"key", "title", "author", "year", "genres"}
        assert 1500 < book["year"] < 1929 and 1 <= len(book["genres"]) <= 2
        assert book["title"] == book["title"].strip() and book["author"]
    genres = Counter(genre for book in books for genre in book["genres"])
    assert set(genres) == GENRES and min(genres.values()) >= 15


def test_same_seed_same_log():
    one, two, other = (
        simulate(SimulateConfig(users=50, seed=seed, max_length=40))[0] for seed in (1, 1, 2)
    )
    for name in ("users", "items", "timestamps", "ratings"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert one.items.tolist() != other.items.tolist()


def test_histories():
    log, catalog = simulate(SMALL)
    lengths = np.bincount(log.users)
    assert len(lengths) == 800 and lengths.min() == 5 and lengths.max() <= 60
    assert abs(lengths.mean() - 15) < 1.5
    pairs = set(zip(log.users.tolist(), log.items.tolist(), strict=True))
    assert len(pairs) == len(log), "somebody met an item twice"
    same = log.users[1:] == log.users[:-1]
    assert (np.diff(log.timestamps)[same] > 0).all()
    assert set(np.unique(log.ratings)) == {1, 2, 3, 4, 5}
    assert set(log.item_keys) == set(catalog)


def test_there_is_order_taste_and_popularity_to_learn():
    log, _ = simulate(SMALL)
    world = module._make_world(load_catalogue(), SMALL)
    same = log.users[1:] == log.users[:-1]
    follows = (world.successors[log.items[:-1]] == log.items[1:, None]).any(1)[same].mean()
    assert 0.4 < follows < 0.65
    counts = np.sort(np.bincount(log.items))[::-1]
    assert counts[:40].sum() > 0.25 * len(log)
    without, _ = simulate(SimulateConfig(users=800, max_length=60, markov=0.0))
    same = without.users[1:] == without.users[:-1]
    follows = (world.successors[without.items[:-1]] == without.items[1:, None]).any(1)[same].mean()
    assert follows < 0.1


def test_the_last_item_says_more_than_popularity():
    """Hit rate at 10 of each user's last item, scored by counts of the interactions before it."""
    log, catalog = simulate(SimulateConfig(users=2000))
    last = np.append(log.users[1:] != log.users[:-1], True)
    rows = np.flatnonzero(last)
    history = ~last
    pairs = history[1:] & (log.users[1:] == log.users[:-1])
    popular = np.bincount(log.items[history], minlength=len(catalog))
    follows = np.zeros((len(catalog), len(catalog)))
    np.add.at(follows, (log.items[:-1][pairs], log.items[1:][pairs]), 1)

    def hit_rate(scores):
        top = np.argsort(-scores, axis=1)[:, :10]
        return (top == log.items[rows, None]).any(axis=1).mean()

    by_popularity = hit_rate(np.broadcast_to(popular, (len(rows), len(catalog))))
    by_last_item = hit_rate(follows[log.items[rows - 1]])
    assert 0.05 < by_popularity < 0.2
    assert 0.45 < by_last_item < 0.75


def test_more_items_than_books():
    log, catalog = simulate(SimulateConfig(users=300, items=2000, max_length=60))
    assert len(catalog) == 2000 == len({r["title"] for r in catalog.values()})
    assert int(log.items.max()) > 1000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed: expected 0 to 4294967295, got -1"),
        ({"taste": float("inf")}, "taste: expected more than 0 and at most 1000, got inf"),
        ({"drift": float("nan")}, "drift: expected 0 to 1, got nan"),
        ({"popularity": 99.0}, "popularity: expected 0 to 10, got 99.0"),
        ({"max_length": 4}, "max_length: expected at least min_length, got 4"),
        ({"users": 0}, "users: expected at least 1, got 0"),
        ({"markov": 1.5}, "markov: expected 0 to 1, got 1.5"),
        ({"mean_length": 2.0}, "mean_length: expected min_length to max_length"),
        ({"items": 50}, "config.items: 50 items are too few for histories of up to 100"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        simulate(SimulateConfig(**options))


def test_as_a_source_it_needs_no_file_and_names_its_section(tmp_path):
    options = build(simulated.Options, {"users": 30, "max_length": 40}, "config.data.options")
    log, _ = simulated.read(tmp_path / "not there", options, BadRows())
    expected, _ = simulate(SimulateConfig(users=30, max_length=40))
    np.testing.assert_array_equal(log.items, expected.items)
    assert simulated.files(tmp_path, options) == []
    with pytest.raises(InputError, match="config.data.options.users: expected at least 1, got 0"):
        build(simulated.Options, {"users": 0}, "config.data.options")
    few = build(simulated.Options, {"items": 50}, "config.data.options")
    with pytest.raises(InputError, match="config.data.options.items: 50 items are too few"):
        simulated.read(tmp_path, few, BadRows())


def test_raw_files_are_plain_csv(tmp_path):
    log, catalog = simulate(SimulateConfig(users=20, max_length=30))
    write_raw(log, catalog, tmp_path / "raw")
    with (tmp_path / "raw" / "interactions.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["user", "item", "timestamp", "rating"]
    assert len(rows) == len(log)
    keys = log.user_keys[log.users[7]], log.item_keys[log.items[7]]
    assert rows[7] == [*keys, str(log.timestamps[7]), f"{log.ratings[7]:.0f}"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["raw"], "no temporary folder is left"


def test_raw_files_in_a_place_that_cannot_be_written(tmp_path):
    log, catalog = simulate(SimulateConfig(users=5, max_length=30))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write .*file/raw: "):
        write_raw(log, catalog, tmp_path / "file" / "raw")


def test_raw_files_are_read_back(tmp_path):
    log, catalog = simulate(SimulateConfig(users=40, max_length=30))
    write_raw(log, catalog, tmp_path / "raw")
    options = table.Options(file="interactions.csv", rating="rating", items="items.jsonl")
    again, items = table.read(tmp_path / "raw", options, BadRows())
    assert [again.user_keys[u] for u in again.users] == [log.user_keys[u] for u in log.users]
    assert [again.item_keys[i] for i in again.items] == [log.item_keys[i] for i in log.items]
    np.testing.assert_array_equal(again.timestamps, log.timestamps)
    np.testing.assert_array_equal(again.ratings, log.ratings)
    assert items == json.loads(json.dumps(catalog))
    with pytest.raises(InputError, match="raw exists already; --overwrite replaces it"):
        write_raw(log, catalog, tmp_path / "raw")
