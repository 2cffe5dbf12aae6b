"""Batches as pure functions of (seed, step): the step number is the iterator's whole state.

A run that resumes at step s asks for batch s and gets what the uninterrupted run got. With several
processes each takes its own part of every batch.

Letters: B sequences a batch, L window length, R packed rows, K batches a call.
"""

import dataclasses
import functools
import math

import numpy as np

from recjax.data.epochs import Epochs
from recjax.data.ragged import row_numbers, row_positions
from recjax.data.sequences import Packing, Tokens, deal, one_per_row, pack, window_tokens
from recjax.data.splits import Spans
from recjax.errors import InputError

Batch = dict[str, np.ndarray]
_SAMPLE = 16  # batches that are packed to tell how many rows one needs


def step_size(batch_size: int, count: int, multiple: int) -> int:
    """Sequences of a step: `batch_size`, or all `count` if those are fewer.

    Args:
        batch_size: B.
        count: sequences (documents, examples) of an epoch.
        multiple: of the processes or devices that share a step; it divides B and the result.
    """
    return min(batch_size, max(1, count // multiple) * multiple)


@dataclasses.dataclass(frozen=True, eq=False)
class TrainBatches:
    """Batches of next-item training windows.

    The stream is one shuffled epoch after another, cut every `per_step` sequences, so no batch is
    short and no sequence is dropped; where all are fewer than a batch, a step takes each once. A
    batch holds, all [R L] int32: `ids` (inputs), `targets` (the next item, 0 where there is none),
    `positions`, `segments` (0 = padding) and `sequences` (index of the training sequence, for its
    positives). Where `spans` have times, `times` are the seconds since the window's first item.

    With `shifted` False the inputs are the whole run and each item is its own target, for models
    that learn at masked items.

    Attributes:
        items: the store's flat item ids.
        spans: what training may see, a run a user; runs under two items train nothing.
        length: L; of longer runs the newest L inputs, or windows of L inputs.
        batch_size: B, over all processes.
        seed: of the shuffles.
        packed: pack several sequences into a row (see `recjax.data.sequences`).
        shifted: targets are the next items.
        stride: 0 keeps the newest window of a longer run; n > 0 takes it and those that end n, 2 n,
            ... items before, until the run's first item is in one (n up to L: no item is left out).
        prefixes: each prefix of a run is a sequence; only its last item has a target.
        row_multiple: R is a multiple of this (the data-parallel size of one process).
        process: this process's (index, count).
        users: batches have `users`, too: 1 + the number of the user, 0 for padding.
    """

    items: np.ndarray
    spans: Spans
    length: int
    batch_size: int
    seed: int
    packed: bool = True
    shifted: bool = True
    stride: int = 0
    prefixes: bool = False
    row_multiple: int = 1
    process: tuple[int, int] = (0, 1)
    users: bool = False

    def __post_init__(self):
        if self.prefixes and not self.shifted:
            raise InputError(
                "config.train.prefixes: expected a model that reads histories and learns the next "
                "item; of masked items, or without a history, prefixes have no target of their own"
            )
        if self.prefixes and self.stride:
            raise InputError(
                f"config.train.stride: {self.stride}: prefixes end at every item; expected 0"
            )
        if self.n_sequences == 0:
            longest = max(self.spans.stops - self.spans.starts, default=0)
            raise InputError(
                "no training sequence has two items: nothing to train on; the longest has "
                f"{longest}"
            )
        if not 0 <= self.stride <= self.length:
            raise InputError(
                f"config.train.stride: {self.stride}, expected 0 to the window's {self.length}"
            )
        if self.batch_size % self.process[1]:
            raise InputError(
                f"config.train.batch_size: {self.batch_size} is no multiple of the "
                f"{self.process[1]} processes"
            )

    @functools.cached_property
    def _windows(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(span, stop of the inputs, number of inputs) of every trainable window."""
        ahead = int(self.shifted)
        keep = np.flatnonzero(self.spans.stops - self.spans.starts > 1)
        inputs = (self.spans.stops - self.spans.starts)[keep] - ahead
        excess = np.maximum(0, inputs - self.length)
        counts = 1 + (-(-excess // self.stride) if self.stride else 0 * excess)
        counts = inputs if self.prefixes else counts
        run = row_numbers(counts)
        back = (1 if self.prefixes else self.stride) * row_positions(counts)
        stops = self.spans.stops[keep][run] - ahead - back
        return keep[run], stops, np.minimum(inputs[run] - back, self.length)

    @property
    def n_sequences(self) -> int:
        """Number of training sequences."""
        return len(self._windows[0])

    @property
    def per_step(self) -> int:
        """Sequences of a step, over all processes: `batch_size`, or all where they are fewer."""
        return step_size(self.batch_size, self.n_sequences, self.process[1])

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every sequence is seen about once."""
        return max(1, round(self.n_sequences / self.per_step))

    @property
    def rows(self) -> int:
        """R of nearly every batch, summed over all processes."""
        return self._usual_rows * self.process[1]

    @functools.cached_property
    def _usual_rows(self) -> int:
        share = self.per_step // self.process[1]
        if not self.packed:
            return _round_up(share, self.row_multiple)
        return _rows_for(self._windows[2], share, self.length, self.row_multiple)

    @functools.cached_property
    def _epochs(self) -> Epochs:
        return Epochs(self.n_sequences, self.seed)

    def _members(self, step: int, process: int) -> np.ndarray:
        share = self.per_step // self.process[1]
        return self._epochs(step * self.per_step + process * share + np.arange(share))

    def _packings(self, step: int, count: int, process: int):
        layout = pack if self.packed else one_per_row
        members = [self._members(s, process) for s in range(step, step + count)]
        return members, [layout(self._windows[2][m], self.length) for m in members]

    def __call__(self, step: int, count: int = 1) -> Batch:
        """Batches step .. step + count - 1, stacked: every array [K R L].

        R is the same for nearly all calls; a call that needs more rows gets more (and the step
        is compiled once more).
        """
        spans, stops, lengths = self._windows
        index, processes = self.process
        members, packings = self._packings(step, count, index)
        needed = max(p.rows for p in packings)
        for other in range(processes):  # all processes must agree on R
            if self.packed and other != index:
                needed = max(needed, *(p.rows for p in self._packings(step, count, other)[1]))
        rows = grow_rows(self._usual_rows, needed, self.row_multiple)
        names = ["ids", "targets", "positions", "segments", "sequences"]
        names += ["users"] if self.users else []
        names += ["times"] if self.spans.times is not None else []
        batch = {name: np.zeros(count * rows * self.length, np.int32) for name in names}
        # All steps are laid out at once, one below the other.
        member = np.concatenate(members)
        row = np.concatenate([k * rows + p.row for k, p in enumerate(packings)])
        layout = Packing(count * rows, row, np.concatenate([p.column for p in packings]))
        tokens = window_tokens(stops[member], lengths[member], layout, self.length)
        batch["ids"][tokens.slot] = self.items[tokens.source]
        batch["targets"][tokens.slot] = self.items[tokens.source + int(self.shifted)]
        if self.prefixes:
            batch["targets"][tokens.slot[tokens.position < self.length - 1]] = 0
        batch["positions"][tokens.slot] = tokens.position
        batch["segments"][tokens.slot] = tokens.segment
        batch["sequences"][tokens.slot] = spans[member][tokens.sequence]
        if self.users:
            users = self.spans.users[spans[member]] + 1
            batch["users"][tokens.slot] = users[tokens.sequence]
        if self.spans.times is not None:
            first = (stops - lengths)[member]
            batch["times"][tokens.slot] = _since(self.spans.times, first, tokens)
        return {k: v.reshape(count, rows, self.length) for k, v in batch.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class EvalBatches:
    """Batches of (history, target) examples, or of histories alone, in a fixed order.

    A batch holds `ids`, `positions`, `segments` [R L], `last` [B] (index into the flattened rows
    of each example's newest item; [S b] for S > 1 shards), `targets` [B] (where there are any),
    `weights` [B] (0 for the rows that fill up the batch) and `examples` [B] (index of the example;
    0 for filling); `times` [R L] as in training where `spans` have times.

    Attributes:
        items: the store's flat item ids.
        spans: examples: history `items[start:stop]`, target `items[stop]`.
        length: L.
        batch_size: B; where there are fewer examples, the next power of two is enough.
        packed: pack several histories into a row.
        closing: id that follows every history in the window (a mask), `last` then points to it;
            0 = none.
        targeted: off = there are no targets, and a history may end with `items`.
        shards: S equal parts of rows and examples; each has its examples in its own rows, and
            `last` counts within it. B is rounded up, and examples are not in order.
        users: batches have `users` [R L], too: 1 + the number of the user, 0 for padding.

    Raises:
        InputError: a history without an item, whose state would be another example's.
    """

    items: np.ndarray
    spans: Spans
    length: int
    batch_size: int
    packed: bool = True
    closing: int = 0
    targeted: bool = True
    shards: int = 1
    users: bool = False

    def __post_init__(self):
        empty = np.flatnonzero(self.spans.stops <= self.spans.starts)
        if len(empty) and not self.closing:
            raise InputError(
                f"example {empty[0]}: its history ({self.spans.starts[empty[0]]}, "
                f"{self.spans.stops[empty[0]]}) is empty; expected an item at least"
            )

    @functools.cached_property
    def size(self) -> int:
        """B, before it is rounded up."""
        return min(self.batch_size, 1 << max(0, len(self.spans) - 1).bit_length())

    @functools.cached_property
    def _lengths(self) -> np.ndarray:
        """Tokens of each example's window."""
        closed = self.closing != 0
        return np.minimum(self.spans.stops - self.spans.starts + closed, self.length)

    def __len__(self) -> int:
        return math.ceil(len(self.spans) / self.batch_size)

    @functools.cached_property
    def _usual_rows(self) -> int:
        if not self.packed:
            return self._shard_size
        return _rows_for(self._lengths, self.size, self.length, self.shards) // self.shards

    @property
    def _shard_size(self) -> int:
        return math.ceil(self.size / self.shards)

    def __call__(self, index: int) -> Batch:
        layout = pack if self.packed else one_per_row
        parts = self._dealt(index)
        packings = [layout(self._lengths[part], self.length) for part in parts]
        rows = grow_rows(self._usual_rows, max(p.rows for p in packings), 1)
        arrays = [self._part(part, p, rows) for part, p in zip(parts, packings, strict=True)]
        batch = {name: np.concatenate([part[name] for part in arrays]) for name in arrays[0]}
        if self.shards > 1:
            batch["last"] = batch["last"].reshape(self.shards, -1)
        return batch

    def _dealt(self, index: int) -> list[np.ndarray]:
        """A batch's examples by shard, each with about as many, and as many tokens."""
        first, last = index * self.size, min((index + 1) * self.size, len(self.spans))
        if self.shards == 1:
            return [np.arange(first, last)]
        sizes = np.zeros(self.shards * self._shard_size, np.int64)
        sizes[: last - first] = 1 + self._lengths[first:last]
        return [first + np.sort(p[sizes[p] > 0]) for p in deal(sizes, self.shards)]

    def _part(self, examples: np.ndarray, packing: Packing, rows: int) -> Batch:
        """A shard's rows and examples."""
        size, length, lengths = self._shard_size, self.length, self._lengths[examples]
        closed = int(self.closing != 0)
        tokens = window_tokens(self.spans.stops[examples] + closed, lengths, packing, length)
        flat = {n: np.zeros(rows * length, np.int32) for n in ("ids", "positions", "segments")}
        # What a mask replaces may lie behind the last item.
        source = np.minimum(tokens.source, len(self.items) - 1) if closed else tokens.source
        flat["ids"][tokens.slot] = self.items[source]
        flat["positions"][tokens.slot] = tokens.position
        flat["segments"][tokens.slot] = tokens.segment
        if self.users:
            flat["users"] = np.zeros(rows * length, np.int32)
            flat["users"][tokens.slot] = (self.spans.users[examples] + 1)[tokens.sequence]
        if self.spans.times is not None:
            flat["times"] = np.zeros(rows * length, np.int32)
            first = self.spans.stops[examples] + closed - lengths
            flat["times"][tokens.slot] = _since(self.spans.times, first, tokens)
        last = packing.row * length + packing.column + lengths - 1
        if closed:
            flat["ids"][last] = self.closing
        batch: Batch = {k: v.reshape(rows, length) for k, v in flat.items()}
        columns = {"last": np.maximum(last, 0), "examples": examples}
        if self.targeted:
            columns["targets"] = self.items[self.spans.stops[examples]]
        for name, values in columns.items():
            batch[name] = np.zeros(size, np.int32)
            batch[name][: len(examples)] = values
        batch["weights"] = (np.arange(size) < len(examples)).astype(np.float32)
        return batch


def _since(times: np.ndarray, first: np.ndarray, tokens: Tokens) -> np.ndarray:
    """Seconds from the first item of each token's window to its own: [tokens], 68 years at most.

    Args:
        times: [N].
        first: [n] place of each window's first item.
        tokens: of the windows; what stands behind the last item has its time.
    """
    places = np.minimum(tokens.source, len(times) - 1)
    return np.clip(times[places] - times[first][tokens.sequence], 0, np.iinfo(np.int32).max)


def in_order(batch: Batch) -> np.ndarray:
    """Indices [n] of a batch's examples in their order, without the padding examples."""
    real = np.flatnonzero(batch["weights"])
    return real[np.argsort(batch["examples"][real])]


def _round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def _rows_for(lengths: np.ndarray, count: int, length: int, multiple: int) -> int:
    """Rows that nearly every batch of `count` sequences fits: those of some, and 3 deviations."""
    draw = np.random.default_rng(0).choice
    rows = np.mean([pack(draw(lengths, count), length).rows for _ in range(_SAMPLE)])
    spread = 3 * math.sqrt(count) * lengths.std() / length
    return _round_up(min(count, math.ceil(rows + spread)), multiple)


def grow_rows(rows: int, needed: int, multiple: int) -> int:
    """`rows`, or in large strides what is needed: every new shape is compiled."""
    stride = _round_up(max(1, rows // 8), multiple)
    return rows + max(0, -(-(needed - rows) // stride)) * stride
