import json

import numpy as np
import pytest

from recjax.data import simulate as module
from recjax.data.interactions import BadRows
from recjax.data.simulate import SimulateConfig, load_catalogue, simulate, write_raw
from recjax.data.sources import table
from recjax.errors import InputError

SMALL = SimulateConfig(users=800, mean_length=15.0, max_length=60)


def test_catalogue_holds_facts_in_one_form():
    books = load_catalogue()
    assert len(books) >= 300
    assert len({b["title"] for b in books}) == len({b["key"] for b in books}) == len(books)
    for book in books:
        assert set(book) == {"key", "title", "author", "year", "genres"}
        assert 1500 < book["year"] < 1929 and 1 <= len(book["genres"]) <= 2
        assert book["title"] == book["title"].strip()


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


def test_more_items_than_books():
    log, catalog = simulate(SimulateConfig(users=300, items=2000, max_length=60))
    assert len(catalog) == 2000 == len({r["title"] for r in catalog.values()})
    assert int(log.items.max()) > 1000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"users": 0}, "config.users: expected at least 1, got 0"),
        ({"markov": 1.5}, "config.markov: expected between 0 and 1, got 1.5"),
        ({"mean_length": 2.0}, "config.mean_length: expected between min_length and max_length"),
        ({"items": 50}, "config.items: 50 items are too few for histories of up to 100"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        simulate(SimulateConfig(**options))


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
