"""Texts to learn from: pieces that are given, pieces that are learned, and soft tokens.

A soft token stands for a history, or an item: a blend of vectors, one an item, that are learned
along with the model and kept beside it. A model that has learned to name what a blend is made of
knows what to say of one vector, and an adapter of a few hundred thousand parameters can steer it.
"""

import dataclasses
import math
from collections.abc import Sequence

from recjax.text.prompts import Prompt, Words, answer, question
from recjax.text.tokenizers import SOFT


@dataclasses.dataclass(frozen=True)
class Blend:
    """The parts of a soft token: items, and their weights (of length 1 as a vector)."""

    items: tuple[int, ...]
    weights: tuple[float, ...]


def blend(items: Sequence[int], decay: float) -> Blend:
    """A history in one vector: the k-th newest item weighs decay^k.

    Args:
        items: ids, newest last.
        decay: 0 leaves the newest alone, 1 weighs all alike.
    """
    weights = [decay**k for k in range(len(items))][::-1]
    norm = math.hypot(*weights)
    return Blend(tuple(items), tuple(w / norm for w in weights))


@dataclasses.dataclass(frozen=True)
class Document:
    """A text to learn from.

    Attributes:
        kind: its name in the names of metrics.
        pieces: texts in order, and whether they are learned; None stands for a soft token.
        blends: what the soft tokens are made of, in order.
        form: which prompt of the table it asks; None for a kind without prompts.
    """

    kind: str
    pieces: tuple[tuple[str | None, bool], ...]
    blends: tuple[Blend, ...] = ()
    form: int | None = None

    @property
    def given(self) -> str:
        """The text that is not learned, `{soft}` for soft tokens."""
        return "".join(SOFT if t is None else t for t, learned in self.pieces if not learned)

    @property
    def text(self) -> str:
        """The text that is learned."""
        return "".join(text or "" for text, learned in self.pieces if learned)


def asked(
    kind: str, prompt: Prompt, words: Words, titles: Sequence[str], blends: Sequence[Blend] = ()
) -> Document:
    """A question and its answer as a document.

    A soft token stands for a word: the blank before it is its own, as in
    `Tokenizer.encode_with_soft`.
    """
    parts = question(prompt, words).split(SOFT)
    pieces: list[tuple[str | None, bool]] = []
    for part in parts[:-1]:
        pieces += [(part.removesuffix(" "), False), (None, False)]
    pieces += [(parts[-1], False), (" " + answer(prompt, words, titles), True)]
    return Document(kind, tuple(pieces), tuple(blends))
