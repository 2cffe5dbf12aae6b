"""A catalogue and its histories as text, as a stream of documents that trains a language model.

titles = item_titles(store.catalog, PROMPTS.of("movie"))        # [I], by item id

Titles are as the reader left them: MovieLens' "Matrix, The (1999)" is "The Matrix" with the year
apart. Text never has to be parsed back: what a text is about is known by item id. An item
without a title is "Untitled" and its words and id ("Untitled movie 267"), so no two are the same.

Where a question has the representation of a history, the document has a soft token: a blend of
vectors, one an item, that are learned along with the model and kept beside it. A model that has
learned to name what a blend is made of knows what to say of one vector, and an adapter of a few
hundred thousand parameters can steer it.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import numpy as np

from recjax.data.splits import Spans
from recjax.errors import InputError
from recjax.ranges import Amount, Checked, Few, Range, Share
from recjax.text.prompts import (
    REPRESENTATIONS,
    Prompt,
    PromptTable,
    Words,
    answer,
    listed,
    question,
    read_prompts,
)
from recjax.text.tokenizers import SOFT

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
class TextConfig(Checked):
    """What a language model of a catalogue reads, in documents an epoch."""

    domain: str = "movie"  # the words
    prompts: str = ""  # a file that adds domains and prompts; see `recjax.text.prompts`
    window: Annotated[int, Range(2, 1000)] = 10  # items of a history, at most; RecInterpreter's 10
    items: Annotated[float, Range(0, 10_000)] = 1.0  # documents an item: what is known of it
    # Documents an item: titles after their soft tokens, the item's first.
    naming: Annotated[float, Range(0, 10_000)] = 1.0
    names: Few = 8  # soft tokens in such a document
    listed: Share = 0.0  # share of them that stand for several items, all of which are named
    # Documents a training sequence: titles in a row.
    histories: Annotated[float, Range(0, 10_000)] = 1.0
    # Documents a training sequence: what a history has.
    recovery: Annotated[float, Range(0, 10_000)] = 1.0
    # Documents a training sequence: what one history has more.
    residual: Annotated[float, Range(0, 10_000)] = 2.0
    random: Share = 0.5  # share of recovery and residual documents about random items
    # Of soft tokens, at most; its deviation in units of the items' vectors (`language_model`).
    noise: Amount = 1.0

    @property
    def soft(self) -> bool:
        """Whether any document has soft tokens."""
        return self.naming + self.recovery + self.residual > 0


KINDS = ("items", "naming", "histories", "recovery", "residual")
# How fast older items fade in a blend: the weight of the k-th newest is decay^k. Drawn between
# these; the one that measures is in the middle. What lists a history can tell items of about one
# weight best; what is added has to be told from the difference, too, where nothing fades.
_DECAYS = {"naming": (0.0, 0.8), "recovery": (0.85, 1.0), "residual": (0.0, 1.0)}
_LISTED = 5  # items of a history that a naming document lists, at most


@dataclasses.dataclass(frozen=True)
class Blend:
    """What a soft token is made of: items, and their weights (of length 1 as a vector)."""

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
        kind: of `KINDS`.
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
        """What is not learned, `{soft}` for soft tokens."""
        return "".join(SOFT if t is None else t for t, learned in self.pieces if not learned)

    @property
    def text(self) -> str:
        """What is learned."""
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


@dataclasses.dataclass(frozen=True, eq=False)
class Documents:
    """The documents of a catalogue and of runs of interactions; document = f(seed, place).

    One shuffled epoch follows another. Each draws anew which paraphrase a document has, and which
    part of its run: up to `window` items that end anywhere in it.

    Answers name the items of a history from the newest on: it weighs most in its representation,
    so what is said first is what is known best.

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
            raise InputError(
                "config.text: no document; expected one of "
                f"{', '.join(KINDS)} above 0, and sequences where it needs them"
            )

    @functools.cached_property
    def titles(self) -> list[str]:
        """[I] titles by item id."""
        return item_titles(self.catalog, self.words)

    @functools.cached_property
    def table(self) -> PromptTable:
        """The prompts."""
        return read_prompts(self.config.prompts)

    @property
    def words(self) -> Words:
        return self.table.of(self.config.domain)

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
        return {k: round(getattr(self.config, k) * len(self._members[k])) for k in KINDS}

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
        if kind == "items":
            return self._of_item(member, form)
        if kind == "naming":
            others = self._random(rng, self.config.names - 1)
            return self._naming([member, *others], rng)
        start, stop = int(self.spans.starts[member]), int(self.spans.stops[member])
        least = _least(kind)
        size = int(rng.integers(least, min(self.config.window, stop - start) + 1))
        stop = int(rng.integers(start + size, stop + 1))
        history = self.items[stop - size : stop].tolist()
        if kind != "histories" and rng.random() < self.config.random:
            history = self._random(rng, int(rng.integers(least, self.config.window + 1)))
        decay = rng.uniform(*_DECAYS[kind]) if kind in _DECAYS else 0.0
        return self._of_history(kind, history, form, decay)

    def _random(self, rng: np.random.Generator, count: int) -> list[int]:
        """Different items, all alike likely."""
        known = len(self.catalog) - 1
        return (1 + rng.choice(known, min(count, known), replace=False)).tolist()

    def corpus(self) -> Iterator[str]:
        """Texts to train a tokenizer on: all titles and all words of prompts."""
        for item in range(1, len(self.catalog)):
            for form in range(len(_ITEMS)):
                yield self._of_item(item, form).text
        for prompt in (*self.table.recovery, *self.table.residual):
            yield from question(prompt, self.words).split(SOFT)
            yield answer(prompt, self.words, [])
        yield from (history_text([], self.words, form) for form in range(len(_HISTORIES)))

    def forms(self, kind: str) -> int:
        """Prompts of a kind; 0 where it has none."""
        return len(getattr(self.table, kind)) if kind in REPRESENTATIONS else 0

    def fixed(self, kind: str, member: int, form: int | None = None) -> Document:
        """A document for measuring: the newest window of a run.

        Args:
            kind: of `KINDS`.
            member: the item, or the run.
            form: which paraphrase; by the member's number where None.
        """
        form = member if form is None else form
        if kind == "items":
            return self._of_item(member, form)
        if kind == "naming":  # whether more would follow is not asked
            document = self._naming([member])
            return dataclasses.replace(document, pieces=(*document.pieces, ("", False)))
        start, stop = int(self.spans.starts[member]), int(self.spans.stops[member])
        start = max(start, stop - self.config.window)
        low, high = _DECAYS.get(kind, (0.0, 0.0))
        return self._of_history(kind, self.items[start:stop].tolist(), form, (low + high) / 2)

    def members(self, kind: str) -> np.ndarray:
        """What `fixed` can be asked of a kind: items, or runs that are long enough."""
        return self._members[kind]

    def _of_item(self, item: int, form: int) -> Document:
        text = item_text(self.catalog[item], self.titles[item], self.words, form)
        return Document("items", ((text, True),))

    def _naming(self, items: Sequence[int], rng: np.random.Generator | None = None) -> Document:
        """Titles, each after a soft token: the item's vector, or (half of those that train) that of
        a history which ends with it. After `listed` of them all of a short history is named, as in
        recovery but for the words around it.
        """
        pieces: list[tuple[str | None, bool]] = []
        blends = []
        for item in items:
            history, decay, listed = [item], 0.0, False
            if rng is not None:
                listed = self.config.listed > 0 and rng.random() < self.config.listed
            if rng is not None and (listed or rng.random() < 0.5):
                most = min(_LISTED, self.config.window) if listed else self.config.window
                older = self._random(rng, int(rng.integers(1, most)))
                history = [*(k for k in older if k != item), item]
                decay = rng.uniform(*_DECAYS["recovery" if listed else "naming"])
            named = history[::-1] if listed else [item]
            blends.append(blend(history, decay))
            pieces += [(None, False), ("".join(f" {self.titles[k]}," for k in named), True)]
        return Document("naming", tuple(pieces), tuple(blends))

    def _of_history(
        self, kind: str, history: Sequence[int], form: int, decay: float = 0.0
    ) -> Document:
        """A document of kind "histories", "recovery" or "residual"; the newest item is last."""
        titles = [self.titles[item] for item in history]
        if kind == "histories":
            return Document(kind, ((history_text(titles, self.words, form), True),))
        form, now = form % self.forms(kind), blend(history, decay)
        prompt = getattr(self.table, kind)[form]
        if kind == "recovery":
            document = asked(kind, prompt, self.words, titles[::-1], [now])
        else:
            before = blend(history[:-1], decay)
            document = asked(kind, prompt, self.words, titles[-1:], [before, now])
        return dataclasses.replace(document, form=form)


def _least(kind: str) -> int:
    """Items that a history of this kind needs."""
    return 2 if kind == "residual" else 1
