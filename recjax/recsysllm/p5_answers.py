"""P5's answers: numbers of items by beams, texts, and their loss (of blanks: `answers`)."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jax.sharding import NamedSharding

from recjax.errors import InputError
from recjax.evaluation.likelihood import LikelihoodConfig
from recjax.evaluation.shards import filled
from recjax.evaluation.sides import answer_scores
from recjax.generate.constrained import constrain
from recjax.generate.templates import Trie
from recjax.llm import LanguageModel
from recjax.recsysllm.answers import AnswersConfig, ItemAnswers
from recjax.recsysllm.catalogue import Names
from recjax.recsysllm.p5_data import Prompts
from recjax.recsysllm.passages import Passage, Piece
from recjax.recsysllm.scores import TaskEvaluator
from recjax.text.sides import Widths
from recjax.typing import Array, Params


@dataclasses.dataclass(frozen=True, eq=False)
class P5Answerer(ItemAnswers):
    """Writes answers; as `recjax.recsysllm.answers.Answerer` does with blanks.

    Attributes:
        config: how.
        lm: the model with its parameters.
        prompts: makes rows of questions.
        names: the numbers.
    """

    config: AnswersConfig
    lm: LanguageModel
    prompts: Prompts
    names: Names

    @functools.cached_property
    def _tokens(self) -> list[list[int]]:
        return self.prompts.encoder.learn(self.names.distinct)

    def _asked(
        self, passages: Sequence[Passage], progress: Callable[[int], Any], **options: Any
    ) -> Iterator[tuple[int, Any]]:
        """Answers of a batch after the other, all of one number of rows that devices divide."""
        size, read = self.config.batch_size, self.prompts.read(passages)
        whole = self.lm.divisible(min(size, len(passages)))
        starts = np.zeros((whole, 1), np.int32)
        for first in range(0, len(passages), size):
            part = {name: a[first : first + size] for name, a in read.items()}
            batch: dict[str, Any] = filled(part, whole)
            real = batch["encoder"] > 0
            generation = self.lm.generate(starts, encoder_mask=real, **batch, **options)
            yield len(part["encoder"]), generation
            progress(len(part["encoder"]))

    def _beams(
        self, passages: Sequence[Passage], trie: Trie | None, *, beams: int, **options: Any
    ) -> Iterator[list[tuple[list[int], float]]]:
        stop, size = self.lm.stop, self.lm.config.vocab_size
        options["processors"] = () if trie is None else (constrain(trie, stop, size),)
        for rows, written in self._asked(passages, beams=max(2, beams), **options):
            for row in range(rows):
                lines = []
                for beam, score in enumerate(written.scores[row].tolist()):
                    ids = written.tokens[row, beam, : written.lengths[row, beam]].tolist()
                    lines.append((ids[:-1] if ids and ids[-1] in stop else [], score))
                yield lines

    def texts(
        self, passages: Sequence[Passage], progress: Callable[[int], Any] = lambda n: None
    ) -> list[str]:
        """The likeliest text of each answer, token by token."""
        out: list[str] = []
        for rows, generation in self._asked(passages, progress, max_new_tokens=self.config.tokens):
            out += [" ".join(text.split()) for text in generation.texts[:rows]]
        return out


@dataclasses.dataclass(frozen=True, eq=False)
class AnswerLoss:
    """The loss of the answers to held-out questions, in nats a token: `NAME/text/loss`.

    Attributes:
        config: how many questions, and how.
        name: of the part.
        examples: the questions with their answers.
        prompts: makes tokens of them.
        widths, sharding: see `answer_scores`.
        read: its `predict`.
    """

    config: LikelihoodConfig
    name: str
    examples: Sequence[Passage]
    prompts: Prompts
    widths: Widths
    read: Callable[..., tuple[Array, Array]]
    sharding: NamedSharding | None = None

    @property
    def count(self) -> int:
        """How many examples there are."""
        return len(self.examples)

    @property
    def metric_names(self) -> list[str]:
        """The names that `run` gives."""
        return [f"{self.name}/text/loss"]

    def check(self) -> None:
        """Raises `InputError` where nothing is held out."""
        if not self.examples:
            raise InputError(f"config.text: no question is held out for the {self.name}")

    def scores(
        self,
        params: Params,
        passages: Sequence[Passage],
        progress: Callable[[int], Any] = lambda n: None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The loss of each answer in nats, and its tokens: [n] each."""
        pairs, size = self.prompts.sides(passages), self.config.batch_size
        loss, _, tokens = answer_scores(
            self.read, params, pairs, self.widths, size, self.sharding, progress
        )
        return loss, tokens

    def run(self, params: Params, progress: Callable[[int], Any] = lambda n: None) -> dict:
        """The metric by name."""
        self.check()
        loss, tokens = self.scores(params, self.examples, progress)
        return {f"{self.name}/text/loss": float(loss.sum(dtype=np.float64) / tokens.sum())}


@dataclasses.dataclass(frozen=True, eq=False)
class P5Evaluator(TaskEvaluator):
    """A `TaskEvaluator` that ranks candidates as the beams find them, which is P5's way."""

    by_beams = ("list", "choice")

    def answer_log_probs(
        self, answerer: Any, params: Any, passages: Sequence[Passage], answers: Sequence[str]
    ) -> np.ndarray:
        """See `TaskEvaluator`."""
        del answerer
        asked = [
            dataclasses.replace(passage, answer=(Piece(answer),))
            for passage in passages
            for answer in answers
        ]
        return -self.blanks.scores(params, asked)[0].reshape(len(passages), len(answers))

    def choices(self, answerer: Any, params: Any, passages: Sequence[Passage]) -> np.ndarray:
        """The rank of each right candidate among those that the beams find; infinite = none."""
        del params
        names, ranks = self.source.dataset.names, []
        for passage, lines in zip(passages, answerer.titles(passages), strict=True):
            right = (passage.answer or ())[0].text
            candidates = [names.items(option)[0] for option in passage.options]
            ranked = [k for items, _ in lines for k in items if k in candidates]
            target = names.items(right)[0]
            ranks.append(1 + ranked.index(target) if target in ranked else math.inf)
        return np.array(ranks, np.float64)
