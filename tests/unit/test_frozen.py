"""Another run's recommender: windows of its data, its states, popularity, runs of other kinds."""

import jax
import numpy as np
import pytest

from recjax.data.splits import Spans
from recjax.errors import InputError
from recjax.frozen import (
    Encoder,
    Windows,
    open_recommender,
    popular,
    recommender_store,
    split_windows,
    windows_of,
)
from recjax.training.recommender import RecommenderRun
from recjax.training.workdir import build_config, write_records

# Runs of three users in a store's flat items; the second one is too short for a history.
ITEMS = np.array([11, 12, 13, 14, 15, 21, 31, 32])
SPANS = Spans(np.arange(3, dtype=np.int32), np.array([0, 5, 6]), np.array([5, 6, 8]))


def rows_of(windows, back=0):
    return windows.ids(back).tolist()


def test_the_newest_window_of_each_run():
    windows = windows_of(ITEMS, SPANS, 3, newest=True)
    assert len(windows) == 2
    assert rows_of(windows) == [[13, 14, 15], [0, 31, 32]]
    assert rows_of(windows, 1) == [[12, 13, 14], [0, 0, 31]]
    assert windows.newest.tolist() == [15, 32]
    assert windows.ids().dtype == np.int32


def test_windows_that_end_anywhere_have_an_older_item():
    windows = windows_of(ITEMS, SPANS, 3, newest=False)
    assert rows_of(windows) == [[0, 11, 12], [11, 12, 13], [12, 13, 14], [13, 14, 15], [0, 31, 32]]
    assert rows_of(windows, 1) == [
        [0, 0, 11], [0, 11, 12], [11, 12, 13], [12, 13, 14], [0, 0, 31],
    ]  # fmt: skip
    assert windows.newest.tolist() == [12, 13, 14, 15, 32]


def test_nothing_of_the_run_before_is_read():
    """A window reaches past its run's start: padding, not the previous user's items."""
    windows = Windows(ITEMS, np.array([6, 0]), np.array([8, 2]), 5)
    assert rows_of(windows) == [[0, 0, 0, 31, 32], [0, 0, 0, 11, 12]]
    assert rows_of(windows, 1) == [[0, 0, 0, 0, 31], [0, 0, 0, 0, 11]]


def test_windows_can_be_chosen():
    windows = windows_of(ITEMS, SPANS, 3, newest=False)[np.array([4, 0])]
    assert len(windows) == 2 and rows_of(windows) == [[0, 31, 32], [0, 11, 12]]


def test_a_drawn_item_stands_in_place_of_the_newest():
    windows = windows_of(ITEMS, SPANS, 3, newest=False)
    more = windows.with_drawn(0.6, 40, seed=1)
    assert len(more) == 8 and rows_of(more[np.arange(5)]) == rows_of(windows)
    extra = more[np.arange(5, 8)]
    assert len(set(extra.stops.tolist())) == 3  # of three different windows
    assert extra.drawn.min() >= 1 and extra.drawn.max() < 40
    np.testing.assert_array_equal(extra.newest, extra.drawn)
    np.testing.assert_array_equal(extra.ids()[:, -1], extra.drawn)
    own = Windows(ITEMS, extra.starts, extra.stops, 3)
    np.testing.assert_array_equal(extra.ids()[:, :-1], own.ids()[:, :-1])
    np.testing.assert_array_equal(extra.ids(1), own.ids(1))
    again = windows.with_drawn(0.6, 40, seed=1)
    np.testing.assert_array_equal(again.drawn, more.drawn)
    assert windows.with_drawn(0.6, 40, seed=2).drawn.tolist() != more.drawn.tolist()


def test_drawn_items_are_from_the_whole_catalogue():
    items = np.tile(np.arange(1, 3, dtype=np.int32), 500)
    spans = Spans(np.zeros(1, np.int32), np.array([0]), np.array([1000]))
    windows = windows_of(items, spans, 3, newest=False)
    drawn = windows.with_drawn(1.0, 11, seed=0).drawn[len(windows) :]
    counts = np.bincount(drawn, minlength=11)
    assert counts[0] == 0 and counts[1:].min() > 60 and counts[1:].max() < 140


def test_popular_items_are_those_of_the_newest_windows():
    """What is older than a window is no vote."""
    rows = ([9, 9, 9, 1, 2, 3, 4], [2, 3], [3, 5, 2, 4])
    stops = np.cumsum([len(row) for row in rows])
    trained = Windows(np.concatenate(rows), stops - [len(row) for row in rows], stops, 4)
    # Within the newest four of each: 2: 3, 3: 3, 4: 2, 1: 1, 5: 1, and no 9.
    assert popular(trained, 10, 5).tolist() == [2, 3, 4, 1, 5]
    assert popular(trained, 10, 2).tolist() == [2, 3]


