"""GLM's pre-training data: texts with blanks, and behind each text its blanks written out.

Letters: B documents a batch, T row length in tokens, R packed rows.

A text has two parts. Part A is the text with a mask in place of each span, read in both directions.
Part B is the spans, one after the other, each begun by `<sop>` and ended by `<eop>`, written from
left to right. Each token has two positions: an outer one, that of its mask in part A, and an inner
one, 0 in part A and 1, 2, ... in each span. See GLM (Du et al. 2022, Figure 2 and section 2.1) and
THUDM/GLM, `blocklm_utils.py`; third_party says where we differ.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Protocol, cast

import numpy as np

from recjax.data.ragged import row_numbers, row_positions, row_starts
from recjax.errors import InputError
from recjax.recsysllm.spans import BlankConfig, Draws, Marks, Spans, sample_spans
from recjax.text.documents import Document
from recjax.text.token_batches import NO_LABEL, D, Encoded, TokenBatches
from recjax.text.tokenizers import Tokenizer

# A token with one of these ends a sentence; the last five are Chinese.
SENTENCE_ENDS = frozenset(".?!;:\n\u3002\uff1f\uff01\uff1b\u2026")


def sentence_ends(tokenizer: Tokenizer, vocab: int) -> np.ndarray:
    """[V] bool, the tokens whose text holds one of `SENTENCE_ENDS`."""
    texts = (tokenizer.decode([index], skip_special=False) for index in range(vocab))
    return np.fromiter((not SENTENCE_ENDS.isdisjoint(text) for text in texts), bool, vocab)


@dataclasses.dataclass(frozen=True, eq=False)
class Blanked(Encoded):
    """Texts with blanks, one after the other; `labels` is the token that each place predicts.

    Attributes:
        positions: [n 2] int32, outer and inner.
        targets: [n] int32, the labels also where nothing is learned; part A's own tokens there.
        sources: [B] tokens of each part A: the separator of GLM's attention mask.
    """

    positions: np.ndarray
    targets: np.ndarray
    sources: np.ndarray

    def fields(self) -> Mapping[str, tuple[np.ndarray, int]]:
        """For `lay_out`: `tokens`, `targets` (-100 = none), `positions` [R 2 T], `ar` [R T].

        `targets` is for `training.token_loss.label_loss`: the place itself predicts it. `ar`, with
        `segments`, is the argument of `nn.masks.make_mask`: 0 in part A, 1 in part B.
        """
        written = row_positions(self.lengths) >= np.repeat(self.sources, self.lengths)
        return {
            "tokens": (self.tokens, 0),
            "targets": (self.labels, NO_LABEL),
            "positions": (self.positions, 0),
            "ar": (written.astype(np.int32), 1),
        }


class InnerPositions(Protocol):
    """Knowledge of entities: see `entities.EntityPool`."""

    def read(self, tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Inner positions [n] of texts that stand whole."""

    def written(self, tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Inner positions [n] of spans, the first token of each being `<sop>`."""


def construct(
    tokens: np.ndarray,
    lengths: np.ndarray,
    spans: Spans,
    marks: Marks,
    *,
    blocked: np.ndarray | None = None,
    pool: InnerPositions | None = None,
) -> Blanked:
    """Part A and part B of texts whose blanks are known.

    Args:
        tokens: [n] of all texts, one after the other.
        lengths: [B] of each text.
        spans: the blanks.
        marks: the command tokens.
        blocked: [n] bool, tokens that a span reads as `[dBLOCK]`; its targets stay.
        pool: gives the inner positions; by default 0 in part A and 1, 2, ... in each span.
    """
    total, text = len(tokens), row_numbers(lengths)
    start, size = row_starts(lengths)[spans.text] + spans.start, spans.stop - spans.start
    # Part A: the tokens outside of spans, and a mask at the first place of each span.
    edge = np.zeros(total + 1, np.int64)
    edge[start + 1] += 1  # starts differ, and so do stops
    np.subtract.at(edge, start + size, 1)
    in_a = np.cumsum(edge)[:total] == 0
    source = tokens.copy()
    source[start] = spans.mask[spans.text]
    lengths_a = np.bincount(text[in_a], minlength=len(lengths))
    place_a = np.cumsum(in_a) - 1 - row_starts(lengths_a)[text]

    # Part B: a piece for each span, of `<sop>` and its tokens.
    width = size + 1 - spans.open[spans.text]
    piece, within = row_numbers(width), row_positions(width)
    lengths_b = np.bincount(spans.text, width, len(lengths)).astype(np.int64)
    offset = row_starts(lengths_a + lengths_b)
    slot_a = offset[text[in_a]] + place_a[in_a]
    # Pieces are grouped by text, so a text's pieces follow each other in the flat order too.
    text_b = spans.text[piece]
    slot_b = (offset + lengths_a)[text_b] + row_positions(lengths_b)

    from_text = start[piece] + within
    read = tokens[from_text - 1]
    if blocked is not None:
        read = np.where(blocked[from_text - 1], marks.block, read)
    read = np.where(within == 0, marks.sop, read)
    ends = within == size[piece]
    target = np.where(ends, marks.eop, tokens[np.minimum(from_text, total - 1)])
    # An open span is the end of a text as it stands; the first token of a text is never learned.
    learned = ~(spans.open[text_b] & (target == marks.cls))
    out = np.empty((4, len(slot_a) + len(slot_b)), np.int32)
    out[:, slot_a] = source[in_a], source[in_a], place_a[in_a], np.zeros_like(slot_a)
    out[:, slot_b] = read, target, place_a[start][piece], within + 1
    labels = np.full(out.shape[1], NO_LABEL, np.int32)
    labels[slot_b] = np.where(learned, target, NO_LABEL)
    if pool is not None:
        out[3, slot_a] = pool.read(source[in_a], lengths_a)
        out[3, slot_b] = pool.written(read, width)
    return Blanked(
        tokens=out[0],
        labels=labels,
        soft=np.zeros(out.shape[1], np.int32),
        lengths=lengths_a + lengths_b,
        blends=[],
        positions=np.ascontiguousarray(out[2:].T),
        targets=out[1],
        sources=lengths_a,
    )


def blank(
    encoded: Encoded,
    config: BlankConfig,
    marks: Marks,
    *,
    seed: int,
    places: np.ndarray,
    ends: np.ndarray | None = None,
    length: int | None = None,
    pool: InnerPositions | None = None,
) -> Blanked:
    """Texts as tokens (`token_batches.encode`), with blanks drawn; arguments as elsewhere."""
    tokens, lengths = encoded.tokens, encoded.lengths
    spans = sample_spans(
        tokens, lengths, config, marks, seed=seed, places=places, ends=ends, length=length
    )
    blocked = None
    if config.block:
        if marks.block < 0:
            raise InputError(
                f"config.blanks.block: {config.block}, but the tokenizer has no [dBLOCK]"
            )
        text = row_numbers(lengths)
        draw = Draws(seed, places)(8, text, row_positions(lengths))
        blocked = (draw < config.block) & (spans.level[text] == 0)
    return construct(tokens, lengths, spans, marks, blocked=blocked, pool=pool)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class BlankBatches(TokenBatches[D]):
    """Training batches of blank infilling: `TokenBatches` whose texts have blanks.

    A batch holds what `Blanked.fields` lists, and `segments` [R T]. A text is cut so that its
    blanks fit the row.

    Attributes:
        config: how blanks are drawn.
        marks: the command tokens.
        seed: of the blanks; those of a text depend on it and the text's place in the stream.
        ends: [V] bool of `sentence_ends`; needed where sentences are blanked.
        pool: gives the inner positions, as RecSysLLM has them; None for GLM's.
    """

    config: BlankConfig
    marks: Marks
    seed: int = 0
    ends: np.ndarray | None = None
    pool: InnerPositions | None = None

    def encoded(self, documents: Sequence[D]) -> Encoded:
        """Documents as `[CLS]`, their text and its end, cut, before blanks are drawn."""
        limit = min(int(self.length / (1 + self.config.ratio)), self.length - 2)
        plain = cast(Sequence[Document], documents)
        if any(document.blends for document in plain):
            raise ValueError("texts with soft tokens have no blanks")
        texts = ["".join(text or "" for text, _ in document.pieces) for document in plain]
        cls, eos = self.marks.cls, self.marks.eos
        begin = [] if cls < 0 else [cls]
        rows = [[*begin, *ids, eos][:limit] for ids in self.tokenizer.encode_batch(texts)]
        tokens = np.fromiter(itertools.chain.from_iterable(rows), np.int32)
        labels = np.where(tokens == cls, NO_LABEL, tokens)
        lengths = np.array([len(row) for row in rows], np.int64)
        return Encoded(tokens, labels, np.zeros_like(tokens), lengths, [])

    def blanked(self, documents: Sequence[D], places: np.ndarray, seed: int) -> Blanked:
        """Documents with blanks drawn.

        Args:
            documents: any.
            places: [B] of each in its stream.
            seed: of the blanks.
        """
        return blank(
            self.encoded(documents),
            self.config,
            self.marks,
            seed=seed,
            places=places,
            ends=self.ends,
            length=self.length,
            pool=self.pool,
        )

    def _encoded(self, step: int, process: int) -> Encoded:
        first = step * self.per_step + process * self._share
        places = range(first, first + self._share)
        return self.blanked([self.documents(p) for p in places], np.array(places), self.seed)
