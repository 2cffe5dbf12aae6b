"""Samples of the five families of tasks; `recjax.recsysllm.mixture` mixes them.

Training reads the split's training part alone: of other interactions neither items, ratings nor
reviews. A passage's `sources` are the interactions that it tells of. Numbers of users and items are
drawn at random: they do not tell in which order anything came. Candidates and wrong items are drawn
evenly from the items that a user has not met in what may be read.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np

from recjax.config import nearest
from recjax.errors import InputError
from recjax.ranges import Amount, Checked, Count, FieldError, Range, Size
from recjax.recsysllm.passages import Passage, Piece, Value, fill
from recjax.recsysllm.prompts import LONG, PROMPTS, Family, TaskPrompt
from recjax.recsysllm.text import Behaviour

_LONGEST_REVIEW = 1200  # letters of a review that is read
_LEAST = 0.5  # the lowest of half stars


@dataclasses.dataclass(frozen=True)
class TasksConfig(Checked):
    """Section `tasks`: shares of the passages, relative to their sum."""

    text: Amount = 1.0  # about behaviour and items, with drawn blanks
    rating: Amount = 0.0
    sequential: Amount = 1.0
    explanation: Amount = 0.0
    review: Amount = 0.0
    direct: Amount = 0.0
    history: Size = 20  # items of a history in a prompt, at most: the newest
    rated: Count = 0  # earlier items that prompt 1-11 tells with their stars; 0 = it is not asked
    candidates: Annotated[int, Range(2, 1000)] = 20  # C, items to choose from; one is right
    reviews: str = ""  # a file of reviews (`recjax.data.reviews`); "" = none
    only: tuple[str, ...] = ()  # ids of prompts that are trained; () = all that are not held out

    def __post_init__(self):
        super().__post_init__()
        if not self.text + sum(self.shares.values()) > 0:
            raise FieldError("text", "expected text or a family of tasks above 0")
        for id in self.only:
            if id not in PROMPTS:
                raise FieldError("only", f"no prompt '{id}'; {nearest(id, PROMPTS)}")
            if PROMPTS[id].held_out:
                raise FieldError("only", f"prompt {id} is held out; expected ids that are trained")
            if "rated" in PROMPTS[id].fields and not self.rated:
                raise FieldError("rated", f"prompt {id} tells earlier ratings; expected 1 or more")

    @property
    def shares(self) -> dict[Family, float]:
        """By family."""
        return {
            "rating": self.rating,
            "sequential": self.sequential,
            "explanation": self.explanation,
            "review": self.review,
            "direct": self.direct,
        }


# What a field of a prompt needs of the data.
_NEEDS = {
    "star_rating": "ratings",
    "asked_rating": "ratings",
    "like_dislike": "ratings",
    "rated": "earlier ratings",
    "review_body": "reviews",
    "review_headline": "headlines",
    "feature": "explanations",
    "explanation": "explanations",
}


@dataclasses.dataclass(frozen=True, eq=False)
class ReviewTexts:
    """The users' reviews, by place in the store's flat `items`; see `recjax.data.reviews`.

    Attributes:
        bodies, headlines: [N], "" where there is none.
        reasons: [N] (feature, sentence), or None.
        names: of users, by number.
    """

    bodies: Sequence[str]
    headlines: Sequence[str]
    reasons: Sequence[tuple[str, str] | None]
    names: Mapping[int, str]


@dataclasses.dataclass(frozen=True, eq=False)
class Tasks:
    """Makes passages of tasks from the interactions of some runs.

    Attributes:
        config: the tasks.
        behaviour: text about the same data set, with its words, titles and profiles.
        ratings: [N], or None.
        offsets: [U+1] of the store.
        written: the reviews, or None.
        seed: of numbers and draws.
    """

    config: TasksConfig
    behaviour: Behaviour
    ratings: np.ndarray | None
    offsets: np.ndarray
    written: ReviewTexts | None = None
    seed: int = 0

    @functools.cached_property
    def _numbers(self) -> tuple[np.ndarray, np.ndarray]:
        """Random numbers of users and of items."""
        rng = np.random.default_rng([self.seed, 7])
        users, items = len(self.offsets) - 1, len(self.behaviour.names.titles)
        return 1 + rng.permutation(users), 1 + rng.permutation(items)

    def _has(self, need: str, places: np.ndarray) -> np.ndarray:
        """Whether each place has the data that a field needs: [n] bool."""
        if need == "ratings":
            return np.full(len(places), self.ratings is not None)
        if need == "earlier ratings":
            later = ~np.isin(places, self.offsets)  # than the user's first
            return later & (self.ratings is not None and self.config.rated > 0)
        if self.written is None:
            return np.zeros(len(places), bool)
        kinds: dict[str, Sequence[Any]] = {
            "reviews": self.written.bodies,
            "headlines": self.written.headlines,
            "explanations": self.written.reasons,
        }
        return np.array([bool(kinds[need][k]) for k in places.tolist()], bool)

    def able(self, prompt: TaskPrompt, places: np.ndarray) -> np.ndarray:
        """[n] bool, which interactions a prompt can be asked about."""
        needs = {_NEEDS[f] for f in prompt.fields if f in _NEEDS}
        out = np.ones(len(places), bool)
        for need in sorted(needs):
            out &= self._has(need, places)
        return out

    def trained(self, family: Family, places: np.ndarray) -> list[str]:
        """Ids of a family's prompts that are trained and can be asked about one of some places."""
        return [id for id in self._trained(family) if self.able(PROMPTS[id], places).any()]

    def _trained(self, family: Family) -> list[str]:
        prompts, only = [p for p in PROMPTS.values() if p.family == family], self.config.only
        return [p.id for p in prompts if not p.held_out and (not only or p.id in only)]

    def usable(self, family: Family, places: np.ndarray) -> list[str]:
        """Ids of a family's prompts that are trained and that the data have fields for.

        Args:
            family: of `FAMILIES`.
            places: interactions to ask about.

        Raises:
            InputError: naming the family and what the data lack; ratings that are no 1 to 5 stars.
        """
        if family == "rating" and self.ratings is not None and len(self.ratings):
            low, high = np.min(self.ratings), np.max(self.ratings)
            if low < _LEAST or high > 5:
                raise InputError(
                    f"config.text.tasks.rating: the data have ratings from {low:g} to {high:g}; "
                    "its prompts ask for 1 to 5 stars, and a 4 is liked: scale them before `recjax "
                    "prepare`"
                )
        ids = self._trained(family)
        if not ids:
            raise InputError(
                f"config.text.tasks.only: no prompt of {family}, whose share is above 0"
            )
        if not len(places):
            raise InputError(
                f"config.text.tasks.{family}: config.split leaves no interaction to ask about; "
                "expected users with longer histories"
            )
        usable = self.trained(family, places)
        if not usable:
            needs = {_NEEDS[f] for id in ids for f in PROMPTS[id].fields if f in _NEEDS}
            lacking = {need for need in needs if not self._has(need, places).any()}
            of_ratings = lacking <= {"ratings", "earlier ratings"}
            if "ratings" in lacking:
                lacking.discard("earlier ratings")
            where = "; config.text.tasks.reviews names a file of them"
            if self.written is not None:
                where = " (by the rule of recjax.text.reasons)" if "explanations" in lacking else ""
            raise InputError(
                f"config.text.tasks.{family}: the data have no {' and no '.join(sorted(lacking))}"
                f"{'' if of_ratings else where}"
            )
        return usable

    def passage(
        self, id: str, start: int, place: int, stop: int, rng: np.random.Generator
    ) -> Passage:
        """A prompt about an interaction.

        Args:
            id: of the prompt.
            start: where the user's run begins.
            place: the interaction.
            stop: where the run ends that may be read; candidates are none of its items.
            rng: of all draws.
        """
        prompt = PROMPTS[id]
        values = self._values(prompt, start, place, stop, rng)
        where = f"prompt {id}"
        pieces = fill(prompt.source, values, where)
        sources = {place}
        if "history" in prompt.fields:
            sources |= set(self._history(start, place).tolist())
        if "rated" in prompt.fields:
            sources |= set(self._rated(start, place))
        return Passage(
            prompt.family,
            (*pieces, Piece(" ")) if pieces[-1].entity else pieces,
            fill(prompt.target, values, where),
            bool(LONG & prompt.fields) and not prompt.target.startswith("{star"),
            id,
            tuple(sorted(sources)),
            tuple(str(name) for name in values.get("candidates", ())),
        )

    def question(self, id: str, history: Sequence[int], user: int | None) -> Passage:
        """A request for recommendations after any history, of a user of the data or of anybody.

        Args:
            id: of a prompt of the family "sequential" without candidates.
            history: item ids, newest last.
            user: number in the store, or None.
        """
        prompt, titles = PROMPTS[id], self.behaviour.names.titles
        known = f"user_{self._numbers[0][user]}" if user is not None else "a user"
        values: dict[str, Value] = {
            **self.behaviour.sentences.own,
            "user_id": known,
            "user_desc": (self.behaviour.user_text(user) if user is not None else ()) or known,
            "history": tuple(titles[k] for k in history[-self.config.history :]),
        }
        return Passage(prompt.family, fill(prompt.source, values, f"prompt {id}"), (), prompt=id)

    def _history(self, start: int, place: int) -> np.ndarray:
        return np.arange(max(start, place - self.config.history), place)

    def _rated(self, start: int, place: int) -> range:
        return range(max(start, place - self.config.rated), place)

    def unmet(
        self, start: int, stop: int, count: int, rng: np.random.Generator, where: str
    ) -> list[int]:
        """Items of distinct titles, none of them in `items[start:stop]`, drawn uniformly.

        Raises:
            InputError: beginning with `where`: there are not so many.
        """
        names = self.behaviour.names
        titles, known = names.titles, len(names.titles) - 1
        met = {titles[item] for item in self.behaviour.items[start:stop].tolist()}
        if len(names.distinct) - len(met) < count:
            of = f"{len(met)} of {len(names.distinct)}"
            raise InputError(f"{where}; a user has met {of} titles")
        out: list[int] = []
        while len(out) < count:
            for item in (1 + rng.integers(0, known, 2 * count)).tolist():
                if titles[item] not in met and len(out) < count:
                    met.add(titles[item])
                    out.append(item)
        return out

    def candidates(
        self, start: int, place: int, stop: int, rng: np.random.Generator
    ) -> tuple[list[int], int]:
        """C items in random order, and which of them is right."""
        target = int(self.behaviour.items[place])
        count = self.config.candidates
        where = f"config.text.tasks.candidates: {count}"
        others = self.unmet(start, max(stop, place + 1), count - 1, rng, where)
        right = int(rng.integers(len(others) + 1))
        return [*others[:right], target, *others[right:]], right

    def _values(
        self, prompt: TaskPrompt, start: int, place: int, stop: int, rng: np.random.Generator
    ) -> dict[str, Value]:
        behaviour, fields = self.behaviour, prompt.fields
        titles, item = behaviour.names.titles, int(behaviour.items[place])
        user = int(np.searchsorted(self.offsets, place, side="right")) - 1
        user_number, item_number = self._numbers
        values: dict[str, Value] = {
            **behaviour.sentences.own,
            "user_id": f"user_{user_number[user]}",
            "item_id": f"item_{item_number[item]}",
            "item_title": (titles[item],),
            "target_title": (titles[item],),
        }
        is_true = bool(rng.random() < 0.5)
        values["yes_no"] = "yes" if is_true else "no"
        if "user_desc" in fields:
            name = self.written.names.get(user) if self.written else None
            values["user_desc"] = behaviour.user_text(user) or name or str(values["user_id"])
        if self.ratings is not None:
            rating = float(self.ratings[place])
            values["star_rating"] = f"{rating:g}"
            values["like_dislike"] = "like" if rating >= 4 else "dislike"
            if "rated" in fields:
                stars: list[Piece] = []
                for k in self._rated(start, place):
                    stars += [Piece(",")] if stars else []
                    name = titles[int(behaviour.items[k])]
                    stars += [Piece(name, True), Piece(f" {float(self.ratings[k]):g}")]
                values["rated"] = tuple(stars)
            others = [r for r in range(1, 6) if r != round(rating)]
            values["asked_rating"] = f"{rating:g}" if is_true else str(rng.choice(others))
        if fields & {"asked_title", "asked_id"}:
            met = max(stop, place + 1)
            where = f"config.text.tasks: prompt {prompt.id} asks about an item that is unmet"
            asked_item = item if is_true else self.unmet(start, met, 1, rng, where)[0]
            values["asked_title"] = (titles[asked_item],)
            values["asked_id"] = f"item_{item_number[asked_item]}"
        if "history" in fields:
            history = behaviour.items[self._history(start, place)]
            values["history"] = tuple(titles[k] for k in history.tolist())
        if "candidates" in fields:
            chosen, _ = self.candidates(start, place, stop, rng)
            values["candidates"] = tuple(titles[k] for k in chosen)
        if self.written is not None:
            values["review_body"] = self.written.bodies[place][:_LONGEST_REVIEW]
            values["review_headline"] = self.written.headlines[place]
            feature, reason = self.written.reasons[place] or ("", "")
            values["feature"], values["explanation"] = feature, reason
        return values
