"""Items, histories and questions about them as text, and as the stream that trains a model.

titles = item_titles(store.catalog, WORDS["movie"])        # [I], by item id
question(RESIDUAL[0], WORDS["movie"])                       # with two placeholders of soft tokens
answer(RESIDUAL[0], WORDS["movie"], [titles[7]])

Titles are as the reader left them: MovieLens' "Matrix, The (1999)" is "The Matrix" with the year
apart. Text never has to be parsed back: what a text is about is known by item id. An item
without a title is "Untitled" and its words and id ("Untitled movie 267"), so no two are the same.

In the place of a title may stand an item's own token (`item_token`), which a language model
learns to name, and in the place of a hidden state a list of such tokens: a model that has learned
this reads a soft token as it reads them.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from recjax.data.splits import Spans
from recjax.data.tokenizers import SOFT
from recjax.errors import InputError

Domain = Literal["movie", "game", "product", "book"]


@dataclasses.dataclass(frozen=True)
class Words:
    """The words of a domain: "has watched", "the watching list", "a movie", "movies"."""

    past: str
    doing: str
    item: str
    items: str


WORDS: dict[str, Words] = {
    "movie": Words("watched", "watching", "movie", "movies"),
    "game": Words("played", "playing", "game", "games"),
    "product": Words("bought", "buying", "product", "products"),
    "book": Words("read", "reading", "book", "books"),
}


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A question and its answer, with `{past}`, `{doing}`, `{item}` and `{items}` for the words.

    Attributes:
        question: with `{soft}` where a representation stands.
        answer: with `{titles}`.
    """

    question: str
    answer: str


_WATCHED = "A person has {past} a series of {items}. "
_USER = "A user has {past} a series of {items}, which can be represented as "
# RecInterpreter (Yang et al. 2023): section 3.1, section 1, and paraphrases.
RECOVERY = (
    Prompt(
        _WATCHED + "The {doing} list can be represented as: {soft}. "
        "Describe this {doing} history of the person in detail.",
        "This user has {past} {titles} in the previous.",
    ),
    Prompt(_USER + "{soft}. What {items} has the user {past}?", "The user has {past} {titles}."),
    Prompt(
        "Here is the {doing} history of a user: {soft}. Name its {items}.",
        "The {items} are {titles}.",
    ),
)
# Section 3.2, section 1, and paraphrases.
RESIDUAL = (
    Prompt(
        _WATCHED + "The {doing} list can be represented as List1: {soft}. After {doing} another "
        "{item}, the {doing} list can further be represented as List2: {soft}. "
        "What is the {item} in List2 but not in List1?",
        "This user {past} {item} {titles} in List2 but not in List1.",
    ),
    Prompt(
        _USER + "{soft}. After {doing} another {item}, the {doing} history can be represented as "
        "{soft}. What is the additional {item} the user {past}?",
        "The additional {item} is {titles}.",
    ),
    Prompt(
        "The {doing} history of a user was {soft} and has become {soft}. "
        "Which {item} is new in it?",
        "The new {item} is {titles}.",
    ),
)
# One item, from its own token.
NAMING = (
    Prompt("Which {item} is {soft}?", "It is {titles}."),
    Prompt("A user has {past} the {item} {soft}. What is its title?", "Its title is {titles}."),
    Prompt("The title of the {item} {soft} is", "{titles}."),
)
_HISTORIES = (
    "This user has {past} {titles} in the previous.",
    "The {doing} history of a user: {titles}.",
)
_ITEMS = ("The {item} {titles} {facts}.", "Which {item} {facts}? {titles}.")
# What a record may tell, in this order.
_FACTS = (
    ("year", "came out in {}"),
    ("author", "is by {}"),
    ("developer", "is by {}"),
    ("brand", "is by {}"),
    ("genres", "belongs to {}"),
    ("categories", "belongs to {}"),
)


def item_titles(catalog: Sequence[Mapping[str, Any] | None], words: Words) -> list[str]:
    """Readable titles by item id, "" at 0: [I].

    Args:
        catalog: `store.catalog`.
        words: of the domain.
    """
    out = [""]
    for item, record in enumerate(catalog[1:], start=1):
        title = " ".join(str((record or {}).get("title") or "").split())
        out.append(title or f"Untitled {words.item} {item}")
    return out


def item_token(item: int) -> str:
    """The token of an item: "<item_7>"."""
    return f"<item_{item}>"


def item_tokens(n_items: int) -> list[str]:
    """The tokens of the items 1 .. I-1, in order.

    Args:
        n_items: I, padding included.
    """
    return [item_token(item) for item in range(1, n_items)]


def listed(names: Sequence[str]) -> str:
    """Titles or tokens in a row: "Twelve Monkeys, Cat People, Omen"."""
    return ", ".join(names)


