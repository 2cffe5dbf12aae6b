"""Rows of different lengths in flat arrays, empty ones among them."""

import numpy as np

from recjax.data.ragged import row_numbers, row_positions, row_starts


def test_rows_of_flat_arrays():
    lengths = np.array([2, 0, 3])
    assert row_starts(lengths).tolist() == [0, 2, 2]
    assert row_numbers(lengths).tolist() == [0, 0, 2, 2, 2]
    assert row_positions(lengths).tolist() == [0, 1, 0, 1, 2]
    empty = lengths[:0]
    assert [f(empty).tolist() for f in (row_starts, row_numbers, row_positions)] == [[], [], []]
