"""Packed rows of tokens, as a pure function of (seed, step): the step number is all the state.

Letters: B documents a batch, T row length in tokens, R packed rows, K batches a call.

Several documents share a row. `segments` tells the model where one ends, `positions` begin at 0
with each, so packed and alone give the same result.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar, cast

import numpy as np

from recjax.data.pipeline import Batch, grow_rows, step_size
from recjax.data.ragged import row_numbers, row_positions
from recjax.data.sequences import Packing, deal, pack
from recjax.errors import InputError
from recjax.text.documents import Blend, Document
from recjax.text.tokenizers import Tokenizer

NO_LABEL = -100  # as in PyTorch and Transformers
_SAMPLE = 16  # batches from which the usual numbers of rows and labels are taken


@dataclasses.dataclass(frozen=True, eq=False)
class Encoded:
    """Documents as tokens, one after the other, each cut to the row length.

    Attributes:
        tokens: [n] int32.
        labels: [n] int32, the token where it is learned, else `NO_LABEL`.
        soft: [n] int32, which of the blends stands here, from 1 on; 0 for a token.
        lengths: tokens of each document.
        blends: of all documents, in order.
    """

    tokens: np.ndarray
    labels: np.ndarray
    soft: np.ndarray
    lengths: np.ndarray
    blends: list[Blend]

    def fields(self) -> Mapping[str, tuple[np.ndarray, int]]:
        """Arrays [n ...] that `lay_out` packs into rows, each with its value at padding."""
        return {
            "tokens": (self.tokens, 0),
            "labels": (self.labels, NO_LABEL),
            "positions": (row_positions(self.lengths), 0),
        }


def encode(documents: Sequence[Document], tokenizer: Tokenizer, length: int) -> Encoded:
    """Tokens of documents: `<s>`, the pieces, each going on after the one before, `</s>`.

    The end is learned where the last piece is.

    Args:
        documents: to encode.
        tokenizer: of the model.
        length: T.
    """
    pieces = [(text, k == 0) for d in documents for k, (text, _) in enumerate(d.pieces)]
    ids: list[list[int]] = [[tokenizer.pad_id] if text is None else [] for text, _ in pieces]
    for begins in (True, False):
        places = [k for k, (text, first) in enumerate(pieces) if text and first == begins]
        encoded = tokenizer.encode_batch([pieces[k][0] or "" for k in places], start=begins)
        for k, piece_ids in zip(places, encoded, strict=True):
            ids[k] = piece_ids
    bos, eos = tokenizer.encode("", bos=True), tokenizer.encode("", eos=True)
    blends = [blend for document in documents for blend in document.blends]
    tokens, labels, soft, lengths = [], [], [], []
    piece, first = 0, 1
    for document in documents:
        row, learned, places = [*bos], [False] * len(bos), [0] * len(bos)
        number = first
        for text, is_learned in document.pieces:
            piece_ids = ids[piece]
            row += piece_ids
            learned += [is_learned] * len(piece_ids)
            places += [number if text is None else 0] * len(piece_ids)
            number += text is None
            piece += 1
        row += eos
        learned += [document.pieces[-1][1]] * len(eos)
        places += [0] * len(eos)
        if number - first != len(document.blends):
            raise ValueError(f"{len(document.blends)} blends, expected {number - first}")
        first = number
        row, learned = row[:length], learned[:length]
        tokens += row
        labels += [t if on else NO_LABEL for t, on in zip(row, learned, strict=True)]
        soft += places[:length]
        lengths.append(len(row))
    return Encoded(
        np.asarray(tokens, np.int32),
        np.asarray(labels, np.int32),
        np.asarray(soft, np.int32),
        np.asarray(lengths, np.int64),
        blends,
    )


def _rows_needed(encoded: Encoded, length: int, shards: int) -> int:
    """Rows that documents are packed into, rounded up to as many a shard."""
    return -(-pack(encoded.lengths, length).rows // shards) * shards


def _dealt(encoded: Encoded, length: int, rows: int, shards: int) -> tuple[Packing, np.ndarray]:
    """Documents packed into rows, and the number of labels of each row [R].

    Rows are dealt to shards so that all have about as many labels. Rows of padding change no other
    row's shard.
    """
    packing = pack(encoded.lengths, length)
    row = packing.row[row_numbers(encoded.lengths)]
    labels = np.bincount(row, encoded.labels != NO_LABEL, rows).astype(int)
    if shards == 1:
        return packing, labels
    order = deal(labels, shards).reshape(-1)
    return dataclasses.replace(packing, row=np.argsort(order)[packing.row]), labels[order]


def lay_out(
    encoded: Encoded, length: int, rows: int, soft: int = 0, width: int = 0, shards: int = 1
) -> Batch:
    """Documents packed into rows.

    Args:
        encoded: of `encode` for the same length.
        length: T.
        rows: R, no fewer than are needed.
        soft: S, soft tokens a row, no fewer than are needed.
        width: W, items a blend, no fewer than are needed.
        shards: equal parts of the rows, which get about as many labels each; R is a multiple.

    Returns:
        All [R T] int32: those of `encoded.fields`, by default `tokens`, `labels` as
        `training.token_loss` takes them and `positions` within the document; `segments`, 1, 2, ...
        in each row and 0 at padding; `documents`, index of the document. With S > 0 also `is_soft`
        [R T] bool, and of each row's soft tokens in order `blend_items` [R S W] int32 and
        `blend_weights` [R S W] float32.
    """
    packing, _ = _dealt(encoded, length, rows, shards)
    document, position = row_numbers(encoded.lengths), row_positions(encoded.lengths)
    slot = (packing.row * length + packing.column)[document] + position
    by_place = np.lexsort((packing.column, packing.row))
    segment = np.empty(len(by_place), np.int64)
    ordered = packing.row[by_place]
    segment[by_place] = 1 + np.arange(len(by_place)) - np.searchsorted(ordered, ordered)
    out = {}
    more = {"segments": segment[document], "documents": document, "soft": encoded.soft}
    fields = {**encoded.fields(), **{name: (values, 0) for name, values in more.items()}}
    for name, (values, empty) in fields.items():
        flat = np.full((rows * length, *values.shape[1:]), empty, np.int32)
        flat[slot] = values
        rest = range(2, values.ndim + 1)  # [n 2] becomes [R 2 T]
        out[name] = flat.reshape(rows, length, *values.shape[1:]).transpose(0, *rest, 1)
    which = out.pop("soft")
    return out | _soft_tokens(which, encoded.blends, soft, width) if soft else out


def _soft_tokens(which: np.ndarray, blends: Sequence[Blend], soft: int, width: int) -> Batch:
    """The soft tokens' part of `lay_out`'s result; which [R T] = the number of the blend, or 0."""
    items = np.zeros((len(blends) + 1, width), np.int32)
    weights = np.zeros((len(blends) + 1, width), np.float32)
    for number, blend in enumerate(blends, start=1):
        items[number, : len(blend.items)] = blend.items
        weights[number, : len(blend.items)] = blend.weights
    is_soft = which > 0
    row, column = np.nonzero(is_soft)
    taken = np.zeros((len(which), soft), np.int64)
    taken[row, (np.cumsum(is_soft, axis=1) - 1)[row, column]] = which[row, column]
    return {"is_soft": is_soft, "blend_items": items[taken], "blend_weights": weights[taken]}


def _soft_shape(encoded: Sequence[Encoded], length: int) -> tuple[int, int]:
    """(S, W): soft tokens in the row that has most of them, items in the largest blend."""
    soft = width = 0
    for part in encoded:
        row = pack(part.lengths, length).row[row_numbers(part.lengths)[part.soft > 0]]
        soft = max(soft, int(np.bincount(row).max()) if len(row) else 0)
        width = max([width, *(len(blend.items) for blend in part.blends)])
    return soft, width


def check_processes(batch_size: int, process: tuple[int, int]) -> None:
    """Raises `InputError` where processes, (index, count), cannot share a batch."""
    if batch_size % process[1]:
        raise InputError(
            f"config.train.batch_size: {batch_size} is no multiple of the {process[1]} processes"
        )


D = TypeVar("D")
D_co = TypeVar("D_co", covariant=True)


class Stream(Protocol[D_co]):
    """An endless stream of documents (`textualize.Documents`); its length is that of an epoch."""

    def __call__(self, place: int) -> D_co: ...

    def __len__(self) -> int: ...


@dataclasses.dataclass(frozen=True, eq=False)
class TokenBatches(Generic[D]):
    """Training batches: the stream, cut every `per_step` documents.

    A batch holds what `lay_out` returns, but `documents`. Documents are those of `encode`, unless a
    subclass encodes others (`encoded`).

    Attributes:
        documents: the stream; its seed is that of the batches.
        tokenizer: of the model.
        length: T.
        batch_size: B, over all processes.
        row_multiple: this process's devices, each with as many rows; R is a multiple.
        process: this process's (index, count).
        agree: gives the largest of several sizes that any process has; by default one process.
    """

    documents: Stream[D]
    tokenizer: Tokenizer
    length: int
    batch_size: int
    row_multiple: int = 1
    process: tuple[int, int] = (0, 1)
    agree: Callable[[list[int]], list[int]] = list

    def __post_init__(self):
        check_processes(self.batch_size, self.process)

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every document of an epoch is seen about once."""
        return max(1, round(len(self.documents) / self.per_step))

    @property
    def per_step(self) -> int:
        """Documents of a step, over all processes: `batch_size`, or an epoch's if fewer."""
        return step_size(self.batch_size, len(self.documents), self.process[1])

    @property
    def _share(self) -> int:
        return self.per_step // self.process[1]

    @functools.cached_property
    def _sample(self) -> list[Encoded]:
        return [self._encoded(step, 0) for step in range(_SAMPLE)]

    @property
    def rows(self) -> int:
        """R of nearly every batch, summed over all processes."""
        return self._usual_rows * self.process[1]

    @functools.cached_property
    def _usual_rows(self) -> int:
        """Rows that nearly all batches fit: the most that the first ones need."""
        return self.row_multiple * -(-max(map(self._needed, self._sample)) // self.row_multiple)

    @functools.cached_property
    def label_share(self) -> float:
        """No device's rows have more labels than this share of their places.

        A batch that would gets more rows. The loss needs to look at so many places only.
        """
        labels = [self._most_labels(e) for e in self._sample]
        largest = max(*labels, math.ceil(np.mean(labels) + 4 * np.std(labels)))
        rows = max(_rows_needed(e, self.length, self.row_multiple) for e in self._sample)
        return min(1.0, max(1, largest) * self.row_multiple / (rows * self.length))

    def _most_labels(self, encoded: Encoded) -> int:
        """Labels of the device that has most of them."""
        shards = self.row_multiple
        rows = _rows_needed(encoded, self.length, shards)
        _, labels = _dealt(encoded, self.length, rows, shards)
        return int(labels.reshape(shards, -1).sum(axis=1).max())

    @functools.cached_property
    def _usual_soft(self) -> tuple[int, int]:
        """S and W that nearly all batches fit: a quarter more than the first ones need."""
        soft, width = _soft_shape(self._sample, self.length)
        return soft + soft // 4, width

    def _needed(self, encoded: Encoded) -> int:
        rows = math.ceil(self._most_labels(encoded) / (self.label_share * self.length))
        return max(self.row_multiple * rows, pack(encoded.lengths, self.length).rows)

    def _encoded(self, step: int, process: int) -> Encoded:
        first = step * self.per_step + process * self._share
        return self.encoded([self.documents(p) for p in range(first, first + self._share)])

    def encoded(self, documents: Sequence[D]) -> Encoded:
        """Documents as tokens."""
        return encode(cast(Sequence[Document], documents), self.tokenizer, self.length)

    def __call__(self, step: int, count: int = 1) -> Batch:
        """Batches step .. step + count - 1, stacked: every array [K R T].

        R is the same for nearly all calls; a call that needs more rows gets more (and the step
        is compiled once more).
        """
        encoded = [self._encoded(s, self.process[0]) for s in range(step, step + count)]
        sizes = [max(map(self._needed, encoded)), *_soft_shape(encoded, self.length)]
        needed, *soft_sizes = self.agree(sizes)
        rows = grow_rows(self._usual_rows, needed, self.row_multiple)
        usual_soft = self._usual_soft
        soft, width = (grow_rows(u, m, 8) for u, m in zip(usual_soft, soft_sizes, strict=True))
        shape = (rows, soft, width, self.row_multiple)
        batches = [lay_out(e, self.length, *shape) for e in encoded]
        return {k: np.stack([b[k] for b in batches]) for k in batches[0] if k != "documents"}


def fixed_batches(
    documents: Sequence[D],
    encoded: Callable[[Sequence[D]], Encoded],
    length: int,
    batch_size: int,
    shards: int = 1,
) -> list[Batch]:
    """Batches of given documents, in order, for measuring.

    Args:
        documents: at least one.
        encoded: makes tokens of them, each at most `length`.
        length: T.
        batch_size: documents a batch.
        shards: see `lay_out`.

    Returns:
        What `lay_out` returns, R the same in all batches; `documents` counts within the batch.
    """
    count = math.ceil(len(documents) / batch_size)
    done = [encoded(documents[k * batch_size : (k + 1) * batch_size]) for k in range(count)]
    rows = max(_rows_needed(e, length, shards) for e in done)
    soft, width = _soft_shape(done, length)
    return [lay_out(e, length, rows, soft, width, shards) for e in done]
