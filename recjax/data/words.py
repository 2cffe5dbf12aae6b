"""Vectors of items by the words of their texts, where no language model is at hand."""

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from recjax.data.attributes import Attributes, Catalog, column, labels_of
from recjax.errors import InputError

_LEAST = 3  # items of a term
_SMALL = 1e-6  # of the first singular value: those below are rounding
WIDTH = 128  # numbers of a vector


def word_vectors(catalog: Catalog, keys: Sequence[str], width: int = WIDTH) -> Attributes:
    """Latent semantic analysis of the catalogue (Deerwester et al. 1990): values [I width].

    An item's terms are the words of its texts, pairs of neighbouring words, and whole labels where
    a value is a list. A term that n times is in the item, and in m items altogether, weighs
    (1 + ln n) ln(I / m); an item's weights have length 1. The vectors are the first `width` left
    singular vectors, times their singular values. Terms of fewer than three items, or of more than
    half, are left out. An item without terms is not known.

    Args:
        catalog: `store.catalog`.
        keys: of the records.
        width: numbers of a vector; fewer where the texts have a lower rank.

    Raises:
        InputError: no record has a key; no term is of three items.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.linalg import svds

    if not keys:
        raise InputError("expected keys of the catalogue's records, such as title")
    columns = [column(catalog, key) for key in keys]
    items = [Counter(_terms(keys, values)) for values in zip(*columns, strict=True)]
    number = Counter(term for item in items for term in item)
    terms = [term for term, m in number.items() if _LEAST <= m <= len(items) / 2]
    place = {term: k for k, term in enumerate(terms)}
    entries = [
        (item, place[term], (1 + math.log(n)) * math.log(len(items) / number[term]))
        for item, counts in enumerate(items)
        for term, n in counts.items()
        if term in place
    ]
    size = min(width, len(terms) - 1, len(items) - 1)
    if size < 1:
        raise InputError(f"{', '.join(keys)}: no two words that {_LEAST} items have")
    rows, places, weights = map(np.array, zip(*entries, strict=True))
    lengths = np.sqrt(np.bincount(rows, weights**2, len(items)))
    matrix = csr_array((weights / lengths[rows], (rows, places)), (len(items), len(terms)))
    # A fixed start: the vectors are the same each time.
    left, values, _ = svds(matrix, size, v0=np.ones(min(matrix.shape)))
    order = np.argsort(-values)
    vectors = (left * values)[:, order[values[order] > _SMALL * values.max()]]
    vectors *= np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])])
    names = tuple(f"words {k}" for k in range(vectors.shape[1]))
    return Attributes(names, vectors.astype(np.float32), lengths > 0)


def _terms(keys: Sequence[str], values: Sequence[Any]) -> Iterator[str | tuple[str, str]]:
    """The terms of one item's values: words, pairs of words as tuples, and labels by key."""
    for key, value in zip(keys, values, strict=True):
        if isinstance(value, (list, tuple)):
            yield from ((key, label) for label in labels_of(value))
        elif value is not None:
            words = re.findall(r"\w+", str(value).lower())
            yield from words
            yield from (f"{a} {b}" for a, b in itertools.pairwise(words))
