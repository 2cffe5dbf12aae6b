"""Users, items and histories as text: what RecSysLLM learns without a task.

A passage about a user is a profile and a window of a history. The window is long, medium or short
(10, 30 and 60 % of the passages): it holds interactions of so many days before its newest one, or
without times of so many items. Of more than `most` items a random part in order counts, with the
newest one; of a short window the newest ones count.

A JSON file changes the words, a key for each sentence, and adds domains as `recjax.text.prompts`
reads them:

    {"words": {"song": {"past": "heard", "doing": "hearing", "item": "song", "items": "songs"}},
     "short": "Just now this user {past} {titles}.", "user": "Listener: {facts}.",
     "fact": "{column} {values}", "item": "{title} has {facts}."}

A sentence of profiles may name columns instead ("A {occupation} of {age}."); a profile without one
of them is an error.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from recjax.data.splits import Spans
from recjax.errors import InputError
from recjax.json_files import read_object
from recjax.ranges import Amount, Checked, Count, FieldError, Range, Size
from recjax.recsysllm.catalogue import Names
from recjax.recsysllm.passages import Passage, Piece, Pieces, Value, fill, joined, places
from recjax.text.prompts import PromptTable, Words, read_words
from recjax.text.textualize import facts_of

Term = Literal["long", "medium", "short"]
TERMS: tuple[Term, ...] = ("long", "medium", "short")
_DAY = 86_400
_SENTENCES: Mapping[str, str] = {
    "user": "About this user: {facts}.",
    "fact": "{column} {values}",
    "item": "The {item} {title} has {facts}.",
    "named": "The name of the {item} {title} is {name}.",
    "long": "Over a long time this user has {past} {titles}.",
    "medium": "In the last months this user has {past} {titles}.",
    "short": "Lately this user has {past} {titles}.",
}
_OWN: Mapping[str, frozenset[str]] = {
    "fact": frozenset({"column", "values"}),
    "item": frozenset({"title", "facts"}),
    "named": frozenset({"title", "name"}),
    **{term: frozenset({"titles"}) for term in TERMS},
}


@dataclasses.dataclass(frozen=True)
class BehaviourConfig(Checked):
    """Section `text` of RecSysLLM: behaviour, profiles and catalogue as text."""

    domain: str = "movie"  # the words
    sentences: str = ""  # a JSON file of other words; see above
    # Passages a training sequence; passages an item (its attributes).
    histories: Annotated[float, Range(0, 10_000)] = 1.0
    items: Annotated[float, Range(0, 10_000)] = 1.0
    # Shares of long, medium and short windows, relative to their sum.
    shares: tuple[Amount, Amount, Amount] = (0.1, 0.3, 0.6)
    days: tuple[Amount, Amount, Amount] = (730.0, 90.0, 7.0)  # their spans, where there are times
    spans: tuple[Count, Count, Count] = (1000, 50, 10)  # their spans in items, where there are none
    most: Size = 20  # items of a window that are told, at most
    facts: tuple[str, ...] = ()  # columns of items that are told; () = all short ones
    users: str = ""  # a table of users; "" = no profiles
    users_key: str = "user"  # its column of keys
    users_names: str = ""  # names of its columns, where it has no header
    users_separator: str = ""  # one character
    users_facts: tuple[str, ...] = ()  # columns of users that are told; () = all short ones

    def __post_init__(self):
        super().__post_init__()
        if not sum(self.shares) > 0:
            raise FieldError("shares", "expected one of long, medium and short above 0")
        for name in ("days", "spans"):
            for term, share, span in zip(TERMS, self.shares, getattr(self, name), strict=True):
                if share and not span:
                    raise FieldError(name, f"0 for {term} windows, which would be empty")


@dataclasses.dataclass(frozen=True)
class Sentences:
    """The words of a domain and its sentences, by their keys."""

    words: Words
    by_key: Mapping[str, str]

    @functools.cached_property
    def own(self) -> dict[str, str]:
        """The words by their names."""
        return dataclasses.asdict(self.words)

    def __call__(self, key: str, values: Mapping[str, Value], where: str = "") -> Pieces:
        """A sentence with its places filled."""
        return fill(self.by_key[key], {**self.own, **values}, where or f"sentence '{key}'")


def read_sentences(path: str, domain: str) -> Sentences:
    """The sentences of a config.

    Raises:
        InputError: naming the file and the key that is unknown or malformed; an unknown domain.
    """
    content = read_object(Path(path)) if path else {}
    words = read_words(content.pop("words", {}), path)
    table = PromptTable(words, {}).of(domain, "config.text.behaviour.sentences")
    known = frozenset(dataclasses.asdict(table))
    for key, text in content.items():
        if key not in _SENTENCES:
            names = ", ".join(["words", *_SENTENCES])
            raise InputError(f"{path}: unknown key '{key}'; expected one of {names}")
        if not isinstance(text, str) or set("{}") & set(_without_places(text)):
            raise InputError(f"{path}: {key}: expected a text with places such as {{facts}}")
        own = _OWN.get(key)
        unknown = sorted(places(text) - known - own) if own is not None else []
        if unknown:
            raise InputError(
                f"{path}: {key}: unknown place '{{{unknown[0]}}}'; expected "
                f"{', '.join(sorted((own or frozenset()) | known))}"
            )
        needed = own & {"titles", "title", "name", "values"} if own else frozenset()
        if not needed <= places(text):
            raise InputError(f"{path}: {key}: '{text}' lacks '{{{min(needed)}}}'")
    return Sentences(table, {**_SENTENCES, **content})


def _spoken(column: str) -> str:
    """A column's name as words: "user_age" and the path "user.age" are "user age"."""
    return column.replace("_", " ").replace(".", " ")


