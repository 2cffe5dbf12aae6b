import numpy as np
import pytest

from recjax.config import build
from recjax.data.store import open_store
from recjax.data.words import word_vectors
from recjax.errors import InputError
from recjax.guided.score_files import read_item_scores, read_user_scores
from recjax.guided.sources import GuidedConfig, read_guided


@pytest.fixture
def store(tastes):
    return open_store(str(tastes / "store"))


def read(store, *items, seed=0, **keys):
    return read_guided(build(GuidedConfig, {"items": items, **keys}, "config.guided"), store, seed)


def test_numbers_are_read_as_the_log_was(store):
    """A log of decimal commas has items with such numbers."""
    catalog = [r and {**r, "price": f"{n},5"} for n, r in enumerate(store.catalog)]
    german = {**store.manifest, "options": {"options": {"decimal": ","}}}
    other = type(store)(store.path, german)
    other.__dict__["catalog"] = catalog  # cached
    steps = np.diff(read(other, "number:price").items[1:, 0])
    np.testing.assert_allclose(steps, steps[0], rtol=1e-4)
    assert steps[0] > 0


def test_scores_are_standardised_and_what_is_missing_is_average(tastes, store):
    guided = read(store, f"scores:{tastes / 'items.tsv'}")
    assert guided.names == ("pace", "tension", "length")
    known = guided.items[guided.known]
    np.testing.assert_allclose(known.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(known.std(0), 1, atol=1e-6)
    lacking = store.item_ids["i-7"]
    assert not guided.known[lacking] and not guided.items[lacking].any()
    assert guided.missing == {"items": 1}
    assert "1 items without scores (they count as average)" in guided.describe()


def test_users_have_the_items_columns(tastes, store):
    guided = read(
        store,
        f"scores:{tastes / 'items.tsv'}",
        vector=f"scores:{tastes / 'users.tsv'}",
        columns=("length", "pace"),
    )
    assert guided.names == ("length", "pace") and guided.users.shape == (80, 2)
    assert guided.missing == {"items": 1, "users": 1}
    assert not guided.users[store.user_numbers["u-3"]].any()
    known = guided.users[guided.users_known]  # each side by its own mean and deviation
    np.testing.assert_allclose((known.mean(0), known.std(0) - 1), 0, atol=1e-6)
    as_items = read(
        store, f"scores:{tastes / 'items.tsv'}", vector=f"scores:{tastes / 'users.tsv'}",
        columns=("length", "pace"), moments="items",
    )  # fmt: skip
    np.testing.assert_array_equal(as_items.items, guided.items)
    given = read_item_scores(tastes / "items.tsv", store.catalog)
    raw = given.values[:, [given.aspects.names.index(name) for name in guided.names]]
    mean, deviation = (f(raw[guided.known], axis=0) for f in (np.mean, np.std))
    scores = read_user_scores(tastes / "users.tsv", store.user_numbers)
    places = [scores.aspects.names.index(name) for name in guided.names]
    given = ((scores.values[:, places] - mean) / deviation)[guided.users_known]
    np.testing.assert_allclose(as_items.users[guided.users_known], given, rtol=1e-5)
    assert not as_items.users[~guided.users_known].any()
    assert as_items.fingerprint != guided.fingerprint


def test_attributes_and_arrays_come_through_the_same_door(sample_store, tmp_path):
    keys = [record["key"] for record in sample_store.catalog if record]
    values = np.arange(2.0 * len(keys)).reshape(-1, 2)
    ids = np.array([key.encode() for key in keys[1:]])  # bytes, as h5py and torch users have them
    np.savez(tmp_path / "texts.npz", item_id=ids, values=values[1:])
    guided = read(sample_store, "labels:genres", f"array:{tmp_path / 'texts.npz'}", at_least=1)
    genres = len(guided.names) - 2
    assert genres > 1 and guided.names[-1] == "texts 1"
    columns = guided.items[1:, :genres].T
    assert all(len(np.unique(column)) == 2 for column in columns)  # standardised 0 and 1
    first = sample_store.item_ids[keys[0]]
    assert guided.missing == {"items": 0} and guided.gaps == 2
    assert guided.known[first] and not guided.items[first, -2:].any()  # genres alone
    words = read(sample_store, "words:title,genres")
    own = word_vectors(sample_store.catalog, ("title", "genres"))
    np.testing.assert_array_equal(words.items, own.standardized())


def test_controls_keep_the_shape_and_lose_the_meaning(tastes, store):
    path = f"scores:{tastes / 'items.tsv'}"
    own, shuffled = read(store, path), read(store, path, control="shuffled", seed=1)
    assert not np.array_equal(own.items, shuffled.items)
    whole = [sorted(zip(*g.items.T, g.known, strict=True)) for g in (own, shuffled)]
    assert whole[0] == whole[1] and not shuffled.known[0]  # rows move as they are
    assert not np.array_equal(shuffled.items, read(store, path, control="shuffled", seed=2).items)
    random = read(store, path, control="random")
    assert random.known[1:].all() and not random.items[0].any()
    assert abs(np.corrcoef(own.items.T.ravel(), random.items.T.ravel())[0, 1]) < 0.4


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"items": ()}, "config.guided.items: expected at least one source"),
        ({"items": ("genres",)}, "expected KIND:NAME (scores, labels, number, words, array)"),
        ({"items": ("scores:none.tsv",)}, "config.guided.items: no file or folder none.tsv"),
        ({"items": ("labels:genre",)}, "config.guided.items: labels:genre: "),
        ({"items": ("words:titel",)}, "config.guided.items: words:titel: no item of the catalogue"),
        ({"vector": "mean"}, "config.guided.vector: expected recent:K or scores:FILE, got 'mean'"),
        ({"columns": ("pce",)}, "config.guided.columns: no column 'pce'; did you mean 'pace'?"),
        ({"columns": ("pace", "pace")}, "config.guided.columns: 'pace' stands there twice"),
        ({"moments": "items"}, "config.guided.moments: is of scores of users"),
        ({"items": ("OWN", "OWN")}, "column 'length' in two sources"),
        ({"items": ("LABELS",), "vector": "USERS"}, "expected config.guided.items to be one"),
    ],
)  # fmt: skip
def test_a_wrong_key_is_named(tastes, store, keys, message):
    names = {
        "OWN": f"scores:{tastes / 'items.tsv'}",
        "USERS": f"scores:{tastes / 'users.tsv'}",
        "LABELS": f"array:{tastes / 'vectors.npz'}",
    }
    np.savez(tastes / "vectors.npz", item_id=np.array(["i-1"]), values=np.ones((1, 2)))
    given = {"items": (names["OWN"],), **keys}
    given = {
        key: names.get(value, value)
        if isinstance(value, str)
        else tuple(names.get(v, v) for v in value)
        for key, value in given.items()
    }
    with pytest.raises(InputError) as error:
        read(store, *given.pop("items"), **given)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("rows", "users", "message"),
    [
        ("i-1\t5\t11\ni-2\t5\t3\n", "", "scores.tsv:2: 'tension' is 11"),
        ("i-1\t5\t4\ni-1\t5\t4\n", "", "scores.tsv:3: "),
        ("i-1\t5\n", "", "scores.tsv:2: "),
        ("zzz\t5\t4\n", "", "no score of a known item"),
        ("i-1\t5\t4\n", "user_id\tpace\nu-1\t3\n", "users.tsv:1: no column for the aspect"),
        ("i-1\t5\t4\n", "user_id\tpace\ttension\tz\nu-1\t3\t3\t3\n", "column 'z' is no aspect"),
    ],
)
def test_a_wrong_score_file_is_named(tmp_path, store, rows, users, message):
    (tmp_path / "scores.tsv").write_text("item_id\tpace\ttension\n" + rows)
    keys = {}
    if users:
        (tmp_path / "users.tsv").write_text(users)
        keys["vector"] = f"scores:{tmp_path / 'users.tsv'}"
    with pytest.raises(InputError) as error:
        read(store, f"scores:{tmp_path / 'scores.tsv'}", **keys)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"values": np.ones((1, 2))}, "expected arrays item_id [n] and values [n A]"),
        ({"item_id": ["i-1"], "values": np.ones((2, 2))}, "a row for each item_id"),
        ({"item_id": ["i-1", "i-1"], "values": np.ones((2, 2))}, "item i-1 a second time"),
        ({"item_id": ["i-1"], "values": np.full((1, 2), np.nan)}, "item i-1 has a number"),
        ({"item_id": ["zzz"], "values": np.ones((1, 2))}, "no item of the catalogue"),
        ({"item_id": ["i-1"], "values": np.ones((1, 2)), "names": ["a"]}, "names: 1, expected 2"),
        ({"item_id": ["i-1"], "values": np.ones((1, 2)), "names": "a"}, "names: 1, expected 2"),
        ({"item_id": ["i-1"], "values": np.full((1, 2), 1e300)}, "item i-1 has a number"),
        ({"item_id": ["i-1"], "values": np.ones((1, 0))}, "expected numbers [1, A]"),
    ],
)
def test_a_wrong_array_is_named(tmp_path, store, arrays, message):
    np.savez(tmp_path / "v.npz", **arrays)
    with pytest.raises(InputError, match="v.npz") as error:
        read(store, f"array:{tmp_path / 'v.npz'}")
    assert message in str(error.value)
