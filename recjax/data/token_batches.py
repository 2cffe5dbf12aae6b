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

from recjax.data.pipeline import Batch, grow_rows, rows_for
from recjax.data.sequences import pack
from recjax.data.textualize import Document
from recjax.data.tokenizers import Tokenizer
from recjax.errors import InputError

_SAMPLE = 512  # documents from which the usual number of rows is estimated


@dataclasses.dataclass(frozen=True, eq=False)
class Encoded:
    """Documents as tokens, one after the other.

    Attributes:
        tokens: [n] int32, each document's prompt, text and end; cut to the row length and 1.
        learned: [n] bool, tokens of the text and the end.
        lengths: tokens of each document.
    """

    tokens: np.ndarray
    learned: np.ndarray
    lengths: np.ndarray


def encode(documents: Sequence[Document], tokenizer: Tokenizer, length: int) -> Encoded:
    """Tokens of documents: `<s>`, the prompt, the text going on after it, `</s>`.

    Args:
        documents: to encode.
        tokenizer: of the model.
        length: T; a document may have one token more, for the last one is no input.
    """
    prompts = tokenizer.encode_batch([d.prompt for d in documents], bos=True)
    whole = [not d.prompt for d in documents]
    texts = _by_start([d.text for d in documents], whole, tokenizer)
    cut = length + 1
    rows = [[*p, *t][:cut] for p, t in zip(prompts, texts, strict=True)]
    lengths = np.array([len(row) for row in rows], np.int64)
    given = np.minimum([len(p) for p in prompts], lengths)
    place = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    tokens = np.concatenate([np.asarray(row, np.int32) for row in rows])
    return Encoded(tokens, place >= np.repeat(given, lengths), lengths)


def _by_start(texts: Sequence[str], start: Sequence[bool], tokenizer: Tokenizer) -> list[list[int]]:
    """Each text with its end, as the beginning of a document or as what goes on."""
    out: list[list[int]] = [[]] * len(texts)
    for kind in (True, False):
        places = [k for k, begins in enumerate(start) if begins == kind]
        done = tokenizer.encode_batch([texts[k] for k in places], eos=True, start=kind)
        for k, ids in zip(places, done, strict=True):
            out[k] = ids
    return out


def lay_out(encoded: Encoded, length: int, rows: int) -> Batch:
    """Documents packed into rows.

    Args:
        encoded: of `encode` for the same length.
        length: T.
        rows: R, no fewer than are needed.

    Returns:
        All [R T]: `tokens` and `targets` (the next token) int32; `weights` float32, 1 where the
        target is learned; `positions` int32 within the document; `segments` int32, 1, 2, ... in
        each row and 0 at padding; `documents` int32, index of the document.
    """
    sizes = encoded.lengths - 1
    packing = pack(sizes, length)
    source, document, position = _inputs(encoded.lengths)
    slot = (packing.row * length + packing.column)[document] + position
    by_place = np.lexsort((packing.column, packing.row))
    segment = np.empty(len(sizes), np.int64)
    ordered = packing.row[by_place]
    first = np.searchsorted(ordered, ordered)
    segment[by_place] = np.arange(len(sizes)) - first + 1
    values = {
        "tokens": encoded.tokens[source],
        "targets": encoded.tokens[source + 1],
        "weights": encoded.learned[source + 1],
        "positions": position,
        "segments": segment[document],
        "documents": document,
    }
    out = {}
    for name, value in values.items():
        flat = np.zeros(rows * length, np.float32 if name == "weights" else np.int32)
        flat[slot] = value
        out[name] = flat.reshape(rows, length)
    return out


def _inputs(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every token but the documents' last ones: its index, document and position."""
    sizes = lengths - 1
    document = np.repeat(np.arange(len(sizes)), sizes)
    position = np.arange(len(document)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    starts = np.cumsum(lengths) - lengths
    return starts[document] + position, document, position


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
    def _usual_rows(self) -> int:
        some = [self.documents(place) for place in range(min(_SAMPLE, len(self.documents)))]
        sizes = encode(some, self.tokenizer, self.length).lengths - 1
        return rows_for(sizes, self._share, self.length, self.row_multiple)

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
        needed = max(pack(e.lengths - 1, self.length).rows for e in [*encoded, *others])
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
    rows = max(pack(e.lengths - 1, length).rows for e in encoded)
    return [lay_out(e, length, rows) for e in encoded]
