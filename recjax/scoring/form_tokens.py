"""A form's words and options, as texts and as tokens; `recjax.scoring.forms` fills it.

Letters: A places, R options, P beginnings that some option goes on from.
"""

import dataclasses
import functools
from collections.abc import Sequence

from recjax.errors import InputError
from recjax.text.tokenizers import Tokenizer


@dataclasses.dataclass(frozen=True)
class Form:
    """An answer: `words[0]`, a choice, `words[1]`, a choice, ...

    Attributes:
        words: before each choice, A texts; none is empty.
        options: R texts that may be chosen, at each place the same; no two are equal.
    """

    words: tuple[str, ...]
    options: tuple[str, ...]

    def text(self, choices: Sequence[int]) -> str:
        """The answer with these options at the A places."""
        return "".join(w + self.options[c] for w, c in zip(self.words, choices, strict=True))


@dataclasses.dataclass(frozen=True, eq=False)
class FormTokens:
    """A form as tokens.

    Attributes:
        words: A lists of tokens; what all options begin with belongs to them.
        options: R lists of tokens.
        exact: whether words and options, one after the other, are the tokens of the whole text, as
            a model has read it in training and writes it.
    """

    words: list[list[int]]
    options: list[list[int]]
    exact: bool

    @property
    def longest(self) -> int:
        """Tokens of the longest answer."""
        return sum(map(len, self.words)) + len(self.words) * max(map(len, self.options))

    @functools.cached_property
    def inner(self) -> list[tuple[int, ...]]:
        """P beginnings of options, the shorter ones first: some option goes on from each."""
        beginnings = {tuple(o[:n]) for o in self.options for n in range(1, len(o))}
        return sorted(beginnings, key=lambda begun: (len(begun), begun))

    def following(self, begun: Sequence[int]) -> list[int]:
        """The tokens with which options go on from a beginning."""
        n = len(begun)
        return sorted({o[n] for o in self.options if o[:n] == [*begun] and len(o) > n})

    @property
    def width(self) -> int:
        """Tokens of the longest option and the longest words behind it."""
        return max(map(len, self.options)) + max(map(len, self.words[1:]), default=0)

    @property
    def slots(self) -> int:
        """Tokens a row that filling place by place caches behind the prompt."""
        probes = max(map(len, self.inner), default=0)
        return len(self.words[0]) + self.width * (len(self.words) - 1) + probes


def form_tokens(form: Form, tokenizer: Tokenizer) -> FormTokens:
    """A form in the tokens of a tokenizer.

    A blank between words and option belongs to either, as the tokenizer has it.

    Raises:
        InputError: a form without places or options, two options of the same tokens.
    """
    if not form.words or not all(form.words) or not form.options:
        raise InputError("a form: expected words before each choice, and options")

    def encode(texts: Sequence[str]) -> list[list[int]]:
        return tokenizer.encode_batch(list(texts), start=False)

    whole_texts = encode([form.text([r] * len(form.words)) for r in range(len(form.options))])
    best: FormTokens | None = None
    most_matches = -1
    for moved in (0, 1):  # a blank that all options begin with, to the words
        if moved and not all(option.startswith(" ") for option in form.options):
            break
        words = encode([word + " " * moved for word in form.words])
        options = encode([option[moved:] for option in form.options])
        matches = sum(
            [token for word in words for token in (*word, *option)] == text
            for option, text in zip(options, whole_texts, strict=True)
        )
        if matches > most_matches:
            most_matches, best = matches, FormTokens(words, options, matches == len(options))
    assert best is not None
    common = 0
    shortest = min(map(len, best.options))
    while common < shortest and len({option[common] for option in best.options}) == 1:
        common += 1
    if len(set(map(tuple, best.options))) < len(best.options) or common == shortest:
        raise InputError("a form: expected options that differ by their tokens")
    head = best.options[0][:common]
    return FormTokens(
        [[*word, *head] for word in best.words],
        [option[common:] for option in best.options],
        best.exact,
    )
