"""Pairs for a model with an encoder: it reads the prompts, and the decoder writes the answers.

Letters: R packed rows, S tokens that the encoder reads in a row, T that the decoder writes there,
K batches a call.

Several pairs share a row, on both sides. Numbers from 1 on tell the model which tokens are of one
pair, so packed and alone give the same result.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from recjax.data.pipeline import grow_rows, step_size
from recjax.data.sequences import deal
from recjax.text.token_batches import NO_LABEL, check_processes

_STRIDE = 32  # S and T are multiples
_SAMPLE = 16  # batches from which the usual number of rows is taken


class Sides(NamedTuple):
    """The two sides of a pair, as tokens.

    Attributes:
        read: [s] of the prompt, with the end of a text.
        written: [t] of the answer, with its end; at least one.
        words: [s], the number of the word that each token is of, for P5; or None.
    """

    read: Sequence[int] | np.ndarray
    written: Sequence[int] | np.ndarray
    words: np.ndarray | None = None


class Widths(NamedTuple):
    """S and T."""

    read: int
    written: int


def widths_for(pairs: Sequence[Sides], read: int = 0, written: int = 0) -> Widths:
    """Widths that fit each pair, at which rows of many such pairs fill up on both sides alike.

    Args:
        pairs: all of them, or some.
        read, written: tokens that each side has to fit, where `pairs` are some of many.
    """

    def rounded(size: float) -> int:
        return max(1, math.ceil(size / _STRIDE)) * _STRIDE

    reads = [len(pair.read) for pair in pairs]
    writes = [len(pair.written) for pair in pairs]
    width = rounded(max(read, *reads))
    return Widths(width, rounded(max(written, *writes, width * sum(writes) / sum(reads))))


def _rows_of(pairs: Sequence[Sides], widths: Widths) -> np.ndarray:
    """The row of each pair [n]: the largest first, each into the first row that has room for it on
    both sides."""
    sizes = np.array([(len(pair.read), len(pair.written)) for pair in pairs])
    free = np.tile(widths, (len(pairs), 1))
    row = np.empty(len(pairs), np.int64)
    for k in np.argsort(-(sizes / widths).max(axis=1), kind="stable"):
        row[k] = (free >= sizes[k]).all(axis=1).argmax()
        free[row[k]] -= sizes[k]
    return row


def rows_needed(pairs: Sequence[Sides], widths: Widths, multiple: int = 1) -> int:
    """Rows that pairs are packed into, a multiple of `multiple`."""
    return -(-(1 + int(_rows_of(pairs, widths).max())) // multiple) * multiple


def lay_out_sides(
    pairs: Sequence[Sides], widths: Widths, rows: int, shards: int = 1
) -> dict[str, np.ndarray]:
    """Pairs packed into rows.

    Args:
        pairs: at least one.
        widths: S and T, that fit each.
        rows: R, no fewer than are needed.
        shards: equal parts of the rows, which get about as much to write each; R is a multiple.

    Returns:
        All int32. Of the encoder `encoder` [R S], `read` [R S], the number of a token's pair in its
        row, 0 at padding, and `words` [R S], where pairs have them; of the decoder `decoder` [R T],
        in which each answer begins with token 0, `written` [R T] as `read`, `labels` [R T], the
        token that each place predicts, -100 at padding, and `pairs` [R T], the index of the pair.
    """
    row = _rows_of(pairs, widths)
    if shards > 1:
        load = np.bincount(row, [len(pair.written) for pair in pairs], rows)
        row = np.argsort(deal(load, shards).reshape(-1))[row]
    with_words = pairs[0].words is not None
    out = {name: np.zeros((rows, widths.read), np.int32) for name in ("encoder", "read", "words")}
    for name in ("decoder", "written", "pairs"):
        out[name] = np.zeros((rows, widths.written), np.int32)
    out["labels"] = np.full((rows, widths.written), NO_LABEL, np.int32)
    begin_read, begin_written, count = np.zeros((3, rows), np.int64)
    for k in range(len(pairs)):
        pair, r = pairs[k], row[k]
        count[r] += 1
        read = slice(begin_read[r], begin_read[r] + len(pair.read))
        written = slice(begin_written[r], begin_written[r] + len(pair.written))
        begin_read[r], begin_written[r] = read.stop, written.stop
        out["encoder"][r, read], out["read"][r, read] = pair.read, count[r]
        if pair.words is not None:
            out["words"][r, read] = pair.words
        out["labels"][r, written], out["written"][r, written] = pair.written, count[r]
        out["decoder"][r, written.start + 1 : written.stop] = pair.written[:-1]
        out["pairs"][r, written] = k
    return out if with_words else {name: a for name, a in out.items() if name != "words"}


@dataclasses.dataclass(frozen=True, eq=False)
class SidedBatches:
    """Training batches: an endless stream of pairs, cut every `per_step`; a batch = f(step).

    Attributes:
        pairs: those at places of the stream.
        epoch: pairs of an epoch.
        widths: S and T.
        batch_size: pairs of a step, over all processes.
        row_multiple: this process's devices, each with as many rows; R is a multiple.
        process: this process's (index, count); each makes its part.
        agree: what all processes take of several numbers (the most).
    """

    pairs: Callable[[Sequence[int]], Sequence[Sides]]
    epoch: int
    widths: Widths
    batch_size: int
    row_multiple: int = 1
    process: tuple[int, int] = (0, 1)
    agree: Callable[[list[int]], list[int]] = list

    def __post_init__(self):
        check_processes(self.batch_size, self.process)

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every pair of an epoch is seen about once."""
        return max(1, round(self.epoch / self.per_step))

    @property
    def per_step(self) -> int:
        """Pairs of a step, over all processes: `batch_size`, or an epoch's if fewer."""
        return step_size(self.batch_size, self.epoch, self.process[1])

    @property
    def rows(self) -> int:
        """R of nearly every batch, summed over all processes."""
        return self._usual_rows * self.process[1]

    @functools.cached_property
    def _usual_rows(self) -> int:
        return max(self._needed(self._of(step, 0)) for step in range(_SAMPLE))

    def _needed(self, pairs: Sequence[Sides]) -> int:
        return rows_needed(pairs, self.widths, self.row_multiple)

    def _of(self, step: int, process: int) -> Sequence[Sides]:
        share = self.per_step // self.process[1]
        first = step * self.per_step + process * share
        return self.pairs(range(first, first + share))

    def __call__(self, step: int, count: int = 1) -> Mapping[str, np.ndarray]:
        """Batches step .. step + count - 1, stacked: what `lay_out_sides` returns but `pairs`, all
        [K R ...]. R is the same for nearly all calls."""
        parts = [self._of(s, self.process[0]) for s in range(step, step + count)]
        (needed,) = self.agree([max(map(self._needed, parts))])
        rows = grow_rows(self._usual_rows, needed, self.row_multiple)
        layouts = [lay_out_sides(pairs, self.widths, rows, self.row_multiple) for pairs in parts]
        return {
            name: np.stack([a[name] for a in layouts]) for name in layouts[0] if name != "pairs"
        }


def fixed_sides(
    pairs: Sequence[Sides], widths: Widths, batch_size: int, shards: int
) -> list[dict[str, np.ndarray]]:
    """Batches of given pairs, in order, for measuring: `lay_out_sides`, R the same in all.

    Args:
        pairs: at least one.
        widths: S and T.
        batch_size: pairs a batch.
        shards: see `lay_out_sides`; `pairs` counts within the batch.
    """
    parts = [pairs[k : k + batch_size] for k in range(0, len(pairs), batch_size)]
    rows = max(rows_needed(part, widths, shards) for part in parts)
    return [lay_out_sides(part, widths, rows, shards) for part in parts]
