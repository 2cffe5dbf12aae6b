"""From runs of the store's flat `items` to arrays a model reads: truncation, padding, packing.

This is the one place that fixes the conventions. A window keeps the newest items, padding (id 0)
stands on the left, the newest item is last and always has position L-1, whatever the length.

Packing puts several short sequences into one row of length L. Sequential data are short (Amazon
Beauty: 7 of 50 positions), so most of a padded batch is padding; a packed batch holds the same
sequences in a fraction of the rows. `segments` tells the model where one sequence ends, and
`positions` are those the sequence would have had alone, so packed and padded give the same result.

Letters: n sequences, L window length, R packed rows.
"""

import bisect
import dataclasses

import numpy as np

from recjax.data.ragged import row_numbers, row_positions


@dataclasses.dataclass(frozen=True)
class Packing:
    """Where each of n sequences lies in [R L] rows.

    Attributes:
        rows: number of rows R that the packing needs.
        row: [n] row of each sequence.
        column: [n] column of its first item.
    """

    rows: int
    row: np.ndarray
    column: np.ndarray


def pack(lengths: np.ndarray, length: int) -> Packing:
    """Packs sequences into rows by best fit: longest first, each where the least room is left.

    That needs hardly more rows than the tokens would fill. Sequences of one length are placed
    together, so that the time grows with the number of different lengths.

    Args:
        lengths: [n] items in each sequence, between 0 and `length`.
        length: L.
    """
    sizes, counts = np.unique(lengths, return_counts=True)
    rows = 0
    rooms: list[int] = []  # that rows have left, in order
    free: dict[int, list[tuple[int, int]]] = {}  # of each room (first row, number of rows)
    placed: list[tuple[int, int, int, int, int]] = []

    def leave(room: int, first: int, number: int) -> None:
        if room and number:
            if room not in free:
                bisect.insort(rooms, room)
            free.setdefault(room, []).append((first, number))

    for size, count in zip(sizes[::-1].tolist(), counts[::-1].tolist(), strict=True):
        while count and size:
            best = bisect.bisect_left(rooms, size)
            if best < len(rooms):
                room = rooms[best]
                first, number = free[room].pop()
                if not free[room]:
                    del free[room], rooms[best]
            else:
                room, first, number = length, rows, -(-count // (length // size))
                rows += number
            each = room // size  # once a sequence is in a row, that row is the best for the next
            taken = min(count, each * number)
            placed.append((taken, first, each, length - room, size))
            filled, rest = divmod(taken, each)
            leave(room - each * size, first, filled)
            leave(room - rest * size, first + filled, int(rest > 0))
            leave(room, first + filled + (rest > 0), number - filled - (rest > 0))
            count -= taken
    row, column = np.zeros((2, len(lengths)), np.int64)
    if placed:
        table = np.array(placed)
        _, first, each, begin, size = np.repeat(table, table[:, 0], axis=0).T
        down, along = np.divmod(row_positions(table[:, 0]), each)
        order = np.argsort(-lengths, kind="stable")[: len(each)]
        row[order], column[order] = first + down, begin + along * size
    return Packing(max(rows, int(len(lengths) > 0)), row, column)


def deal(sizes: np.ndarray, shards: int) -> np.ndarray:
    """Numbers 0 .. n - 1 in equal parts whose sizes' sums are about the same: [S, n / S].

    Largest first, there and back, as teams are chosen: more of size 0 change no other's part.

    Args:
        sizes: [n], n a multiple of `shards`.
        shards: S.
    """
    rounds = np.argsort(-sizes, kind="stable").reshape(-1, shards)
    rounds[1::2] = rounds[1::2, ::-1]
    return rounds.T


def one_per_row(lengths: np.ndarray, length: int) -> Packing:
    """The usual padded layout as a packing: a row a sequence, padding on the left."""
    n = len(lengths)
    return Packing(n, np.arange(n), length - np.asarray(lengths, np.int64))


@dataclasses.dataclass(frozen=True)
class Tokens:
    """The single items of n windows: where they come from and where they go.

    Attributes (all [tokens]):
        source: index into the flat `items`.
        sequence: which of the n windows.
        slot: index into the flattened [R L] rows.
        position: position in the left-padded window, L-1 for the newest item.
        segment: 1, 2, ... within a row; 0 is left for padding.
    """

    source: np.ndarray
    sequence: np.ndarray
    slot: np.ndarray
    position: np.ndarray
    segment: np.ndarray


def window_tokens(stops: np.ndarray, lengths: np.ndarray, packing: Packing, length: int) -> Tokens:
    """The tokens of the windows `items[stops - lengths : stops]` laid out by a packing."""
    sequence, offset = row_numbers(lengths), row_positions(lengths)
    # Segments are numbered by column inside each row.
    by_place = np.lexsort((packing.column, packing.row))
    new_row = np.diff(packing.row[by_place], prepend=-1) != 0
    index = np.arange(len(by_place))
    number = index - np.maximum.accumulate(np.where(new_row, index, 0)) + 1
    segment = np.empty(len(lengths), np.int64)
    segment[by_place] = number
    return Tokens(
        source=(stops - lengths)[sequence] + offset,
        sequence=sequence,
        slot=(packing.row * length + packing.column)[sequence] + offset,
        position=(length - lengths)[sequence] + offset,
        segment=segment[sequence],
    )


def pad_left(items: np.ndarray, starts: np.ndarray, stops: np.ndarray, length: int) -> np.ndarray:
    """The newest `length` items of each run, left-padded with 0: [n L] int32."""
    lengths = np.minimum(stops - starts, length)
    tokens = window_tokens(stops, lengths, one_per_row(lengths, length), length)
    out = np.zeros(len(starts) * length, np.int32)
    out[tokens.slot] = items[tokens.source]
    return out.reshape(len(starts), length)
