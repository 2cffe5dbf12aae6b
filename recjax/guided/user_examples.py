"""Users at points of their history: what a model is asked, and the items that follow.

    examples = UserExamples(config, store, aspects, items, tokenizer)
    examples.at("test")                     # one example a user
    examples(step, count)                   # training batches; batch = f(seed, step)

A user's last `targets` items are the test's, those before them the validation's. Training cuts
before them, at one of the last 5 `targets` places where as many targets are left: no item of
validation or test is ever a target of training.

Letters: B users, T tokens, C targets, H items of a history, A aspects.
"""

import dataclasses
import functools
from typing import Annotated, Literal

import numpy as np

from recjax.data.epochs import Epochs
from recjax.data.pipeline import step_size
from recjax.data.store import Store
from recjax.errors import InputError
from recjax.guided.aspects import AspectSet
from recjax.guided.prompts import Question, question, user_text
from recjax.guided.score_files import Scores
from recjax.guided.scoring import question_ids
from recjax.ranges import Checked, Range
from recjax.text.chat import Form, has_template
from recjax.text.tokenizers import Tokenizer

Batch = dict[str, np.ndarray]
_STRIDE = 16  # T is a multiple


@dataclasses.dataclass(frozen=True)
class UserConfig(Checked):
    """Section `users`: a user's prompt, and the items that follow it."""

    history: Annotated[int, Range(1, 1000)] = 14  # H, the newest items that are told, at most
    targets: Annotated[int, Range(1, 1000)] = 10  # C, the next items
    liked: Annotated[float, Range(-1e6, 1e6)] = 4.0  # a rating from here on
    fields: tuple[str, ...] = ("title",)  # of an item's record
    # "history": the items, a line each; "profile": the mean scores of liked and of other items.
    told: Literal["history", "profile"] = "history"
    instructions: bool = True  # the system part: the aspects and the answer's form


def profile_text(aspects: AspectSet, scores: np.ndarray, liked: np.ndarray) -> str:
    """The mean scores of a history's liked and of its other items, a line an aspect.

    Args:
        aspects: A.
        scores: [H A] of the items.
        liked: [H] bool.
    """
    lines = []
    for place, name in enumerate(aspects.names):
        parts = []
        for word, chosen in (("liked", liked), ("others", ~liked)):
            if chosen.any():
                parts.append(f"{word} {scores[chosen, place].mean():.1f}")
        lines.append(f"{name}: {', '.join(parts)}")
    return "\n".join(lines)


