"""Answers of a model of blank infilling: ranked titles, chosen candidates, numbers, texts.

A question's blank is filled by beams that a trie of titles holds to the catalogue, with positions
that count inside entities while they are written. Candidates are ranked by the likelihood of each
as the answer: the mean over its tokens, as in `recjax.scoring.options`.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recjax.data.requests import Request
from recjax.data.splits import Split
from recjax.errors import InputError
from recjax.evaluation.lists import Recommendations
from recjax.generate.templates import Template, Trie
from recjax.llm import LanguageModel
from recjax.ranges import Checked, Few, Size
from recjax.recsysllm.catalogue import Names
from recjax.recsysllm.infill import Infiller
from recjax.recsysllm.passages import Passage
from recjax.recsysllm.pretrain import Blanking


@dataclasses.dataclass(frozen=True)
class AnswersConfig(Checked):
    """Section `answers`: how answers are written and measured."""

    beams: Few = 20
    batch_size: Size = 32  # questions at a time
    tokens: Size = 48  # of an answer that is a text, at most
    cutoffs: tuple[Size, ...] = (1, 5, 10)  # of lists that beams find, those up to `beams`
    dynamic: bool = True  # while an answer is written, inner positions count inside entities
    max_examples: Size = 1000  # questions of each prompt, at most
    free: Size = 100  # of them answered without the constraint, for the valid ratio

    @property
    def beam_cutoffs(self) -> tuple[int, ...]:
        """The cutoffs of lists that beams find, which are no longer than there are beams."""
        return tuple(k for k in self.cutoffs if k <= self.beams)


class ItemAnswers:
    """The items that answers name; each way of writing brings `_tokens` and `_beams`."""

    config: AnswersConfig
    names: Names

    @functools.cached_property
    def _tokens(self) -> list[list[int]]:
        """The tokens of each title."""
        raise NotImplementedError

    @functools.cached_property
    def _trie(self) -> Trie:
        return Trie(self._tokens)

    def _beams(
        self, passages: Sequence[Passage], trie: Trie | None, *, beams: int, **options: Any
    ) -> Iterator[list[tuple[list[int], float]]]:
        """The beams of each question: their tokens, without the end, and scores.

        Args:
            passages: questions.
            trie: titles that may be written; None = any text.
            beams: how many, at most.
            **options: `max_new_tokens` and `progress`. A beam that has not ended by then has no
                tokens.
        """
        raise NotImplementedError

    def titles(
        self,
        passages: Sequence[Passage],
        *,
        free: bool = False,
        among: Sequence[int] | None = None,
        beams: int | None = None,
        progress: Callable[[int], Any] = lambda n: None,
    ) -> list[list[tuple[list[int], float]]]:
        """For each question the titles found, best first: the items of each, and its score.

        Args:
            passages: questions.
            free: without the constraint; text that is no title has no items.
            among: items that may be found; None = all.
            beams: in place of the config's.
            progress: gets the number of questions of each batch that is done.
        """
        members, trie = self.names.members, self._trie
        allowed = None if among is None else set(among)
        if allowed is not None:
            trie = Trie([self._tokens[k] for k, items in enumerate(members) if allowed & {*items}])

        def named(tokens: list[int]) -> list[int]:
            items = [i for title in self._trie.find(tokens).tolist() for i in members[title]]
            return items if allowed is None else [i for i in items if i in allowed]

        written = self._beams(
            passages,
            None if free else trie,
            beams=min(beams or self.config.beams, 1 << 10),
            max_new_tokens=max(map(len, self._tokens)) + 1,
            progress=progress,
        )
        return [
            [(named(tokens), score) for tokens, score in lines if score > -np.inf]
            for lines in written
        ]


@dataclasses.dataclass(frozen=True, eq=False)
class Answerer(ItemAnswers):
    """Writes answers into blanks.

    Attributes:
        config: how.
        lm: the model with its parameters.
        blanking: makes ids of questions.
        names: the titles.
        prefix: see `Infiller`.
    """

    config: AnswersConfig
    lm: LanguageModel
    blanking: Blanking
    names: Names
    prefix: bool = False

    def _infiller(self, constraint: Template | None) -> Infiller:
        pool = self.blanking.pool if self.blanking.entities.positions else None
        return Infiller(
            self.lm, marks=self.blanking.marks, pool=pool, constraint=constraint,
            dynamic=self.config.dynamic, prefix=self.prefix,
        )  # fmt: skip

    @functools.cached_property
    def _tokens(self) -> list[list[int]]:
        return self.blanking.encoder.learn(self.names.distinct)

    @functools.cached_property
    def _titles(self) -> Infiller:
        return self._infiller(Template(self._trie))

    @functools.cached_property
    def _free(self) -> Infiller:
        return self._infiller(None)

    def _asked(
        self,
        passages: Sequence[Passage],
        infiller: Infiller,
        progress: Callable[[int], Any],
        **options: Any,
    ) -> Iterator[Any]:
        """Answers of a batch after the other, all of one number of rows that devices divide."""
        size = self.config.batch_size
        whole = self.lm.divisible(min(size, len(passages)))
        for first in range(0, len(passages), size):
            rows = self.blanking.questions(passages[first : first + size])
            filled = [*rows, *rows[:1] * (whole - len(rows))]
            yield len(rows), infiller([row.tolist() for row in filled], **options)
            progress(len(rows))

    def _beams(
        self, passages: Sequence[Passage], trie: Trie | None, *, beams: int, **options: Any
    ) -> Iterator[list[tuple[list[int], float]]]:
        if trie is None:
            infiller = self._free
        else:
            infiller = self._titles if trie is self._trie else self._infiller(Template(trie))
        for rows, written in self._asked(passages, infiller, beams=beams, **options):
            ends = np.where(written.valid, written.lengths, 0)
            for row in range(rows):
                yield [
                    (tokens[0, : ends[row, beam, 0]].tolist(), float(written.scores[row, beam]))
                    for beam, tokens in enumerate(written.tokens[row])
                ]

    def texts(
        self, passages: Sequence[Passage], progress: Callable[[int], Any] = lambda n: None
    ) -> list[str]:
        """The likeliest text of each answer, token by token."""
        out: list[str] = []
        options = {"max_new_tokens": self.config.tokens}
        for rows, written in self._asked(passages, self._free, progress, **options):
            for row in range(rows):
                tokens = written.tokens[row, 0, 0, : written.lengths[row, 0, 0]].tolist()
                out.append(" ".join(self.blanking.encoder.text(tokens).split()))
        return out


class ByBeams:
    """Answers of a run that writes items; stands before the run's other bases."""

    source: Any

    @property
    def split(self) -> Split:
        """Training runs, validation and test examples."""
        return self.source.dataset.split

    def tasks(self, name: str) -> Any:
        """Measures the answers to questions about one part's targets; None without tasks."""
        raise NotImplementedError

    def measurer(self, name: str) -> Any:
        """See `SavedRun.measurer`."""
        tasks = self.tasks(name)
        return super().measurer(name) if tasks is None else tasks  # type: ignore[misc]  # raises

    @property
    def lists(self) -> "TitleLists | None":
        """The maker of recommendations, where there is a prompt for it."""
        raise NotImplementedError

    def recommend(
        self,
        asked: Iterable[Any] | None = None,
        k: int = 10,
        *,
        filter_seen: bool = True,
        among: Iterable[Any] | None = None,
        step: int | None = None,
        params: Any = None,
        log: str | Path | None = None,
        skip_unknown: bool = False,
    ) -> Recommendations:
        """The k best items by beams; arguments as of `RecommenderRun.recommend`.

        Scores are log-probabilities of titles or numbers, the mean over their tokens. Items of one
        title have one score, and a list may be shorter than k where the beams found items that are
        left out.

        Raises:
            InputError: as there; a run that learns no sequential task.
        """
        run: Any = self
        if self.lists is None:
            return super().recommend()  # type: ignore[misc]  # raises
        request = run.request(asked, among, log=log, skip_unknown=skip_unknown)
        if params is None:
            params = run.restore(run.best_step() if step is None else step)
        parts = list(self.lists.stream(params, request, k, filter_seen=filter_seen))
        ids, scores = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        numbers = None if request.keys else request.names
        return Recommendations(ids, scores, run.store.catalog, request.keys, numbers)


