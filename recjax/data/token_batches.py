"""Packed rows of tokens, as a pure function of (seed, step): the step number is all the state.

Letters: B documents a batch, T row length in tokens, R packed rows, K batches a call.

Several documents share a row. `segments` tells the model where one ends, `positions` begin at 0
with each, so packed and alone give the same result.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from recjax.data.pipeline import Batch, grow_rows
from recjax.data.sequences import pack
from recjax.data.textualize import Document
from recjax.data.tokenizers import Tokenizer
from recjax.errors import InputError

NO_LABEL = -100  # as in PyTorch and Transformers
_SAMPLE = 16  # batches from which the usual numbers of rows and labels are taken


@dataclasses.dataclass(frozen=True, eq=False)
class Encoded:
    """Documents as tokens, one after the other, each cut to the row length.

    Attributes:
        tokens: [n] int32.
        labels: [n] int32, the token where it is learned, else `NO_LABEL`.
        lengths: tokens of each document.
    """

    tokens: np.ndarray
    labels: np.ndarray
    lengths: np.ndarray


def encode(documents: Sequence[Document], tokenizer: Tokenizer, length: int) -> Encoded:
    """Tokens of documents: `<s>`, the prompt, the text going on after it, `</s>`.

    Text and end are learned.

    Args:
        documents: to encode.
        tokenizer: of the model.
        length: T.
    """
    prompts = tokenizer.encode_batch([d.prompt for d in documents], bos=True)
    texts: list[list[int]] = [[]] * len(documents)
    for begins in (True, False):
        places = [k for k, d in enumerate(documents) if begins != bool(d.prompt)]
        done = tokenizer.encode_batch([documents[k].text for k in places], eos=True, start=begins)
        for k, ids in zip(places, done, strict=True):
            texts[k] = ids
    rows = [[*p, *t][:length] for p, t in zip(prompts, texts, strict=True)]
    lengths = np.array([len(row) for row in rows], np.int64)
    given = np.array([len(p) for p in prompts])
    tokens = np.concatenate([np.asarray(row, np.int32) for row in rows])
    document, position = _places(lengths)
    labels = np.where(position < given[document], NO_LABEL, tokens).astype(np.int32)
    return Encoded(tokens, labels, lengths)


def _places(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of every token: its document, and its position in it."""
    document = np.repeat(np.arange(len(lengths)), lengths)
    return document, np.arange(len(document)) - (np.cumsum(lengths) - lengths)[document]


def lay_out(encoded: Encoded, length: int, rows: int) -> Batch:
    """Documents packed into rows.

    Args:
        encoded: of `encode` for the same length.
        length: T.
        rows: R, no fewer than are needed.

    Returns:
        All [R T] int32: `tokens`; `labels` as `training.token_loss` takes them; `positions` within
        the document; `segments`, 1, 2, ... in each row and 0 at padding; `documents`, index of the
        document.
    """
    packing = pack(encoded.lengths, length)
    document, position = _places(encoded.lengths)
    slot = (packing.row * length + packing.column)[document] + position
    by_place = np.lexsort((packing.column, packing.row))
    segment = np.empty(len(by_place), np.int64)
    ordered = packing.row[by_place]
    segment[by_place] = 1 + np.arange(len(by_place)) - np.searchsorted(ordered, ordered)
    out = {}
    for name, values, empty in (
        ("tokens", encoded.tokens, 0),
        ("labels", encoded.labels, NO_LABEL),
        ("positions", position, 0),
        ("segments", segment[document], 0),
        ("documents", document, 0),
    ):
        flat = np.full(rows * length, empty, np.int32)
        flat[slot] = values
        out[name] = flat.reshape(rows, length)
    return out


class Stream(Protocol):
    """An endless stream of documents (`textualize.Documents`); its length is that of an epoch."""

    def __call__(self, place: int) -> Document: ...

    def __len__(self) -> int: ...


@dataclasses.dataclass(frozen=True, eq=False)
class TokenBatches:
    """Training batches: the stream, cut every `batch_size` documents.

    A batch holds what `lay_out` returns, but `documents`.

    Attributes:
        documents: the stream; its seed is that of the batches.
        tokenizer: of the model.
        length: T.
        batch_size: B, over all processes.
        row_multiple: R is a multiple of this (the data-parallel size of one process).
        process: this process's (index, count).
    """

    documents: Stream
    tokenizer: Tokenizer
    length: int
    batch_size: int
    row_multiple: int = 1
    process: tuple[int, int] = (0, 1)

    def __post_init__(self):
        if self.batch_size % self.process[1]:
            raise InputError(
                f"batch_size {self.batch_size} is no multiple of the {self.process[1]} processes"
            )

    @property
    def n_documents(self) -> int:
        """Documents in an epoch."""
        return len(self.documents)

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every document of an epoch is seen about once."""
        return max(1, round(len(self.documents) / self.batch_size))

    @property
    def _share(self) -> int:
        return self.batch_size // self.process[1]

    @functools.cached_property
    def _sample(self) -> list[Encoded]:
        return [self._encoded(step, 0) for step in range(_SAMPLE)]

    @functools.cached_property
    def _usual_rows(self) -> int:
        """Rows that nearly all batches fit: the most that the first ones need."""
        return self.row_multiple * -(-max(map(self._needed, self._sample)) // self.row_multiple)

    @functools.cached_property
    def label_share(self) -> float:
        """No batch has more labels than this share of its R T places.

        A batch that would gets more rows. The loss needs to look at so many places only.
        """
        labels = max(int((e.labels != NO_LABEL).sum()) for e in self._sample)
        rows = max(pack(e.lengths, self.length).rows for e in self._sample)
        return min(1.0, max(1, labels) / (rows * self.length))

    def _needed(self, encoded: Encoded) -> int:
        labels = int((encoded.labels != NO_LABEL).sum())
        rows = math.ceil(labels / (self.label_share * self.length))
        return max(rows, pack(encoded.lengths, self.length).rows)

    def _encoded(self, step: int, process: int) -> Encoded:
        first = step * self.batch_size + process * self._share
        documents = [self.documents(place) for place in range(first, first + self._share)]
        return encode(documents, self.tokenizer, self.length)

    def __call__(self, step: int, count: int = 1) -> Batch:
        """Batches step .. step + count - 1, stacked: every array [K R T].

        R is the same for nearly all calls; a call that needs more rows gets more (and the step
        is compiled once more).
        """
        index, processes = self.process
        steps = range(step, step + count)
        encoded = [self._encoded(s, index) for s in steps]
        others = [self._encoded(s, p) for s in steps for p in range(processes) if p != index]
        needed = max(map(self._needed, [*encoded, *others]))
        rows = grow_rows(self._usual_rows, needed, self.row_multiple)
        batches = [lay_out(e, self.length, rows) for e in encoded]
        return {k: np.stack([b[k] for b in batches]) for k in batches[0] if k != "documents"}


def fixed_batches(
    documents: Sequence[Document], tokenizer: Tokenizer, length: int, batch_size: int
) -> list[Batch]:
    """Batches of given documents, in order, for measuring.

    Args:
        documents: at least one.
        tokenizer: of the model.
        length: T.
        batch_size: documents a batch.

    Returns:
        What `lay_out` returns, R the same in all batches; `documents` counts within the batch.
    """
    count = math.ceil(len(documents) / batch_size)
    parts = [documents[k * batch_size : (k + 1) * batch_size] for k in range(count)]
    encoded = [encode(part, tokenizer, length) for part in parts]
    rows = max(pack(e.lengths, length).rows for e in encoded)
    return [lay_out(e, length, rows) for e in encoded]