@dataclasses.dataclass(frozen=True, eq=False)
class UserExamples:
    """Examples of a data set's users.

    Attributes:
        config: what is told.
        store: the data.
        aspects: A of them.
        items: their scores of the items.
        tokenizer: of the model.
        seed: of the training's order and cuts.
        batch_size: B.
        context: most tokens of a prompt.
        multiple: of a step's users.
        process: this process, and how many there are; each makes its part of a step.
    """

    config: UserConfig
    store: Store
    aspects: AspectSet
    items: Scores
    tokenizer: Tokenizer
    seed: int = 0
    batch_size: int = 16
    context: int = 4096
    multiple: int = 1
    process: tuple[int, int] = (0, 1)

    def __post_init__(self):
        if not len(self.users):
            raise InputError(
                f"config.users.targets: {self.config.targets}; no user has the "
                f"{3 * self.config.targets + 1} items that three times as many and one need"
            )

    @functools.cached_property
    def liked(self) -> np.ndarray:
        """[N] bool of the store's flat items; all where there are no ratings."""
        if self.store.ratings is None:
            return np.ones(len(self.store.items), bool)
        return np.asarray(self.store.ratings) >= self.config.liked

    @functools.cached_property
    def users(self) -> np.ndarray:
        """Users with one item or more before three times `targets`."""
        return np.flatnonzero(np.diff(self.store.offsets) > 3 * self.config.targets)

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which each user is asked once."""
        return max(1, -(-len(self.users) // self.per_step))

    @property
    def per_step(self) -> int:
        """B, or all users where they are fewer."""
        return step_size(self.batch_size, len(self.users), self.multiple)

    def asked(self, user: int, cut: int, told: int | None = None) -> Question:
        """The question about a user before the flat place `cut`, of `told` items at most."""
        told = self.config.history if told is None else told
        start = max(int(self.store.offsets[user]), cut - told)
        chosen, liked = self.store.items[start:cut], self.liked[start:cut]
        if self.config.told == "profile":
            text = profile_text(self.aspects, self.items.values[chosen], liked)
        else:
            given = self.store.ratings
            ratings = None if given is None else given[start:cut].tolist()
            records = [self.store.catalog[int(item)] for item in chosen]
            text = user_text(records, ratings, self.config.fields)
        if not self.config.instructions:
            return Question("", text)
        return question(self.aspects, "user", text)

    @functools.cached_property
    def _form(self) -> Form:
        return "chat" if has_template(self.tokenizer) else "text"

    def _ids(self, users: np.ndarray, cuts: np.ndarray) -> list[list[int]]:
        asked = [self.asked(int(u), int(c)) for u, c in zip(users, cuts, strict=True)]
        return question_ids(self.tokenizer, asked, self._form)

    def _fitting(self, user: int, cut: int, ids: list[int]) -> list[int]:
        """A prompt of at most T tokens: without the oldest items where it is longer."""
        for told in range(self.config.history - 1, 0, -1):
            if len(ids) <= self.length:
                break
            (ids,) = question_ids(self.tokenizer, [self.asked(user, cut, told)], self._form)
        return ids[-self.length :]

    @functools.cached_property
    def length(self) -> int:
        """T of the training prompts: the longest of all users' own, and some room."""
        longest = max(map(len, self._ids(self.users, self.cuts("validation"))))
        if longest > self.context:
            raise InputError(
                f"config.users.history: {self.config.history} items take {longest} tokens; the "
                f"model has room for {self.context} beside its answer; expected fewer"
            )
        return min(-(-longest * 9 // 8 // _STRIDE) * _STRIDE, self.context)

    def cuts(self, part: str) -> np.ndarray:
        """The flat place of each user's first target."""
        back = {"test": 1, "validation": 2}[part]
        return self.store.offsets[self.users + 1] - back * self.config.targets

    def _example(self, users: np.ndarray, cuts: np.ndarray) -> Batch:
        tokens = np.full((len(users), self.length), self.tokenizer.pad_id, np.int32)
        real = np.zeros(tokens.shape, bool)
        for row, ids in enumerate(self._ids(users, cuts)):
            prompt = self._fitting(int(users[row]), int(cuts[row]), ids)
            tokens[row, self.length - len(prompt) :] = prompt
            real[row, self.length - len(prompt) :] = True
        target_places = cuts[:, None] + np.arange(self.config.targets)
        history_places = cuts[:, None] - 1 - np.arange(self._longest)
        is_own = history_places >= self.store.offsets[users][:, None]
        history = np.where(is_own, self.store.items[np.maximum(history_places, 0)], 0)
        for row in history:  # an item that was met again is left out of a ranking once
            repeated = np.ones(len(row), bool)
            repeated[np.unique(row, return_index=True)[1]] = False
            row[repeated] = 0
        return {
            "tokens": tokens,
            "real": real,
            "targets": self.store.items[target_places].astype(np.int32),
            "liked": self.liked[target_places],
            "history": history.astype(np.int32),
            "users": users.astype(np.int32),
        }

    @functools.cached_property
    def _longest(self) -> int:
        return int(np.diff(self.store.offsets).max())

    def at(self, part: Literal["validation", "test"]) -> Batch:
        """Every user at the part's cut.

        Returns:
            `tokens` [U T] padded on the left, `real` [U T], `targets` [U C], `liked` [U C],
            `history` [U H'] all items before the cut, newest first, 0 fills up and stands where an
            item was met before, `users` [U].
        """
        return self.at_cuts(self.cuts(part))

    def at_cuts(self, cuts: np.ndarray) -> Batch:
        """`at`, of flat places [U] of your own, each `targets` or more before the user's end."""
        return self._example(self.users, cuts)

    def __call__(self, step: int, count: int = 1) -> Batch:
        """This process's part of steps step .. step + count - 1: the arrays of `at`, [K B ...]."""
        number, processes = self.process
        own = np.arange(self.per_step).reshape(processes, -1)[number]
        out = [self._drawn(s * self.per_step + own) for s in range(step, step + count)]
        return {name: np.stack([one[name] for one in out]) for name in out[0]}

    def _drawn(self, places: np.ndarray) -> Batch:
        chosen, cuts = self.users[self._epochs(places)], []
        for epoch, user in zip(places // len(self.users), chosen.tolist(), strict=True):
            low = int(self.store.offsets[user]) + 1
            high = int(self.store.offsets[user + 1]) - 3 * self.config.targets
            rng = np.random.default_rng([self.seed, int(epoch), user])
            cuts.append(int(rng.integers(max(low, high - 5 * self.config.targets), high + 1)))
        return self._example(chosen, np.array(cuts))

    @functools.cached_property
    def _epochs(self) -> Epochs:
        return Epochs(len(self.users), self.seed)
