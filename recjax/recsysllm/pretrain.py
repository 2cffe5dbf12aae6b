"""Training data of RecSysLLM: blanks that respect entities, in texts and after tasks' questions.

Three switches make RecSysLLM's data (Chu et al. 2023, "Training Phase", Figure 1) of GLM's, each
alone:

| switch | the paper's | on | off, as in GLM |
|---|---|---|---|
| `entities.whole` | Mask Mechanism | an entity is blanked whole, or not | blanks begin anywhere |
| `blanks.shuffle` off | Span Order | blanks are written in the text's order | in random order |
| `entities.positions` | Positional Encoding | inner positions count in entities | 0, 1, 2, ... |

Spans are drawn over units, of which the paper says nothing: an entity is one unit, any other token
is one too. So the share of a text that is blanked, the length of a span and the 50 to 100 % of a
long one are counted in units. No entity ends a sentence, whatever marks it holds.

Letters: B passages, n their tokens, T row length, V vocabulary.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from recjax.data.ragged import row_numbers, row_positions, row_starts
from recjax.errors import InputError
from recjax.ranges import Checked
from recjax.recsysllm.blanks import BlankBatches, Blanked, construct
from recjax.recsysllm.entities import EntityPool
from recjax.recsysllm.passages import Passage, PieceEncoder
from recjax.recsysllm.spans import BlankConfig, Draws, Marks, Spans, sample_spans

OWN = 5  # of a passage with an answer: [CLS], the mask, the end, `<sop>` and `<eop>`


@dataclasses.dataclass(frozen=True)
class EntityConfig(Checked):
    """Section `entities`: switches; the third one is `blanks.shuffle`."""

    whole: bool = True  # an entity is blanked as a whole, or not at all
    positions: bool = True  # inner positions count inside entities


def sample_units(
    tokens: np.ndarray,
    lengths: np.ndarray,
    config: BlankConfig,
    marks: Marks,
    pool: EntityPool,
    *,
    seed: int,
    places: np.ndarray,
    ends: np.ndarray | None = None,
    length: int | None = None,
) -> Spans:
    """`spans.sample_spans` over units; an entity is one, and is never split.

    Args:
        pool: whose entities are found by their longest match (`EntityPool.read`).
        Others: as in `sample_spans`; `length` is in tokens.
    """
    inner = pool.read(tokens, lengths)
    begins = inner <= 1
    text = row_numbers(lengths)
    counts = np.bincount(text[begins], minlength=len(lengths))
    at = np.flatnonzero(begins)
    # A unit's first token stands for it; an entity's stands for no end of a sentence.
    units = tokens[at].copy()
    if ends is not None:
        units[inner[at] == 1] = len(ends)
        ends = np.append(ends, False)
    spans = sample_spans(
        units, counts, config, marks, seed=seed, places=places, ends=ends,
        room=None if length is None else (length - lengths) // 2,
    )  # fmt: skip
    edges = np.append(at, len(tokens))
    before, offset = row_starts(counts)[spans.text], row_starts(lengths)[spans.text]
    start, stop = (edges[before + place] - offset for place in (spans.start, spans.stop))
    return dataclasses.replace(spans, start=start, stop=stop)


@dataclasses.dataclass(frozen=True, eq=False)
class Blanking:
    """Makes rows of passages: their tokens, blanks and positions.

    Attributes:
        encoder: gives tokens.
        marks: the command tokens.
        blanks: how blanks are drawn.
        entities: the switches.
        pool: the entities; may be None where no switch is on.
        length: T; longer passages are cut, but no answer that holds an entity (`Names.pool` sees to
            it that names fit).
        ends: [V] bool of `blanks.sentence_ends`; needed where sentences are blanked.
        seed: of the draws.
    """

    encoder: PieceEncoder
    marks: Marks
    blanks: BlankConfig
    entities: EntityConfig
    pool: EntityPool | None
    length: int
    ends: np.ndarray | None = None
    seed: int = 0

    def __post_init__(self):
        if self.pool is None and (self.entities.whole or self.entities.positions):
            raise InputError("config.entities: whole or positions is on, but there is no entity")
        if self.blanks.block and self.marks.block < 0:
            raise InputError(
                f"config.blanks.block: {self.blanks.block}, but the tokenizer has no [dBLOCK]"
            )

    def __call__(self, passages: Sequence[Passage], numbers: np.ndarray) -> Blanked:
        """Passages with their blanks.

        Args:
            passages: B of them.
            numbers: [B] of each in its stream; with the seed they fix its blanks.

        Raises:
            InputError: an answer without tokens.
        """
        tokens, lengths, answers = self._tokens(passages)
        has_answer = answers >= 0
        free = np.flatnonzero(~has_answer)
        text = row_numbers(lengths)
        is_drawn = ~has_answer[text]
        sample = self._sample(tokens[is_drawn], lengths[free], numbers[free])
        blocked = None
        if self.blanks.block:
            level = np.full(len(lengths), -1)
            level[free] = sample.level
            draw = Draws(self.seed, numbers)(8, text, row_positions(lengths))
            blocked = (draw < self.blanks.block) & (level[text] == 0)
        spans = self._merged(sample, free, has_answer, answers, lengths, passages)
        pool = self.pool if self.entities.positions else None
        return construct(tokens, lengths, spans, self.marks, blocked=blocked, pool=pool)

    def questions(self, passages: Sequence[Passage]) -> list[np.ndarray]:
        """The read part of passages with answers: ids with a mask in the answer's place."""
        answered = [dataclasses.replace(p, answer=p.answer or ()) for p in passages]
        tokens, lengths, answers = self._tokens(answered)
        rows = np.split(tokens, np.cumsum(lengths)[:-1])
        out = []
        for row, at, passage in zip(rows, answers, answered, strict=True):
            mask = self.marks.document if passage.long else self.marks.mask
            out.append(np.array([*row[:at], mask, self.marks.eos], np.int32))
        return out

    def _sample(self, tokens: np.ndarray, lengths: np.ndarray, numbers: np.ndarray) -> Spans:
        options: dict[str, Any] = {
            "seed": self.seed,
            "places": numbers,
            "ends": self.ends,
            "length": self.length,
        }
        if self.entities.whole and self.pool is not None:
            return sample_units(tokens, lengths, self.blanks, self.marks, self.pool, **options)
        return sample_spans(tokens, lengths, self.blanks, self.marks, **options)

    def _merged(
        self,
        sample: Spans,
        free: np.ndarray,
        given: np.ndarray,
        answers: np.ndarray,
        lengths: np.ndarray,
        passages: Sequence[Passage],
    ) -> Spans:
        """Drawn spans, and the answers': each all that stands between a question and the end."""
        fixed = np.flatnonzero(given)
        empty = fixed[answers[fixed] == lengths[fixed] - 1]
        if len(empty):
            raise InputError(
                f"passage {empty[0]} ({passages[empty[0]].kind}): its answer has no tokens; "
                "expected a text, or answer=None where blanks are drawn"
            )
        text = np.concatenate([free[sample.text], fixed])
        start = np.concatenate([sample.start, answers[fixed]])
        stop = np.concatenate([sample.stop, lengths[fixed] - 1])
        order = np.argsort(text, kind="stable")
        mask = np.array(
            [self.marks.document if p.long else self.marks.mask for p in passages], np.int64
        )
        opened, level = np.zeros(len(lengths), bool), np.zeros(len(lengths), np.int64)
        mask[free], opened[free], level[free] = sample.mask, sample.open, sample.level
        return Spans(text[order], start[order], stop[order], mask, opened, level)

    def _tokens(self, passages: Sequence[Passage]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tokens of all, lengths [B], and where each answer begins [B] (-1 = none is given).

        A passage without an answer loses its end where it is too long; one with an answer loses the
        beginning of its question. A piece that is an entity is kept or lost as a whole. An answer
        without an entity has half of the row, one with an entity what it needs.
        """
        cls, eos = self.marks.cls, self.marks.eos
        read = self.encoder([p.pieces for p in passages])
        answered = [p for p in passages if p.answer is not None]
        written = iter(self._answers(answered))
        limit = max(1, min(int(self.length / (1 + self.blanks.ratio)), self.length - 2) - 2)
        rows: list[int] = []
        lengths, answers = [], []
        begin = [] if cls < 0 else [cls]
        for passage, ids in zip(passages, read, strict=True):
            are_entities = [piece.entity for piece in passage.pieces]
            if passage.answer is None:
                row = [*begin, *_first(ids, are_entities, limit), eos]
                answers.append(-1)
            else:
                answer, _ = next(written)
                question = _last(ids, are_entities, self.length - OWN - len(answer))
                row = [*begin, *question, *answer, eos]
                answers.append(len(begin) + len(question))
            rows += row
            lengths.append(len(row))
        return np.array(rows, np.int32), np.array(lengths, np.int64), np.array(answers, np.int64)

    def _answers(self, passages: Sequence[Passage]) -> list[tuple[list[int], bool]]:
        """The tokens of passages' answers, and whether each has lost its end."""
        most, out = max(1, self.length // 2 - OWN), []
        # An answer begins a text, as the targets of GLM's and ChatGLM's own fine-tuning do.
        encoded = self.encoder([p.answer or () for p in passages])
        for passage, parts in zip(passages, encoded, strict=True):
            ids = [t for part in parts for t in part]
            cut = len(ids) > most and not any(piece.entity for piece in passage.answer or ())
            out.append((ids[:most] if cut else ids, cut))
        return out

    def share_cut(self, passages: Sequence[Passage]) -> float:
        """The share of the passages with an answer that lose a part of it or of their question."""
        asked = [p for p in passages if p.answer is not None]
        read = self.encoder([p.pieces for p in asked])
        shorter = [
            cut or sum(map(len, ids)) > self.length - OWN - len(answer)
            for ids, (answer, cut) in zip(read, self._answers(asked), strict=True)
        ]
        return sum(shorter) / max(1, len(shorter))


def _first(ids: Sequence[Sequence[int]], are_entities: Sequence[bool], limit: int) -> list[int]:
    """The first tokens of pieces, at most so many; an entity that does not fit ends them."""
    out: list[int] = []
    for part, entity in zip(ids, are_entities, strict=True):
        room = max(0, limit - len(out))
        if entity and len(part) > room:
            break
        out += part[:room]
    return out


def _last(ids: Sequence[Sequence[int]], are_entities: Sequence[bool], limit: int) -> list[int]:
    """The last tokens of pieces, as `_first` has the first ones."""
    backwards = [part[::-1] for part in reversed(ids)]
    return _first(backwards, are_entities[::-1], limit)[::-1]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class PassageBatches(BlankBatches[Passage]):
    """Training batches of passages, packed: a function of (seed, step)."""

    blanking: Blanking

    def blanked(self, documents: Sequence[Passage], places: np.ndarray, seed: int) -> Blanked:
        """See `BlankBatches`."""
        return dataclasses.replace(self.blanking, seed=seed)(documents, places)
