"""Forced templates: an answer in given words, about titles of a list alone."""

from collections.abc import Iterable
from typing import Any

from recjax.errors import InputError
from recjax.generate.constrained import Constraint, constrain
from recjax.generate.templates import Slot, Template, Trie
from recjax.llm import LanguageModel


def titles_between(
    lm: LanguageModel, titles: Iterable[str], before: str, after: str, *, several: bool = False
) -> Constraint:
    """A processor for `LanguageModel.generate`: only `before`, one of the titles, `after`.

    >>> processor = titles_between(lm, ["Alien", "Heat"], "It is ", ".")       # doctest: +SKIP

    Args:
        lm: with a tokenizer.
        titles: those that may be said; blank ones are left out.
        before, after: the words around the title. A blank before a title belongs to the title.
        several: titles in a row, with commas between them, too.

    Raises:
        InputError: `lm` has no tokenizer.
    """
    tokenizer = lm.tokenizer
    if tokenizer is None:
        raise InputError("forced answers need a language model with a tokenizer; it has none")

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, start=False)

    # As in an answer: a blank before each title belongs to it.
    trie = Trie([encode(f" {title}") for title in dict.fromkeys(titles) if title.strip()])
    separator = tuple(encode(",")) if several else ()
    parts: list[Any] = [encode(f" {before}".rstrip()), Slot(separator), encode(after)]
    template = Template(trie, [p for p in parts if isinstance(p, Slot) or p])
    return constrain(template, lm.stop, lm.config.vocab_size)