@dataclasses.dataclass(frozen=True, eq=False)
class TitleLists:
    """Recommendations by beams; `stream` as of `recjax.evaluation.lists.TopLists`.

    Attributes:
        source: a `mixed.Mixed`, whose prompt `id` is asked.
        answerer: of parameters.
        id: of a prompt of the family "sequential" without candidates.
    """

    source: Any
    answerer: Any
    id: str

    def stream(
        self, params: Any, request: Request, k: int = 10, *, filter_seen: bool = True
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """`(ids [b k'], scores [b k'])` of one batch after another; see `TopLists.stream`.

        Items of one title have one score, and stand in the order of their ids. Lists may be shorter
        than k where beams found items that are left out; 0 and -inf fill them up.

        Raises:
            InputError: k below 1.
        """
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
            raise InputError(f"k: expected a whole number from 1, got {k!r}")
        return self._stream(params, request, int(k), filter_seen)

    def _stream(
        self, params: Any, request: Request, k: int, filter_seen: bool
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        answerer: Answerer = self.answerer(params)
        size, data = answerer.config.batch_size, self.source.dataset
        k = min(k, len(data.names.titles) - 1)
        among = None if request.allowed is None else np.flatnonzero(request.allowed).tolist()
        users = data.store.user_numbers
        for first in range(0, len(request), size):
            rows = range(first, min(first + size, len(request)))
            questions, excluded = [], []
            for row in rows:
                start, stop = int(request.spans.starts[row]), int(request.spans.stops[row])
                history = request.items[start:stop].tolist()
                user = None if request.users is None else users[request.users[row]]
                questions.append(data.asked.question(self.id, history, user))
                excluded.append(set(history) if filter_seen else set())
            beams = k + (answerer.config.beams if filter_seen else 0)
            titles = answerer.titles(
                questions, among=among, beams=max(beams, answerer.config.beams)
            )
            ids = np.zeros((len(questions), k), np.int32)
            scores = np.full((len(questions), k), -np.inf, np.float32)
            for row, (lines, row_excluded) in enumerate(zip(titles, excluded, strict=True)):
                listed = set(row_excluded)
                pairs = []
                for items, score in lines:
                    pairs += [(item, score) for item in items if item not in listed]
                    listed.update(items)
                for rank, (item, score) in enumerate(pairs[:k]):
                    ids[row, rank], scores[row, rank] = item, score
            yield ids, scores
