"""An interpreter's questions to a language model as tokens, with soft places, and the answers.

Letters: B examples in R rows, T tokens, Q of them in answers, S soft tokens a representation, P
tokens that all rows begin with.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np

from recjax.data.pipeline import grow_rows
from recjax.errors import InputError
from recjax.ranges import Amount, Checked, FieldError, Range
from recjax.text.prompts import (
    Prompt,
    PromptTable,
    Words,
    answer,
    listed,
    question,
    read_prompts,
)
from recjax.text.tasks import PROMPTS, RECOVERY, RESIDUAL, TASKS, Task
from recjax.text.token_batches import NO_LABEL
from recjax.text.tokenizers import Tokenizer

_MULTIPLE = 8  # of rows' lengths: a program serves several batches


@dataclasses.dataclass(frozen=True)
class AskConfig(Checked):
    """The tasks, and their shares in training."""

    domain: str = "movie"  # the words
    prompts: str = ""  # a file that adds domains and prompts; see `recjax.text.prompts`
    window: Annotated[int, Range(2, 1000)] = 10  # items of a history, at most (section 4.1.2)
    residual: Amount = 1.0  # share of training steps that ask what was added (section 3.2)
    recovery: Amount = 0.0  # share that ask for the whole history (section 3.1)
    residual_tokens: Annotated[int, Range(1, 10_000)] = RESIDUAL.tokens  # longest answer
    recovery_tokens: Annotated[int, Range(1, 10_000)] = RECOVERY.tokens

    def __post_init__(self):
        super().__post_init__()
        if not self.residual + self.recovery:
            raise FieldError(RESIDUAL.name, f"this or {RECOVERY}: expected more than 0")

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks that are trained, in the order of the fields."""
        names = (field.name for field in dataclasses.fields(self))
        return tuple(TASKS[name] for name in names if name in TASKS and getattr(self, name))

    def share(self, task: Task) -> float:
        """A task's share of the training steps; shares need not add up to 1."""
        return getattr(self, task.name)

    def check_trained(self, task: Task) -> None:
        """Raises `InputError` for a task that was not trained: its answers would mean nothing."""
        if task not in self.tasks:
            trained = " and ".join(map(str, self.tasks))
            raise InputError(f"{task}: the adapter was trained for {trained} alone (config.ask)")

    def settled(self) -> "AskConfig":
        """This config with the absolute path of its prompts."""
        prompts = str(Path(self.prompts).absolute()) if self.prompts else ""
        return dataclasses.replace(self, prompts=prompts)

    def longest(self, task: Task) -> int:
        """The most tokens of an answer."""
        return {RESIDUAL: self.residual_tokens, RECOVERY: self.recovery_tokens}[task]


@dataclasses.dataclass(frozen=True)
class Question:
    """A question's tokens.

    Attributes:
        ids: with `pad_id` at soft places.
        is_soft: as many flags.
    """

    ids: list[int]
    is_soft: list[bool]

    @property
    def before(self) -> int:
        """P: the number of tokens before the first soft one; the same for all examples."""
        return self.is_soft.index(True)


