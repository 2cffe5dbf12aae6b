"""Vectors of items by their words: terms, weights, singular vectors, bad input."""

import numpy as np
import pytest

from recjax.data.words import word_vectors
from recjax.errors import InputError

RECORDS = [
    {"title": "Red tea", "tags": ["Hot Drink", ["leaf"]]},
    {"title": "red TEA, red cup", "tags": ["Hot Drink"]},
    {"title": "blue cup", "tags": None},
    {"title": "Blue cup", "tags": ["hot drink"]},
    {"title": "the blue", "tags": ["Hot Drink"]},
    {"title": "red tea", "tags": []},
    {"title": "", "tags": None},
]
CATALOG = [None, *(record | {"key": str(k)} for k, record in enumerate(RECORDS))]
# Rows are items, columns the terms of three items or more: red, tea, "red tea", cup, blue,
# "Hot Drink". (A label is one term, and not the words of a title; "leaf" and "blue cup" are rare.)
COUNTS = np.array(
    [
        [0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 1],
        [2, 1, 1, 1, 0, 1],
        [0, 0, 0, 1, 1, 0],
        [0, 0, 0, 1, 1, 0],
        [0, 0, 0, 0, 1, 1],
        [1, 1, 1, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ]
)


def test_vectors_are_truncated_singular_vectors_of_weighted_words():
    weights = np.where(COUNTS > 0, 1 + np.log(np.maximum(COUNTS, 1)), 0) * np.log(8 / 3)
    lengths = np.linalg.norm(weights, axis=1, keepdims=True)
    left, values, right = np.linalg.svd(weights / np.maximum(lengths, 1e-9))
    found = word_vectors(CATALOG, ("title", "tags"), 2)
    expected = (left[:, :2] * values[:2]) @ right[:2]
    # The same up to the signs of the columns, which are those of the largest numbers.
    np.testing.assert_allclose(found.values @ found.values.T, expected @ expected.T, atol=1e-5)
    assert (found.values.max(axis=0) >= -found.values.min(axis=0)).all()
    assert found.known.tolist() == [False, *[True] * 6, False]
    # Tea and "red tea" always go together: five vectors tell the six terms apart.
    assert word_vectors(CATALOG, ("title", "tags")).values.shape == (8, 5)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ((), "expected keys of the catalogue's records"),
        (("titel",), "no item of the catalogue has 'titel'; did you mean 'title'"),
        (("key",), "key: no two words that 3 items have"),
    ],
)
def test_catalogues_without_words(keys, message):
    with pytest.raises(InputError, match=message):
        word_vectors(CATALOG, keys)
