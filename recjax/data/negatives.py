"""Negative items: uniform or by popularity, never a positive, with an explicit source of numbers.

Exact and without rejection: among the I-1 items, the r-th one that is not among a user's n sorted
positives is found by binary search, so a uniform rank r in [0, I-1-n) gives a uniform negative.
The functions work on numpy arrays, and inside `jax.jit` on jax arrays with `xp=jax.numpy`.
"""

from typing import Any

import numpy as np

from recjax.data.ragged import row_numbers, row_positions
from recjax.errors import InputError


def sort_positives(items: np.ndarray, starts: np.ndarray, stops: np.ndarray):
    """Each run's distinct items in rising order, as a CSR pair.

    Args:
        items: flat item ids.
        starts, stops: [n] half-open runs.

    Returns:
        `(offsets [n+1] int64, positives [offsets[n]] int32)`; no two of a run are equal.
    """
    lengths = stops - starts
    run = row_numbers(lengths)
    width = int(items.max(initial=0)) + 1
    keys = np.unique(run * width + items[starts[run] + row_positions(lengths)])
    run, positives = np.divmod(keys, width)
    offsets = np.zeros(len(starts) + 1, np.int64)
    np.cumsum(np.bincount(run, minlength=len(starts)), out=offsets[1:])
    return offsets, positives.astype(np.int32)


def nth_negative(ranks: Any, starts: Any, stops: Any, positives: Any, longest: int, xp: Any = np):
    """The items (ids from 1) that stand at `ranks` among those outside a run of positives.

    Args:
        ranks: [...] integers, 0 <= rank < I - 1 - (stop - start).
        starts, stops: runs of `positives`, broadcastable to `ranks`.
        positives: flat, rising and distinct in each run (`sort_positives`).
        longest: the longest run's length (static: it sets the number of search steps).
        xp: `numpy`, or `jax.numpy` under jit.

    Returns:
        [...] item ids, never one of the run.
    """
    low = xp.broadcast_to(starts, ranks.shape)
    high = xp.broadcast_to(stops, ranks.shape)
    first = low
    # Invariant: positives before `low` lie under the answer, those from `high` on above it.
    # Before positives[k] stand positives[k] - 1 - (k - first) negatives.
    for _ in range(int(longest).bit_length()):
        middle = (low + high) // 2
        # An empty interval reads a neighbour's value (or a clipped one) and must not move.
        value = xp.take(positives, xp.clip(middle, 0, len(positives) - 1))
        below = (value - 1 - (middle - first) <= ranks) & (low < high)
        high = xp.where((low < high) & ~below, middle, high)
        low = xp.where(below, middle + 1, low)
    return ranks + 1 + (low - first)


def uniform_negatives(
    rng: np.random.Generator,
    count: int,
    offsets: np.ndarray,
    positives: np.ndarray,
    n_items: int,
    *,
    distinct: bool,
) -> np.ndarray:
    """Uniform negatives for every run: [n C] int32, C = `count`.

    Args:
        rng: the source of randomness.
        offsets, positives: what may not be drawn (`sort_positives`).
        n_items: I, padding included.
        distinct: draw without replacement within a run.

    Raises:
        InputError: when a run leaves too few items to draw from.
    """
    lengths = np.diff(offsets)
    free = n_items - 1 - lengths
    if len(free) and free.min() < (count if distinct else 1):
        raise InputError(
            f"cannot draw {count} negatives: a user leaves {free.min()} of {n_items - 1} items"
        )
    longest = int(lengths.max(initial=0))
    ranks = np.empty((len(lengths), count), np.int64)
    if distinct:
        # Floyd's algorithm, one column at a time: exact, and independent of I.
        for column in range(count):
            top = free - count + column
            drawn = (rng.random(len(free)) * (top + 1)).astype(np.int64)
            taken = (ranks[:, :column] == drawn[:, None]).any(axis=1)
            ranks[:, column] = np.where(taken, top, drawn)
    else:
        ranks[:] = (rng.random(ranks.shape) * free[:, None]).astype(np.int64)
    negatives = nth_negative(ranks, offsets[:-1, None], offsets[1:, None], positives, longest)
    return negatives.astype(np.int32)


def popularity_cdf(counts: np.ndarray, power: float) -> np.ndarray:
    """The cumulative distribution of ids when an item is drawn as count ** power: [I] uint32.

    In units of 2**-32, so that an item of a catalogue of millions is not rounded away. Item 0
    (padding) has probability 0. `searchsorted(cdf, bits, side="right")` draws, with 32 random bits;
    bits that are all 1 lie behind the last item: limit what is drawn to I - 1.

    Raises:
        InputError: no item has a count.
    """
    weights = np.where(counts > 0, np.asarray(counts, np.float64) ** power, 0.0)
    weights[0] = 0.0
    if not weights.any():
        raise InputError("counts: all are 0; expected an item that was chosen")
    return np.rint(np.cumsum(weights) / weights.sum() * (2**32 - 1)).astype(np.uint32)
