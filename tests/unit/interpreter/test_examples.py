"""The states and titles of both tasks, states from arrays."""

import jax.numpy as jnp
import numpy as np
import pytest

from recjax.data.splits import Spans
from recjax.errors import InputError
from recjax.frozen import Encoder, Windows, windows_of
from recjax.interpreter.examples import Histories, States, check_states

# Runs of three users in a store's flat items; the second one is too short for a history.
ITEMS = np.array([11, 12, 13, 14, 15, 21, 31, 32])
SPANS = Spans(np.arange(3, dtype=np.int32), np.array([0, 5, 6]), np.array([5, 6, 8]))


# Histories.

NAMES = [f"title {n}" for n in range(40)]


def plain(ids):
    """A recommender whose state at each place is its item, and how many came before."""
    real = jnp.asarray(ids) != 0
    return jnp.stack([jnp.asarray(ids), jnp.cumsum(real, axis=1) * real], axis=-1)


def test_states_and_titles_of_both_tasks():
    histories = Histories(windows_of(ITEMS, SPANS, 3, newest=False), plain, NAMES)
    rows = np.array([4, 2])
    both = histories.states(rows, (1, 0))
    assert both.shape == (2, 2, 3, 2) and len(histories) == 5
    assert both[..., 0].tolist() == [[[0, 0, 31], [0, 31, 32]], [[11, 12, 13], [12, 13, 14]]]
    after = histories.states(rows)
    np.testing.assert_array_equal(after, both[:, 1:])
    assert histories.titles(rows) == [["title 32"], ["title 14"]]
    assert histories.titles(rows, lists=True) == [
        ["title 32", "title 31"],
        ["title 14", "title 13", "title 12"],
    ]


def test_states_before_know_nothing_of_the_newest_item(untrained):
    """The first representation of a residual question is the same whatever was added."""
    run = untrained("sasrec")
    encoder = Encoder(run, run.init_state().params, 4, "window")
    rows = np.arange(3)
    items, starts, stops = run.store.items[:30].copy(), np.arange(3) * 10, np.arange(3) * 10 + 6
    shown = []
    for added in (1, 2):
        items[stops - 1] = added
        windows = Windows(items.copy(), starts, stops, 4)
        assert windows.newest.tolist() == [added] * 3
        shown.append(np.asarray(Histories(windows, encoder, NAMES).states(rows, (1, 0))))
    np.testing.assert_array_equal(shown[0][:, 0], shown[1][:, 0])
    assert (np.abs(shown[0][:, 1] - shown[1][:, 1]).max(axis=(1, 2)) > 1e-3).all()


# Arrays.


def make(rows=3, shape=(4, 5), seed=0):
    return np.random.default_rng(seed).normal(size=(rows, *shape))


ADDED = ["Alien", " The  Omen\n", "Dune"]
HISTORIES = [["a", "Alien"], ["b", "c", "The Omen"], ["Dune"]]


def test_states_from_arrays():
    before, after = make(seed=1), make(seed=2)
    examples = States(before, after, ADDED, HISTORIES)
    rows = np.array([2, 1])
    shown = examples.states(rows, (1, 0))
    assert len(examples) == 3 and shown.dtype == jnp.float32
    np.testing.assert_allclose(shown[:, 0], before[rows], rtol=1e-6)
    np.testing.assert_allclose(shown[:, 1], after[rows], rtol=1e-6)
    np.testing.assert_array_equal(examples.states(rows), shown[:, 1:])
    assert examples.titles(rows) == [["Dune"], ["The Omen"]]
    assert examples.titles(rows, lists=True) == [["Dune"], ["The Omen", "c", "b"]]


def test_one_vector_a_history():
    flat = make(shape=(5,))
    assert States(flat, flat, ADDED).states(np.arange(3), (1, 0)).shape == (3, 2, 1, 5)


def test_recovery_needs_histories():
    examples = States(make(), make(), ADDED)
    with pytest.raises(InputError, match="recovery: needs the titles of histories"):
        examples.titles(np.arange(2), lists=True)


def broken(value, row=1):
    h = make()
    h[row, 2, 3] = value
    return h


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((make(), broken(np.nan), ADDED), "hidden_after: row 1 has NaN or infinity"),
        ((broken(np.inf, 2), make(), ADDED), "hidden_before: row 2 has NaN or infinity"),
        ((make(shape=(4, 6)), make(), ADDED), "hidden_before: width 6, expected 5: states of ano"),
        ((make(shape=(3, 5)), make(), ADDED), "hidden_before: positions 3, expected 4"),
        ((make(2), make(), ADDED), "hidden_before: 2 rows, expected 3"),
        ((make(), make(), ADDED[:2]), "titles: 2 rows, expected 3"),
        ((make(), make(), ADDED, HISTORIES[:1]), "histories: 1 rows, expected 3"),
        ((make(), make(), ["Alien", " \n", "Dune"]), r"titles: row 1 is ' \\n', expected a text"),
        ((make(), make(), ["Alien", None, "Dune"]), "titles: row 1 is None, expected a text"),
        ((make(), make(), ["Alien", float("nan"), "Dune"]), "titles: row 1 is nan"),
        ((make(), make(), ADDED, [["a"], ["b"], []]), "histories: row 2 is empty"),
        ((make(), make(), ADDED, [["a"], ["b", " "], ["c"]]), "row 1: a title is ' ', expected"),
        ((make(shape=()), make(), ADDED), r"hidden_before: shape \(3,\), expected \[B L D\]"),
        ((make(), make()[None], ADDED), r"hidden_after: shape \(1, 3, 4, 5\)"),
        ((make(0), make(0), []), r"hidden_after: shape \(0, 4, 5\)"),
        (([["x"]], make(), ADDED), "hidden_before: an array of <U1; expected floating"),
        ((make(), [[1.0], [1.0, 2.0]], ADDED), "hidden_after: not an array of numbers"),
    ],
)  # fmt: skip
def test_bad_arrays(arguments, message):
    with pytest.raises(InputError, match=message):
        States(*arguments)


def test_states_of_another_model():
    h = make()
    assert check_states(h, "file.npz: before", length=4, dim=5).shape == (3, 4, 5)
    with pytest.raises(InputError, match="file.npz: before: width 5, expected 8"):
        check_states(h, "file.npz: before", length=4, dim=8)
    with pytest.raises(InputError, match="file.npz: before: positions 4, expected 1"):
        check_states(h, "file.npz: before", length=1, dim=5)
