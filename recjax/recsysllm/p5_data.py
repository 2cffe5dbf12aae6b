"""P5's data (Geng et al., RecSys 2022): items by number, and the two places where its data leak.

P5's item numbers are handed out in the order in which items first appear along the users'
sequences, the test items among them: neighbours in a sequence have neighbouring numbers, and a
model that reads digits can tell from a history's numbers which number comes next. And P5 draws the
reviews that it trains on at random from all times: those of test items are among them.

| key | value | what is trained on |
|---|---|---|
| `ids` | `random` | numbers tell nothing |
| | `train_order` | the same order, of the training part alone; all other items after them |
| | `p5_order` | P5's order: leaks the test |
| `reviews` | `held_out` | ratings and reviews of the training part |
| | `p5_random` | those of a random four fifths of all interactions: leaks the test |

The defaults leak nothing. Prompts, candidates and histories are those of `recjax.recsysllm.tasks`,
with a number wherever those have a title.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Literal

import numpy as np

from recjax.data.splits import Spans
from recjax.data.store import Store
from recjax.ranges import Amount, Checked, FieldError
from recjax.recsysllm.answers import AnswersConfig
from recjax.recsysllm.catalogue import Names
from recjax.recsysllm.dataset import Dataset
from recjax.recsysllm.mixed import Mixed
from recjax.recsysllm.mixture import FamilySamples, Mixture, mixture
from recjax.recsysllm.passages import Passage, PieceEncoder
from recjax.recsysllm.prompts import Family
from recjax.recsysllm.tasks import Tasks, TasksConfig
from recjax.recsysllm.text import BehaviourConfig
from recjax.text.sides import Sides
from recjax.text.tokenizers import Tokenizer
from recjax.training.ranking_run import make_split

Ids = Literal["random", "train_order", "p5_order"]
_REVIEWED: tuple[Family, ...] = ("rating", "explanation", "review")
_TRAINED = 0.8  # of all interactions, P5's share
_STRIDE = 64  # S is a multiple: few programs
_WORD = ("Ġ", "▁")  # what a token that begins a word begins with


@dataclasses.dataclass(frozen=True)
class P5TasksConfig(TasksConfig):
    """Section `text.tasks` of P5: the families alone."""

    text: Amount = 0.0

    def __post_init__(self):
        super().__post_init__()
        if self.text:
            raise FieldError("text", "P5 learns from tasks alone; expected 0")


@dataclasses.dataclass(frozen=True)
class P5Options(Checked):
    """Section `text` of P5."""

    behaviour: BehaviourConfig = dataclasses.field(default_factory=BehaviourConfig)
    tasks: P5TasksConfig = dataclasses.field(default_factory=P5TasksConfig)
    answers: AnswersConfig = dataclasses.field(default_factory=AnswersConfig)
    ids: Ids = "random"  # item numbers; "p5_order" leaks
    reviews: Literal["held_out", "p5_random"] = "held_out"  # "p5_random" leaks


def item_numbers(store: Store, train: Spans, ids: Ids, seed: int) -> np.ndarray:
    """The numbers 1 .. I - 1 of items [I]; see the module."""
    rng = np.random.default_rng([seed, 13])
    out = np.zeros(store.n_items, np.int64)
    if ids == "random":
        out[1:] = 1 + rng.permutation(store.n_items - 1)
        return out
    starts, stops = store.offsets[:-1], store.offsets[1:]
    if ids == "train_order":
        starts, stops = train.starts, train.stops
    order = rng.permutation(len(starts))
    runs = [store.items[starts[k] : stops[k]] for k in order]
    met, first = np.unique(np.concatenate(runs), return_index=True)
    known = met[np.argsort(first)]
    others = rng.permutation(np.setdiff1d(np.arange(1, store.n_items), known))
    out[np.concatenate([known, others])] = np.arange(1, store.n_items)
    return out


@dataclasses.dataclass(frozen=True, eq=False)
class P5Tasks(Tasks):
    """Tasks whose items have given numbers [I]."""

    items: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))

    @functools.cached_property
    def _numbers(self) -> tuple[np.ndarray, np.ndarray]:
        users = np.random.default_rng([self.seed, 7]).permutation(len(self.offsets) - 1)
        return 1 + users, self.items


@dataclasses.dataclass(frozen=True, eq=False)
class RandomReviews(FamilySamples):
    """A family asked about a random part of all interactions, whatever is tested: P5's leak."""

    @functools.cached_property
    def _all(self) -> tuple[np.ndarray, np.ndarray]:
        places, runs = super()._all
        rng = np.random.default_rng([self.tasks.seed, 17])
        kept = rng.random(len(places)) < _TRAINED
        return places[kept], runs[kept]


