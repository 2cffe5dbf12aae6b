"""Cheap references against sums written out."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from recjax.errors import InputError
from recjax.models.references import NAMES, Sequences, counts, read_reference

RUNS = [[1, 2, 3, 2], [2, 3], [4], [], [3, 1, 4, 5, 2], [6, 6]]
N_ITEMS = 9  # items 7 and 8 are never met


@pytest.fixture(scope="module")
def sequences():
    stops = np.cumsum([len(run) for run in RUNS])
    items = np.array([item for run in RUNS for item in run], np.int32)
    return Sequences(items, stops - [len(run) for run in RUNS], stops, N_ITEMS)


def fitted(sequences, section, ids):
    module, config = read_reference(section)
    arrays = module.fit(config, sequences)
    key, size = module.needed(config, sequences)
    assert key.startswith("config.model.") and size > 0
    return np.asarray(scores(module, config)(arrays, np.array(ids)))


def scores(module, config):
    """`(arrays, ids) -> scores`, compiled."""
    return jax.jit(functools.partial(module.score, config))


def dense(pairs):
    out = np.zeros((N_ITEMS, N_ITEMS))
    rows, columns, sums = pairs
    out[rows, columns] = sums
    return out


def histories():
    """X [n I] of the training sequences."""
    out = np.zeros((len(RUNS), N_ITEMS))
    for row, run in zip(out, RUNS, strict=True):
        row[run] = 1
    return out


@pytest.mark.parametrize("most", [1, 3, 1 << 22])
def test_counts(sequences, most, monkeypatch):
    monkeypatch.setattr(counts, "_PAIRS", most)  # groups of sequences do not show
    x = histories()
    np.testing.assert_array_equal(dense(counts.together(sequences)), x.T @ x)
    np.testing.assert_array_equal(counts.users_of(sequences), x.sum(0))
    expected = np.bincount([item for run in RUNS for item in run], minlength=N_ITEMS)
    np.testing.assert_array_equal(counts.occurrences(sequences), expected)
    after = np.zeros((N_ITEMS, N_ITEMS))
    for run in RUNS:
        for t, item in enumerate(run):
            for d in (1, 2):
                if t + d < len(run) and run[t + d] != item:
                    after[item, run[t + d]] += 1 / d
    np.testing.assert_allclose(dense(counts.following(sequences, 2, True)), after)
    np.testing.assert_allclose(dense(counts.following(sequences, 2, False)), after + after.T)


def test_nearest_items_and_votes():
    pairs = np.array([1, 1, 1, 3]), np.array([2, 3, 4, 1]), np.array([0.5, 2.0, 0.5, 1.0])
    arrays = counts.nearest_items(*pairs, 5, 2)
    assert arrays["neighbours"].tolist() == [[0, 0], [3, 2], [0, 0], [1, 0], [0, 0]]
    given = {name: np.array(value) for name, value in arrays.items()}
    votes = jax.jit(counts.votes, static_argnums=2)
    scores = np.asarray(votes(given, np.array([[0, 3, 1], [0, 0, 4]]), 0.5))
    np.testing.assert_allclose(scores[0, 1:], [0.5, 0.5, 2.0, 0.0])
    np.testing.assert_allclose(scores[1, 1:], 0)


def test_popularity(sequences):
    scores = fitted(sequences, {"name": "popularity"}, [[3], [0]])
    np.testing.assert_array_equal(scores, [counts.occurrences(sequences)] * 2)


def test_cooccurrence_reads_the_newest_item(sequences):
    section = {"name": "cooccurrence", "steps": 1, "directed": True}
    scores = fitted(sequences, section, [[0, 4, 2], [4, 5, 2]])
    np.testing.assert_array_equal(scores[:, 1:], [[0, 0, 2, 0, 0, 0, 0, 0]] * 2)
    both = fitted(sequences, {**section, "directed": False}, [[2]])
    np.testing.assert_array_equal(both[0, 1:], [1, 0, 3, 0, 1, 0, 0, 0])


def test_knn_is_the_cosine(sequences):
    x = histories()
    gram, users = x.T @ x, np.maximum(x.sum(0), 1e-9)
    alike = gram / (np.sqrt(np.outer(users, users)) + 2.0)
    np.fill_diagonal(alike, 0)
    section = {"name": "knn", "shrink": 2.0, "recency": 0.5, "max_length": 3}
    scores = fitted(sequences, section, [[0, 3, 1]])
    np.testing.assert_allclose(scores[0, 1:], (alike[1] + 0.5 * alike[3])[1:], rtol=1e-5)


def test_ease_is_its_closed_form(sequences):
    x = histories()
    inverse = np.linalg.inv(x.T @ x + 3.0 * np.eye(N_ITEMS))
    b = -inverse / np.diag(inverse)
    np.fill_diagonal(b, 0)
    scores = fitted(sequences, {"name": "ease", "l2": 3.0}, [[0, 3, 1], [2, 3, 4]])
    np.testing.assert_allclose(scores[0, 1:], (b[1] + b[3])[1:], atol=1e-5)
    np.testing.assert_allclose(scores[1, 1:], (b[2] + b[3] + b[4])[1:], atol=1e-5)


def test_an_l2_that_rounding_loses():
    starts = np.arange(0, 80, 2)
    alike = Sequences(np.tile(np.array([1, 2], np.int32), 40), starts, starts + 2, 3)
    with pytest.raises(InputError, match="config.model.l2: 1e-08 is too small"):
        fitted(alike, {"name": "ease", "l2": 1e-8}, [[1]])
    assert np.isfinite(fitted(alike, {"name": "ease", "l2": 1.0}, [[1]])).all()


@pytest.mark.parametrize("beta", [0.0, 0.7])
def test_walk_is_two_steps_of_the_chain(sequences, beta):
    edges = dense(counts.following(sequences, 5, False))
    chain = edges / np.maximum(counts.occurrences(sequences), 1) ** beta
    chain /= np.maximum(chain.sum(1, keepdims=True), 1e-12)
    expected = chain + 0.25 * chain @ chain
    np.fill_diagonal(expected, 0)
    section = {"name": "walk", "beta": beta, "depth_share": 0.25, "recency": 1.0}
    scores = fitted(sequences, section, [[0, 3, 1]])
    np.testing.assert_allclose(scores[0, 1:], (expected[1] + expected[3])[1:], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_padding_changes_nothing(sequences, name):
    module, config = read_reference({"name": name})
    assert dataclasses.fields(config)
    arrays = module.fit(config, sequences)
    score = scores(module, config)
    short, long = (np.asarray(score(arrays, np.array([row]))) for row in ([3, 1], [0, 0, 0, 3, 1]))
    np.testing.assert_allclose(short[:, 1:], long[:, 1:], rtol=1e-6)
    assert np.isfinite(short).all()
    with jax.enable_x64(True):
        assert jax.eval_shape(score, arrays, np.array([[3, 1]])).dtype == np.float32


def test_names():
    with pytest.raises(InputError, match="no reference 'eese'; .*ease"):
        read_reference({"name": "eese"})
    with pytest.raises(InputError, match=r"config.model.l2"):
        read_reference({"name": "ease", "l2": 0.0})
    with pytest.raises(InputError, match="lacks the key 'name'"):
        read_reference({})