def _without_places(text: str) -> str:
    for place in places(text):
        text = text.replace(f"{{{place}}}", "")
    return text


@dataclasses.dataclass(frozen=True, eq=False)
class Behaviour:
    """Text about a data set's users and items; passage = f(seed, place).

    Attributes:
        config: how.
        names: the items' titles.
        catalog: `store.catalog`.
        items: the store's flat item ids.
        timestamps: [N] seconds, or None.
        spans: runs that may be read.
        profiles: records by user number.
        seed: of all draws.
        named: titles are tokens of their own, whose names passages about items tell.
    """

    config: BehaviourConfig
    names: Names
    catalog: Sequence[Mapping[str, Any] | None]
    items: np.ndarray
    timestamps: np.ndarray | None
    spans: Spans
    profiles: Mapping[int, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    seed: int = 0
    named: bool = False

    @functools.cached_property
    def sentences(self) -> Sentences:
        """The words."""
        return read_sentences(self.config.sentences, self.config.domain)

    @functools.cached_property
    def _runs(self) -> np.ndarray:
        return np.flatnonzero(self.spans.stops > self.spans.starts)

    @functools.cached_property
    def counts(self) -> tuple[int, int]:
        """Passages an epoch about users, and about items."""
        return (
            round(self.config.histories * len(self._runs)),
            round(self.config.items * (len(self.catalog) - 1)),
        )

    def __len__(self) -> int:
        return sum(self.counts)

    def __call__(self, place: int) -> Passage:
        """The passage at a place of the endless stream."""
        epoch, inside = divmod(place, len(self))
        order, runs, items = self._epoch(epoch)
        chosen = int(order[inside])
        rng = np.random.default_rng([self.seed, epoch, inside, 1])
        if chosen < self.counts[0]:
            return self.about_user(int(runs[chosen]), rng)
        return self.about_item(int(items[chosen - self.counts[0]]))

    @functools.lru_cache(maxsize=2)  # noqa: B019 - a batch spans at most two epochs
    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng([self.seed, epoch, 0])
        users, things = self.counts

        def drawn(pool: np.ndarray, count: int) -> np.ndarray:
            rounds = -(-count // max(1, len(pool)))
            return np.concatenate([*(rng.permutation(pool) for _ in range(rounds)), pool[:0]])

        runs = drawn(self._runs, users)
        items = drawn(np.arange(1, len(self.catalog)), things)
        return rng.permutation(users + things), runs, items

    def window(self, start: int, stop: int, term: Term, rng: np.random.Generator) -> np.ndarray:
        """Places of a window of the run `[start, stop)` that ends with it, oldest first.

        Raises:
            InputError: the run is empty.
        """
        if not start < stop:
            raise InputError(f"an empty {term} window: the history ({start}, {stop}) has no item")
        number = TERMS.index(term)
        if self.timestamps is None:
            start = max(start, stop - self.config.spans[number])
        else:
            newest = int(self.timestamps[stop - 1])
            least = newest - self.config.days[number] * _DAY
            start += int(np.searchsorted(self.timestamps[start:stop], least))
        window = np.arange(start, stop)
        limit = self.config.most
        if len(window) > limit:
            if term == "short":
                return window[-limit:]
            kept = rng.choice(len(window) - 1, limit - 1, replace=False)
            window = window[np.append(np.sort(kept), len(window) - 1)]
        return window

    def profile(self, user: int) -> Pieces:
        """The known facts of a user as a sentence; () where there are none."""
        record = self.profiles.get(user)
        if record is None:
            return ()
        facts = facts_of(record, self.config.users_facts)
        if not facts and "facts" in places(self.sentences.by_key["user"]):
            return ()
        return self._filled("user", facts, {}, f"the profile of user {user + 1}")

    def _filled(
        self,
        key: str,
        facts: Mapping[str, tuple[str, ...]],
        values: Mapping[str, Value],
        where: str,
    ) -> Pieces:
        """A sentence with a list of facts in the place of `{facts}`, or with columns by name."""
        text = self.sentences.by_key[key]
        fact_pieces = self._fact_list(facts) or (Piece("nothing more that is known"),)
        words = self.sentences.own
        out: list[Piece] = []
        parts = text.split("{facts}")
        for number, part in enumerate(parts):
            out += fact_pieces if number else []
            out += fill(part, {**facts, **words, **values}, where)
        return joined(out)

    def user_text(self, user: int) -> Pieces:
        """A user's facts without a sentence around them, for prompts; () if none is known."""
        return self._fact_list(facts_of(self.profiles.get(user, {}), self.config.users_facts))

    def _fact_list(self, facts: Mapping[str, tuple[str, ...]]) -> Pieces:
        out: list[Piece] = []
        for column, names in facts.items():
            out += [Piece(", ")] if out else []
            out += self.sentences("fact", {"column": _spoken(column), "values": names})
        return joined(out)

    def about_user(self, run: int, rng: np.random.Generator) -> Passage:
        """A profile, and a window that ends anywhere in a run."""
        start, end = int(self.spans.starts[run]), int(self.spans.stops[run])
        stop = int(rng.integers(start + 1, end + 1))
        return self.user_passage(int(self.spans.users[run]), start, stop, rng)

    def user_passage(self, user: int, start: int, stop: int, rng: np.random.Generator) -> Passage:
        """A profile, and a window that ends before `stop`."""
        shares = np.cumsum(self.config.shares)
        term = TERMS[int(np.searchsorted(shares / shares[-1], rng.random(), side="right"))]
        window = self.window(start, stop, term, rng)
        titles = tuple(self.names.titles[k] for k in self.items[window])
        pieces = self.sentences(term, {"titles": titles})
        profile = self.profile(user)
        if profile:
            pieces = joined([*profile, Piece(" "), *pieces])
        return Passage("histories", pieces, sources=tuple(window.tolist()))

    def about_item(self, item: int) -> Passage:
        """The known facts of an item as a sentence."""
        facts = facts_of(self.catalog[item] or {}, self.config.facts)
        title, where = self.names.titles[item], f"item {item}"
        pieces = self._filled("item", facts, {"title": (title,)}, where)
        if self.named:
            name_pieces = self.sentences("named", {"title": (title,), "name": title}, where)
            pieces = joined([*name_pieces, Piece(" "), *pieces])
        return Passage("items", pieces)