# Runs.


@pytest.fixture(scope="module")
def untrained(sample_store):
    """`untrained(name, split)`: the run of a recommender, without a folder."""

    def make(name, split="chronological_sequences"):
        section = {
            "data": {
                "source": "simulated",
                "store": str(sample_store.path),
                "options": {"users": 120, "mean_length": 10.0, "max_length": 30},
            },
            "model": {"name": name, "dim": 8, "max_length": 6},
            "split": {"name": split},
        }
        return RecommenderRun(build_config(section), sample_store)

    return make


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_the_windows_of_a_split(untrained, part):
    run = untrained("sasrec")
    spans, items = getattr(run.split, part), run.store.items
    windows = split_windows(run, part, 5, newest=True)
    target = int(part != "train")
    kept = np.flatnonzero(spans.stops + target - spans.starts >= 2)
    np.testing.assert_array_equal(windows.newest, items[spans.stops[kept] + target - 1])
    assert len(split_windows(run, part, 5, newest=False)) > len(windows)


def test_where_targets_are_held_out_only_they_are_the_newest(untrained):
    run = untrained("sasrec", "leave_one_out")
    some = [split_windows(run, "test", 5, newest=newest) for newest in (True, False)]
    assert len(some[0]) == len(some[1]) == len(run.split.test.stops)


def test_a_run_that_a_config_names(untrained, tmp_path):
    run = untrained("sasrec")
    write_records(run, tmp_path)
    assert (
        recommender_store(tmp_path, False, "config.recommender").fingerprint
        == run.store.fingerprint
    )
    assert open_recommender(tmp_path).config.model == run.config.model
    with pytest.raises(InputError, match="nowhere"):
        recommender_store(tmp_path / "nowhere", False, "config.recommender")
    text = (tmp_path / "config.json").read_text()
    other = text.replace('"system": "recommender"', '"system": "language_model"')
    (tmp_path / "config.json").write_text(other)
    with pytest.raises(InputError, match="config"):
        recommender_store(tmp_path, False, "config.recommender")


# A recommender's states.


def encoded(run, params, ids):
    """States of the model itself."""
    return jax.jit(lambda params, ids: run.model.merge(params).encode(ids))(params, ids)


IDS = np.array([[0, 0, 3, 5], [4, 1, 2, 6]], np.int32)


def test_the_encoder_is_the_recommender_with_no_state_at_padding(untrained):
    run = untrained("sasrec")
    params = run.init_state().params
    encoder = Encoder(run, params, 4, "window")
    assert (encoder.length, encoder.dim) == (4, 8)
    got = np.asarray(encoder(IDS))
    expected = np.asarray(encoded(run, params, IDS))
    np.testing.assert_allclose(got[1], expected[1], atol=1e-5)
    np.testing.assert_allclose(got[0, 2:], expected[0, 2:], atol=1e-5)
    assert (np.asarray(got[0, :2]) == 0).all() and np.abs(expected[0, :2]).max() > 0.1


def test_many_histories_are_encoded_in_parts_by_one_program(untrained, monkeypatch):
    run = untrained("sasrec")
    encoder = Encoder(run, run.init_state().params, 4, "window")
    ids = np.random.default_rng(0).integers(1, 9, (7, 4)).astype(np.int32)
    expected, shapes, encode = np.asarray(encoder(ids)), [], encoder._encode
    monkeypatch.setattr("recjax.frozen._ROWS", 3)
    monkeypatch.setattr(
        encoder, "_encode", lambda p, ids: shapes.append(ids.shape) or encode(p, ids)
    )
    np.testing.assert_allclose(encoder(ids), expected, atol=1e-5)
    assert shapes == [(3, 4)] * 3


def test_caser_has_one_state(untrained):
    run = untrained("caser")
    params = run.init_state().params
    encoder = Encoder(run, params, 6, "window")
    ids = np.pad(IDS, ((0, 0), (2, 0)))
    got = np.asarray(encoder(ids))
    assert encoder.length == 1 and got.shape == (2, 1, encoder.dim)
    expected = np.asarray(encoded(run, params, ids))[:, -1]
    np.testing.assert_allclose(got[:, 0], expected, atol=1e-5)


def test_a_window_above_the_recommenders(untrained):
    run = untrained("sasrec")
    Encoder(run, run.init_state().params, 6, "window")
    with pytest.raises(InputError, match="sasrec reads 6 items, config.ask.window is 7"):
        Encoder(run, run.init_state().params, 7, "config.ask.window")


def test_item_vectors_are_the_models_table(untrained):
    run = untrained("dreamrec")
    params = run.init_state().params
    vectors = Encoder(run, params, 6, "window").item_vectors
    np.testing.assert_array_equal(vectors, run.model.merge(params).item_table())
    assert vectors.shape == (run.store.n_items, 8)
