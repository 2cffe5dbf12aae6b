"""Ragged rows as flat arrays: B rows of `lengths` [B], one after the other, n elements in all."""

import numpy as np


def row_starts(lengths: np.ndarray) -> np.ndarray:
    """[B] where each row begins."""
    return np.cumsum(lengths) - lengths


def row_numbers(lengths: np.ndarray) -> np.ndarray:
    """[n] int64, the row of each element: 0, 0, 1, 1, 1, ..."""
    return np.repeat(np.arange(len(lengths)), lengths)


def row_positions(lengths: np.ndarray) -> np.ndarray:
    """[n] int64, the place of each element in its row: 0, 1, 0, 1, 2, ..."""
    return np.arange(lengths.sum()) - np.repeat(row_starts(lengths), lengths)
