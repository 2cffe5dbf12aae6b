"""Reading states: questions to the language model, its answers, and the titles that they name."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import numpy as np

from recjax.errors import InputError
from recjax.generate.processors import Processor
from recjax.interpreter.bridge import Bridge
from recjax.nn.backend import platform
from recjax.scoring.forced import titles_between
from recjax.text.prompts import around
from recjax.text.tasks import Task
from recjax.text.titles import Named, TitleIndex, slot
from recjax.typing import Params

Decoding = Literal["greedy", "beam", "constrained"]
DECODINGS: tuple[Decoding, ...] = ("greedy", "beam", "constrained")
_BEAMS = 4
_SIZES = (1, 8, 64)  # rows at a time, beams counted: a few answers cost no more than they need
_LONG = 2048  # a list from which on a CPU reads more at a time: it takes half as long, but for a
_MANY = 512  # program that takes seconds more to compile
_ROOM = 1 << 30  # bytes for their keys and values


@dataclasses.dataclass(frozen=True)
class Answer:
    """The language model's answer about one example.

    Attributes:
        text: all of it.
        named: the titles in it, in order; a residual answer has one at most.
        strict: the items of the same title letter by letter, for each of `named`.
    """

    text: str
    named: tuple[Named, ...]
    strict: tuple[tuple[int, ...], ...]

    @property
    def items(self) -> frozenset[int]:
        """All items that are named; those of one title all count."""
        return frozenset(item for title in self.named for item in title.items)

    @property
    def strict_items(self) -> frozenset[int]:
        """All items that are named letter by letter."""
        return frozenset(item for items in self.strict for item in items)

    @property
    def known(self) -> bool:
        """Whether anything in the catalogue is named."""
        return bool(self.items)


class Reader:
    """Asks a language model about states.

    Args:
        bridge: adapter, language model and questions.
        params: of the adapter.
        titles: [I] of the catalogue, by item id; "" is no title.
    """

    def __init__(self, bridge: Bridge, params: Params, titles: Sequence[str]):
        self.bridge, self._params = bridge, params
        self.index = TitleIndex(titles)
        self._soft = jax.jit(bridge.soft)

    def read(
        self,
        states: Any,
        task: Task,
        *,
        decoding: Decoding = "greedy",
        form: int = 0,
        progress: Callable[[int], Any] = lambda n: None,
    ) -> list[Answer]:
        """Answers about states.

        Args:
            states: [B n L D], one for each of `task.backs`.
            task: what is asked.
            decoding: "greedy"; "beam" (4 beams); or "constrained", greedy among the titles of the
                catalogue in the words of the prompt's answer.
            form: which prompt of the table.
            progress: called with the number of answers that are done.

        Raises:
            InputError: another decoding, a task that the adapter was not trained for.
        """
        self.bridge.questions.config.check_trained(task)
        if decoding not in DECODINGS:
            raise InputError(f"no decoding '{decoding}'; expected {', '.join(DECODINGS)}")
        texts: list[str] = []
        size = self._size(len(states), task, form, decoding)
        for first in range(0, len(states), size):
            part = np.asarray(states[first : first + size])
            texts += self._texts(part, size, task, decoding, form)
            progress(len(part))
        before, after = self._around(task, form)
        return [self._answer(text, task, before, after) for text in texts]

    def _size(self, count: int, task: Task, form: int, decoding: Decoding) -> int:
        """Rows at a time. For a long list of states on a CPU: a multiple of 64, the last ones not
        much fewer, if the cache has room for them."""
        llm = self.bridge.llm
        if count < _LONG or decoding == "beam" or platform(*llm.params.values()) != "cpu":
            beams = _BEAMS if decoding == "beam" else 1
            sizes = [max(1, size // beams) for size in _SIZES]
            return llm.divisible(next((n for n in sizes if n >= count), sizes[-1]))
        asked, config = self.bridge.questions.question(task, form), llm.config
        slots = len(asked.ids) - asked.before + self.bridge.questions.config.longest(task)
        row = slots * config.layers * 2 * config.kv_heads * config.head_dim * 4
        usual = _SIZES[-1]
        limit = max(1, min(_MANY, _ROOM // row) // usual) * usual
        parts = -(-count // limit)
        return -(-count // (parts * usual)) * usual

    def _around(self, task: Task, form: int) -> tuple[str, str]:
        questions = self.bridge.questions
        return around(questions.prompt(task, form), questions.words)

    def _texts(
        self, states: np.ndarray, rows: int, task: Task, decoding: Decoding, form: int
    ) -> list[str]:
        questions, count = self.bridge.questions, len(states)
        # As many rows as ever: no program is compiled for the rest of a list.
        soft = self._soft(self._params, states[np.minimum(np.arange(rows), count - 1)])
        asked = questions.question(task, form)
        ids, is_soft = (np.tile(np.asarray(a), (rows, 1)) for a in (asked.ids, asked.is_soft))
        done = self.bridge.llm.generate(
            ids,
            soft=(is_soft, soft),
            max_new_tokens=questions.config.longest(task),
            beams=_BEAMS if decoding == "beam" else 1,
            processors=(self._constraint(task, form),) if decoding == "constrained" else (),
        )
        assert done.texts is not None
        return done.texts[:count]

    @functools.lru_cache(maxsize=8)  # noqa: B019 - as long-lived as its reader
    def _constraint(self, task: Task, form: int) -> Processor:
        """Only answers in the prompt's words, about titles of the catalogue."""
        before, after = self._around(task, form)
        titles = self.index.titles
        return titles_between(self.bridge.llm, titles, before, after, several=task.lists)

    def _answer(self, text: str, task: Task, before: str, after: str) -> Answer:
        inside = slot(text, before, after)
        if inside is None:
            return Answer(text, (), ())
        if task.lists:
            named = tuple(self.index.named(inside))
        else:
            named = (Named(inside, self.index.find(inside)),) if inside else ()
        return Answer(text, named, tuple(self.index.spelled(title.text) for title in named))