def question(prompt: Prompt, words: Words, shown: Sequence[str] | None = None) -> str:
    """A prompt's question.

    Args:
        prompt: of a task.
        words: of the domain.
        shown: what stands in the place of each representation, in order, such as lists of item
            tokens; None leaves the placeholders that `Tokenizer.encode_with_soft` takes.
    """
    text = prompt.question
    parts = text.split(SOFT)
    filled = [SOFT] * (len(parts) - 1) if shown is None else list(shown)
    if len(filled) != len(parts) - 1:
        raise InputError(f"a prompt with {len(parts) - 1} of '{SOFT}' got {len(filled)} texts")
    own = dataclasses.asdict(words)
    # Word by word, so that braces in a title are text.
    return "".join(
        part.format(**own) + fill for part, fill in zip(parts, [*filled, ""], strict=True)
    )


def answer(prompt: Prompt, words: Words, titles: Sequence[str]) -> str:
    """A prompt's answer, about one or several titles."""
    return prompt.answer.format(titles=listed(titles), **dataclasses.asdict(words))


def history_text(titles: Sequence[str], words: Words, form: int = 0) -> str:
    """A history, oldest item first, as a sentence."""
    return _HISTORIES[form % len(_HISTORIES)].format(
        titles=listed(titles), **dataclasses.asdict(words)
    )


def item_text(record: Mapping[str, Any] | None, title: str, words: Words, form: int = 0) -> str:
    """What is known of an item, as a sentence; that it exists, where nothing is.

    Args:
        record: of the catalogue: its year, author, developer, brand, genres and categories are
            told, as far as it has them.
        title: the item's, of `item_titles`.
        words: of the domain.
        form: which paraphrase.
    """
    record = record or {}
    told = [text.format(_value(record[key])) for key, text in _FACTS if record.get(key)]
    facts = ", ".join(told) or "exists"
    own = dataclasses.asdict(words)
    return _ITEMS[form % len(_ITEMS)].format(titles=title, facts=facts, **own)


def _value(value: Any) -> str:
    """A label, labels, or paths of labels (Amazon's) as text."""
    if not isinstance(value, (list, tuple)):
        return str(value)
    parts = [_value(part) for part in value]
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """What a language model of a catalogue reads, in documents an epoch."""

    domain: Domain = "movie"  # the words
    window: int = 10  # items of a history, at most; RecInterpreter's 10
    items: float = 1.0  # documents an item: what is known of it
    naming: float = 8.0  # documents an item: its title, asked by its token
    histories: float = 1.0  # documents a training sequence: titles in a row
    recovery: float = 1.0  # documents a training sequence: titles, asked by the items' tokens
    residual: float = 2.0  # documents a training sequence: the item that one list has more

    def __post_init__(self):
        if self.window < 2:
            raise InputError("config.text.window: expected at least 2")
        if min(getattr(self, kind) for kind in KINDS) < 0:
            raise InputError(f"config.text: {', '.join(KINDS)} are at least 0")

    @property
    def item_tokens(self) -> bool:
        """Whether items have tokens of their own."""
        return self.naming + self.recovery + self.residual > 0


KINDS = ("items", "naming", "histories", "recovery", "residual")
_TASKS = {"naming": NAMING, "recovery": RECOVERY, "residual": RESIDUAL}


@dataclasses.dataclass(frozen=True)
class Document:
    """A text to learn from.

    Attributes:
        kind: of `KINDS`.
        prompt: what is given and not learned; "" for none.
        text: what is learned; goes on after the prompt.
    """

    kind: str
    prompt: str
    text: str


