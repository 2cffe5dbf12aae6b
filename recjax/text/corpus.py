"""A catalogue and its histories as a stream of documents that trains a language model.

documents = Documents(TextConfig(domain="movie"), store.catalog, store.items, split.train)
documents(0).text
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np

from recjax.data.splits import Spans
from recjax.errors import InputError
from recjax.ranges import Amount, Checked, Few, Range, Share
from recjax.text.documents import Document, asked, blend
from recjax.text.prompts import PromptTable, Words, answer, question, read_prompts
from recjax.text.tasks import PROMPTS, RECOVERY, RESIDUAL, TASKS, Task
from recjax.text.textualize import (
    HISTORY_FORMS,
    ITEM_FORMS,
    history_text,
    item_text,
    item_titles,
)
from recjax.text.tokenizers import SOFT

_LISTED = 5  # items of a history that a naming document lists, at most
# How fast older items fade in the blend of a naming document, between these.
_NAMED_DECAYS, _LISTED_DECAYS = (0.0, 0.8), RECOVERY.decays


@dataclasses.dataclass(frozen=True)
class TextConfig(Checked):
    """The texts of a catalogue's language model, in documents an epoch."""

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
    def rates(self) -> dict[str, float]:
        """Documents per item or per training sequence, by kind."""
        return {
            "items": self.items,
            "naming": self.naming,
            "histories": self.histories,
            RECOVERY.name: self.recovery,
            RESIDUAL.name: self.residual,
        }

    @property
    def soft(self) -> bool:
        """Whether any document has soft tokens."""
        return self.naming + self.recovery + self.residual > 0


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
        return read_prompts(self.config.prompts, PROMPTS)

    @property
    def words(self) -> Words:
        """Words of the domain."""
        return self.table.of(self.config.domain, "config.text.prompts")

    @functools.cached_property
    def _members(self) -> dict[str, np.ndarray]:
        """The items or the runs that each kind is about."""
        lengths = self.spans.stops - self.spans.starts
        items = np.arange(1, len(self.catalog))
        return {
            name: np.flatnonzero(lengths >= kind.least) if kind.least else items
            for name, kind in KINDS.items()
        }

    @functools.cached_property
    def counts(self) -> dict[str, int]:
        """Documents of each kind in an epoch."""
        return {k: round(rate * len(self._members[k])) for k, rate in self.config.rates.items()}

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
        kind, member = list(KINDS.values())[kinds[inside]], int(members[inside])
        rng = np.random.default_rng([self.seed, epoch, inside])
        form = int(rng.integers(1 << 16))
        return kind.make(self, member, form, rng)

    def random_items(self, rng: np.random.Generator, count: int) -> list[int]:
        """Distinct items, drawn uniformly."""
        known = len(self.catalog) - 1
        return (1 + rng.choice(known, min(count, known), replace=False)).tolist()

    def window(self, member: int, least: int, rng: np.random.Generator | None) -> list[int]:
        """`least` to `window` items of a run that end anywhere; without `rng` the newest ones."""
        start, stop = int(self.spans.starts[member]), int(self.spans.stops[member])
        if rng is None:
            return self.items[max(start, stop - self.config.window) : stop].tolist()
        size = int(rng.integers(least, min(self.config.window, stop - start) + 1))
        stop = int(rng.integers(start + size, stop + 1))
        return self.items[stop - size : stop].tolist()

    def corpus(self) -> Iterator[str]:
        """Texts to train a tokenizer on: all titles and all words of prompts."""
        for item in range(1, len(self.catalog)):
            for form in range(ITEM_FORMS):
                yield item_text(self.catalog[item], self.titles[item], self.words, form)
        for prompt in itertools.chain(*self.table.prompts.values()):
            yield from question(prompt, self.words).split(SOFT)
            yield answer(prompt, self.words, [])
        yield from (history_text([], self.words, form) for form in range(HISTORY_FORMS))

    def forms(self, kind: str) -> int:
        """Prompts of a kind; 0 where it has none."""
        return len(self.table.prompts.get(kind, ()))

    def fixed(self, kind: str, member: int, form: int | None = None) -> Document:
        """A document for measuring: the newest window of a run.

        Args:
            kind: of `KINDS`.
            member: the item, or the run.
            form: which paraphrase; by the member's number where None.
        """
        return KINDS[kind].make(self, member, member if form is None else form, None)

    def members(self, kind: str) -> np.ndarray:
        """The subjects of a kind for `fixed`: items, or runs that are long enough."""
        return self._members[kind]