class Questions:
    """The questions of a table in a model's tokens.

    Args:
        config: domain, prompts, lengths of answers.
        tokenizer: of the language model.
        soft: S.
        max_length: what the language model has been trained on.

    Raises:
        InputError: an unknown domain, a malformed file, a question that leaves no room for an
            answer; and where an answer is asked for, one that is too long for the room.
    """

    def __init__(self, config: AskConfig, tokenizer: Tokenizer, soft: int, max_length: int):
        # Kept with what is saved, which may be opened elsewhere.
        self.config = config.settled()
        self.tokenizer, self._soft = tokenizer, soft
        self._max_length = max_length
        self.table: PromptTable = read_prompts(config.prompts, PROMPTS)
        self.words: Words = self.table.of(config.domain, "config.ask.prompts")
        for task in config.tasks:
            for form in range(self.forms(task)):
                used = len(self.question(task, form).ids)
                if used >= max_length:
                    raise InputError(
                        f"prompt {form} of {task} takes {used} tokens; the language model reads "
                        f"{max_length}"
                    )

    def prompt(self, task: Task, form: int) -> Prompt:
        """A prompt of the table."""
        return self.table.prompts[task.name][form]

    def forms(self, task: Task) -> int:
        """The number of a task's prompts."""
        return len(self.table.prompts[task.name])

    @functools.lru_cache(maxsize=64)  # noqa: B019 - as long-lived as its questions
    def question(self, task: Task, form: int = 0) -> Question:
        """The tokens of a question."""
        tokenizer = self.tokenizer
        text = question(self.prompt(task, form), self.words)
        ids, is_soft = tokenizer.encode_with_soft(text, soft=self._soft)
        begin = tokenizer.begin
        return Question([*begin, *ids], [*[False] * len(begin), *is_soft])

    def answers(self, task: Task, form: int, titles: Sequence[Sequence[str]]) -> list[list[int]]:
        """The tokens of answers about titles, with the end; cut at the longest answer.

        Raises:
            InputError: a question and an answer that are longer together than what the model reads.
        """
        rows = [row[: self.config.longest(task)] for row in self._whole(task, form, titles)]
        used = len(self.question(task, form).ids)
        longest = max(range(len(rows)), key=lambda number: len(rows[number]))
        if used + len(rows[longest]) > self._max_length:
            raise InputError(
                f"prompt {form} of {task} takes {used} tokens and its answer about "
                f"'{listed(titles[longest])[:80]}' {len(rows[longest])}; the language model reads "
                f"{self._max_length} (config.ask.{task}_tokens cuts answers)"
            )
        return rows

    def _whole(self, task: Task, form: int, titles: Sequence[Sequence[str]]) -> list[list[int]]:
        """`answers` of any length."""
        prompt = self.prompt(task, form)
        texts = [" " + answer(prompt, self.words, names) for names in titles]
        return self.tokenizer.encode_batch(
            texts, eos=self.tokenizer.eos_id is not None, start=False
        )

    def cut(self, task: Task, titles: Sequence[Sequence[str]]) -> str:
        """A sentence about the answers that `answers` cuts behind some prompt, or "" for none."""
        forms = range(self.forms(task))
        sizes = np.array([[len(ids) for ids in self._whole(task, k, titles)] for k in forms])
        longest, most = sizes.max(axis=0), self.config.longest(task)
        long = np.flatnonzero(longest > most)
        if not len(long):
            return ""
        return (
            f"config.ask.{task}_tokens={most} cuts {len(long):,} of {len(titles):,} answers, such "
            f"as that about '{listed(titles[long[0]])[:80]}': the rest is never learned, nor "
            f"named; the longest answer has {longest.max()} tokens"
        )

    def lay_out(
        self,
        task: Task,
        form: int,
        titles: Sequence[Sequence[str]],
        *,
        pairs: bool = False,
        width: int = 0,
    ) -> tuple[list[int], np.ndarray, dict[str, np.ndarray]]:
        """A training batch: what all rows begin with, and the rest of each row.

        Args:
            task, form: the question.
            titles: of B examples.
            pairs: a short example and a long one in each of R = B / 2 rows, which leaves little to
                pad; else R = B.
            width: T where it is enough, a multiple of 8; above it, T grows in large strides.

        Returns:
            The first P tokens; [R 1] or [R 2] which examples are in each row; and arrays of what
            follows the first tokens. [R T]: `tokens`, `is_soft`, `segments` (1, 2: the example's
            place in its row, 0: padding), `positions` in the example. [R Q]: `labels`, the tokens
            of the row's answers, and `places`, which T each is predicted at. [R S]: `learned`, the
            places T of the soft tokens. T is a multiple of 8.
        """
        asked = self.question(task, form)
        start = asked.before
        rest, soft = asked.ids[start:], asked.is_soft[start:]
        answers = self.answers(task, form, titles)
        sizes = np.array([len(rest) + len(ids) for ids in answers])
        order = np.arange(len(answers))[:, None]
        if pairs:
            short, long = np.split(np.argsort(sizes, kind="stable"), 2)
            order = np.stack([short, long[::-1]], axis=1)
        longest = int(sizes[order].sum(axis=1).max())
        shape = (len(order), grow_rows(width, longest, _MULTIPLE))
        tokens = np.full(shape, self.tokenizer.pad_id, np.int32)
        is_soft, (segments, positions) = np.zeros(shape, bool), np.zeros((2, *shape), np.int32)
        shape = (shape[0], shape[1] - order.shape[1] * len(rest))
        labels, places = np.full(shape, NO_LABEL, np.int32), np.zeros(shape, np.int32)
        for row, members in enumerate(order):
            end = labelled = 0
            for number, ids in enumerate((answers[k] for k in members), start=1):
                begin, question_end, first = end, end + len(rest), labelled
                end, labelled = question_end + len(ids), labelled + len(ids)
                tokens[row, begin:end] = [*rest, *ids]
                is_soft[row, begin:question_end] = soft
                segments[row, begin:end] = number
                positions[row, begin:end] = start + np.arange(end - begin)
                labels[row, first:labelled] = ids
                places[row, first:labelled] = np.arange(question_end, end) - 1
        return asked.ids[:start], order, {
            "tokens": tokens, "is_soft": is_soft, "segments": segments, "positions": positions,
            "labels": labels, "places": places,
            "learned": np.nonzero(is_soft)[1].reshape(len(order), -1).astype(np.int32),
        }  # fmt: skip