@dataclasses.dataclass(frozen=True, eq=False)
class P5Dataset(Dataset):
    """P5's training data.

    Attributes:
        ids, leaky: of `P5Options`; `leaky` where reviews are drawn from all.
        text, tasks, store, split, seed: see `Dataset`.
    """

    ids: Ids = "random"
    leaky: bool = False

    @functools.cached_property
    def numbers(self) -> np.ndarray:
        """The numbers of items [I]."""
        return item_numbers(self.store, self.split.train, self.ids, self.seed)

    @functools.cached_property
    def names(self) -> Names:
        """A number in each title's place."""
        return Names(["", *map(str, self.numbers[1:].tolist())])

    @functools.cached_property
    def asked(self) -> Tasks:
        """The maker of the tasks' passages."""
        return P5Tasks(
            self.tasks, self.behaviour, self.store.ratings, self.store.offsets, self._written,
            self.seed, self.numbers,
        )  # fmt: skip

    @functools.cached_property
    def stream(self) -> Mixture:
        """The training passages: of the training part, and of leaks that are asked for."""
        offsets = self.store.offsets
        everything = Spans(np.arange(self.store.n_users, dtype=np.int32), offsets[:-1], offsets[1:])

        def samples(tasks: Tasks, family: Family, spans: Spans) -> FamilySamples:
            if self.leaky and family in _REVIEWED:
                return RandomReviews(tasks, family, everything)
            return FamilySamples(tasks, family, spans)

        return mixture(self.asked, self.split.train, samples)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the data and of their numbers."""
        return f"{super().fingerprint} {self.ids}{' p5_random' if self.leaky else ''}"


class P5Source(Mixed):
    """P5's passages; `questions`, `held_out` and `corpus` are those of every mixture of tasks."""

    Options = P5Options  # type: ignore[assignment]
    options: P5Options  # type: ignore[assignment]

    @functools.cached_property
    def dataset(self) -> P5Dataset:
        """The data of the passages."""
        options = self.options
        return P5Dataset(
            options.behaviour, options.tasks, self.store, make_split(self.store, self.split_config),
            self.seed, ids=options.ids, leaky=options.reviews == "p5_random",
        )  # fmt: skip

    @property
    def answers(self) -> AnswersConfig:
        """How answers are written."""
        return self.options.answers


@dataclasses.dataclass(frozen=True, eq=False)
class Prompts:
    """Passages as rows of an encoder and a decoder.

    Attributes:
        tokenizer: of the model.
        length: S, tokens that are read, at most; longer prompts lose their beginning.
        answer: T, tokens of an answer with its end, at most.
        words: rows of the table of whole words; 0 = the model has none.
    """

    tokenizer: Tokenizer
    length: int
    answer: int
    words: int = 0

    @functools.cached_property
    def encoder(self) -> PieceEncoder:
        """Gives tokens of pieces."""
        return PieceEncoder(self.tokenizer)

    @property
    def _end(self) -> int:
        """The token that ends what is read and what is written."""
        (end,) = self.tokenizer.encode("", eos=True)
        return end

    @functools.cached_property
    def _begins(self) -> np.ndarray:
        """[V], which tokens begin a word."""
        names = (self.tokenizer.token(k) or "" for k in range(self.tokenizer.size))
        return np.array([name.startswith(_WORD) for name in names], bool)

    def whole_words(self, tokens: np.ndarray) -> np.ndarray:
        """The number of the word that each token [B S] is of, from 1; 0 at ends and padding."""
        begins = self._begins[tokens]
        begins[:, 0] = True
        special = (tokens == 0) | (tokens == self._end)
        numbers = np.minimum(np.cumsum(begins, axis=1), max(1, self.words - 1))
        return np.where(special, 0, numbers).astype(np.int32)

    def _asked(self, passages: Sequence[Passage]) -> list[np.ndarray]:
        """The prompts' ids, each with the end of a text."""
        return [
            np.array([*[t for part in parts for t in part][-(self.length - 1) :], self._end])
            for parts in self.encoder([p.pieces for p in passages])
        ]

    def read(self, passages: Sequence[Passage]) -> dict[str, np.ndarray]:
        """`encoder` [B S], 0 pads, each with the end of a text; `words` [B S] where there are."""
        rows = self._asked(passages)
        longest = -(-max(map(len, rows)) // _STRIDE) * _STRIDE
        out = np.zeros((len(rows), min(longest, self.length)), np.int32)
        for row, ids in zip(out, rows, strict=True):
            row[: len(ids)] = ids
        return {"encoder": out, **({"words": self.whole_words(out)} if self.words else {})}

    def sides(self, passages: Sequence[Passage]) -> list[Sides]:
        """Both sides of passages, for `recjax.text.sides`."""
        answers = self.encoder([p.answer or () for p in passages])  # texts that begin, as P5's
        written = [[*[t for part in p for t in part], self._end][: self.answer] for p in answers]
        read = self._asked(passages)
        words = [self.whole_words(ids[None])[0] if self.words else None for ids in read]
        return [Sides(*sides) for sides in zip(read, written, words, strict=True)]