@dataclasses.dataclass(frozen=True, eq=False)
class Documents:
    """The documents of a catalogue and of runs of interactions; document = f(seed, place).

    One shuffled epoch follows another. Each draws anew which paraphrase a document has, and which
    part of its run: up to `window` items that end anywhere in it.

    Attributes:
        config: how many of which kind.
        catalog: `store.catalog`.
        items: the store's flat item ids.
        spans: the runs that may be read. In training those of the split's training part: no
            interaction outside of them is ever read.
        seed: of all draws.
    """

    config: TextConfig
    catalog: Sequence[Mapping[str, Any] | None]
    items: np.ndarray
    spans: Spans
    seed: int = 0

    def __post_init__(self):
        if len(self) == 0:
            raise InputError("config.text: no document in an epoch; nothing to train on")

    @functools.cached_property
    def titles(self) -> list[str]:
        """[I] titles by item id."""
        return item_titles(self.catalog, self.words)

    @property
    def words(self) -> Words:
        return WORDS[self.config.domain]

    @functools.cached_property
    def _members(self) -> dict[str, np.ndarray]:
        """Which items, or which runs, a kind is about."""
        lengths = self.spans.stops - self.spans.starts
        out = {}
        for kind in KINDS:
            if kind in ("items", "naming"):
                out[kind] = np.arange(1, len(self.catalog))
            else:
                out[kind] = np.flatnonzero(lengths >= _least(kind))
        return out

    @functools.cached_property
    def counts(self) -> dict[str, int]:
        """Documents of each kind in an epoch."""
        config = self.config
        rates = {
            "items": config.items,
            "naming": config.naming,
            "histories": config.histories,
            "recovery": config.recovery,
            "residual": config.residual,
        }
        return {kind: round(rates[kind] * len(self._members[kind])) for kind in KINDS}

    def __len__(self) -> int:
        """Documents in an epoch."""
        return sum(self.counts.values())

    @functools.lru_cache(maxsize=2)  # noqa: B019 - a batch spans at most two epochs
    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Kind (its number) and member of every document of an epoch, in its order."""
        rng = np.random.default_rng([self.seed, epoch])
        kinds, members = [], []
        for number, kind in enumerate(KINDS):
            count, pool = self.counts[kind], self._members[kind]
            kinds.append(np.full(count, number))
            rounds = -(-count // max(1, len(pool)))
            shuffled = [rng.permutation(pool) for _ in range(rounds)]
            members.append(np.concatenate([*shuffled, pool[:0]])[:count])
        order = rng.permutation(len(self))
        return np.concatenate(kinds)[order], np.concatenate(members)[order]

    def __call__(self, place: int) -> Document:
        """The document at a place of the endless stream."""
        epoch, inside = divmod(place, len(self))
        kinds, members = self._epoch(epoch)
        kind, member = KINDS[kinds[inside]], int(members[inside])
        rng = np.random.default_rng([self.seed, epoch, inside])
        form = int(rng.integers(1 << 16))
        if kind in ("items", "naming"):
            return self.about_item(kind, member, form)
        start, stop = int(self.spans.starts[member]), int(self.spans.stops[member])
        least = _least(kind)
        size = int(rng.integers(least, min(self.config.window, stop - start) + 1))
        stop = int(rng.integers(start + size, stop + 1))
        return self.about_history(kind, self.items[stop - size : stop].tolist(), form)

    def corpus(self) -> Iterator[str]:
        """Texts to train a tokenizer on: all titles and all words of prompts, no item token."""
        for item in range(1, len(self.catalog)):
            for form in range(len(_ITEMS)):
                yield self.about_item("items", item, form).text
        for prompt in (*NAMING, *RECOVERY, *RESIDUAL):
            yield question(prompt, self.words, [""] * prompt.question.count(SOFT))
            yield answer(prompt, self.words, [])
        yield from (history_text([], self.words, form) for form in range(len(_HISTORIES)))

    def fixed(self, kind: str, member: int) -> Document:
        """A document for measuring: the newest window of a run, a paraphrase by its number."""
        if kind in ("items", "naming"):
            return self.about_item(kind, member, member)
        start, stop = int(self.spans.starts[member]), int(self.spans.stops[member])
        start = max(start, stop - self.config.window)
        return self.about_history(kind, self.items[start:stop].tolist(), member)

    def members(self, kind: str) -> np.ndarray:
        """What `fixed` can be asked of a kind: items, or runs that are long enough."""
        return self._members[kind]

    def about_item(self, kind: str, item: int, form: int) -> Document:
        """A document of kind "items" or "naming"."""
        title = self.titles[item]
        if kind == "items":
            return Document(kind, "", item_text(self.catalog[item], title, self.words, form))
        return self._asked(kind, form, [item_token(item)], [title])

    def about_history(self, kind: str, history: Sequence[int], form: int) -> Document:
        """A document of kind "histories", "recovery" or "residual".

        Args:
            kind: which.
            history: item ids, newest last; at least two for "residual".
            form: which paraphrase.
        """
        titles = [self.titles[item] for item in history]
        if kind == "histories":
            return Document(kind, "", history_text(titles, self.words, form))
        tokens = [item_token(item) for item in history]
        if kind == "recovery":
            return self._asked(kind, form, ["".join(tokens)], titles)
        return self._asked(kind, form, ["".join(tokens[:-1]), "".join(tokens)], titles[-1:])

    def _asked(self, kind: str, form: int, shown: list[str], titles: list[str]) -> Document:
        prompt = _TASKS[kind][form % len(_TASKS[kind])]
        return Document(
            kind, question(prompt, self.words, shown), " " + answer(prompt, self.words, titles)
        )


def _least(kind: str) -> int:
    """Items that a history of this kind needs."""
    return 2 if kind == "residual" else 1
