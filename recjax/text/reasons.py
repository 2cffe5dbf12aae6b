"""Explanations out of reviews: a sentence of a review, and a word of it that hints at it.

P5 takes pairs of a feature and a sentence that another program extracted. Ours are found by a rule:
a feature is a word of four letters or more that `least` training reviews or more have and at most a
fifth of them; the explanation is a review's first sentence of 4 to 30 words with a feature, and its
hint the feature of that sentence that the fewest training reviews have (ties: the first).
"""

import collections
import re
from collections.abc import Sequence

import numpy as np

_SENTENCE = re.compile(r"[^.!?]+[.!?]*")
_WORD = re.compile(r"[^\W\d_]{4,}")  # of letters, accented ones too
_SHORT, _LONG, _MOST = 4, 30, 0.2
_COMMON = frozenset(
    """
    about after also been before because could does doesn down even ever every from give
    good great have having just know like little made make many more most much need never
    nice only other over really same should some such than that their them then there these
    they thing this those time used using very want well were what when where which while
    will with work works would your
    """.split()  # noqa: SIM905
)


def sentences(text: str) -> list[str]:
    """A text's sentences, blanks collapsed."""
    parts = (" ".join(part.split()) for part in _SENTENCE.findall(text))
    return [part for part in parts if part]


def explanations(
    bodies: Sequence[str], trained: np.ndarray, least: int = 5
) -> list[tuple[str, str] | None]:
    """`(feature, sentence)` of each review, None where the rule finds none.

    Args:
        bodies: [N] texts.
        trained: places of the reviews whose words are counted: those of training alone.
        least: reviews that a feature stands in, at least.
    """
    counts: collections.Counter[str] = collections.Counter()
    total = 0
    for place in trained.tolist():
        counts.update(set(_WORD.findall(bodies[place].lower())) - _COMMON)
        total += bool(bodies[place])
    known = {w: n for w, n in counts.items() if least <= n <= max(least, _MOST * total)}
    return [_explained(body, known) for body in bodies]


def _explained(body: str, known: dict[str, int]) -> tuple[str, str] | None:
    for sentence in sentences(body):
        words = [word for word in _WORD.findall(sentence.lower()) if word in known]
        if words and _SHORT <= len(sentence.split()) <= _LONG:
            return min(words, key=lambda word: known[word]), sentence
    return None