class Kind(NamedTuple):
    """How documents of one kind are made.

    Attributes:
        least: items that a run needs; 0 where documents are about items, not runs.
        make: a document about an item or a run, in any paraphrase; without `rng` it measures.
    """

    least: int
    make: Callable[[Documents, int, int, np.random.Generator | None], Document]


def _item(
    documents: Documents, member: int, form: int, rng: np.random.Generator | None
) -> Document:
    """The known facts of an item as a sentence."""
    del rng
    title = documents.titles[member]
    text = item_text(documents.catalog[member], title, documents.words, form)
    return Document("items", ((text, True),))


def _naming(
    documents: Documents, member: int, form: int, rng: np.random.Generator | None
) -> Document:
    """Titles, each after a soft token for the item, or (half of those in training) for a history
    that ends with it. After a share of `config.listed` of the tokens, all items of a short history
    are named, as in an answer that lists.
    """
    del form
    config, titles = documents.config, documents.titles
    pieces: list[tuple[str | None, bool]] = []
    blends = []
    for item in (member, *(documents.random_items(rng, config.names - 1) if rng else ())):
        history, decay, several = [item], 0.0, False
        if rng is not None:
            several = config.listed > 0 and rng.random() < config.listed
        if rng is not None and (several or rng.random() < 0.5):
            most = min(_LISTED, config.window) if several else config.window
            older = documents.random_items(rng, int(rng.integers(1, most)))
            history = [*(k for k in older if k != item), item]
            decay = rng.uniform(*(_LISTED_DECAYS if several else _NAMED_DECAYS))
        blends.append(blend(history, decay))
        named = history[::-1] if several else [item]
        pieces += [(None, False), ("".join(f" {titles[k]}," for k in named), True)]
    if rng is None:  # whether more would follow is not asked
        pieces.append(("", False))
    return Document("naming", tuple(pieces), tuple(blends))


def _history(
    documents: Documents, member: int, form: int, rng: np.random.Generator | None
) -> Document:
    """Titles of a run in a row, the oldest first."""
    titles = [documents.titles[item] for item in documents.window(member, 1, rng)]
    return Document("histories", ((history_text(titles, documents.words, form), True),))


def _asked(
    task: Task, documents: Documents, member: int, form: int, rng: np.random.Generator | None
) -> Document:
    """A task's question and answer about a run, or about random items."""
    history, decay = documents.window(member, task.least, rng), sum(task.decays) / 2
    if rng is not None:
        if rng.random() < documents.config.random:
            size = int(rng.integers(task.least, documents.config.window + 1))
            history = documents.random_items(rng, size)
        decay = rng.uniform(*task.decays)
    prompts = documents.table.prompts[task.name]
    form %= len(prompts)
    titles = [documents.titles[item] for item in history[::-1]]
    blends = [blend(history[: len(history) - back], decay) for back in task.backs]
    wanted = titles if task.lists else titles[:1]
    document = asked(task.name, prompts[form], documents.words, wanted, blends)
    return dataclasses.replace(document, form=form)


# By name: a document's kind, and the field of `TextConfig` that says how many there are.
KINDS: dict[str, Kind] = {
    "items": Kind(0, _item),
    "naming": Kind(0, _naming),
    "histories": Kind(1, _history),
    **{task.name: Kind(task.least, functools.partial(_asked, task)) for task in TASKS.values()},
}
