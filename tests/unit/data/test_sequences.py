import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recjax.data.sequences import deal, one_per_row, pack, pad_left, window_tokens


@given(st.lists(st.integers(0, 12), min_size=1, max_size=60))
def test_packing_overlaps_nothing_and_loses_nothing(lengths):
    lengths = np.array(lengths)
    packing = pack(lengths, 12)
    taken = np.zeros((packing.rows, 12), int)
    for n, row, column in zip(lengths, packing.row, packing.column, strict=True):
        assert column + n <= 12
        taken[row, column : column + n] += 1
    assert taken.max(initial=0) <= 1
    assert taken.sum() == lengths.sum()


def test_packing_saves_rows():
    assert pack(np.array([5, 5, 5, 5]), 10).rows == 2
    # The short ones go behind the long ones, where the least room is left.
    packing = pack(np.array([6, 2, 6, 3, 4, 8]), 10)
    assert packing.rows == 3
    assert packing.row.tolist() == [1, 0, 2, 2, 1, 0]
    assert packing.column.tolist() == [0, 8, 0, 6, 6, 0]
    # Of short histories hardly more rows than their items fill.
    lengths = np.minimum(np.random.default_rng(0).geometric(0.15, 512), 50)
    assert pack(lengths, 50).rows == -(-lengths.sum() // 50)


def test_pad_left_keeps_the_newest_on_the_right():
    items = np.array([1, 2, 3, 4, 5, 6], np.int32)
    rows = pad_left(items, np.array([0, 4, 6]), np.array([4, 6, 6]), 3)
    assert rows.tolist() == [[2, 3, 4], [0, 5, 6], [0, 0, 0]]


def test_tokens_of_packed_windows():
    # Windows [2 3 4] and [6] in one row of four: segments by place, positions as if alone.
    lengths, stops = np.array([3, 1]), np.array([4, 6])
    packing = pack(lengths, 4)
    assert packing.rows == 1
    tokens = window_tokens(stops, lengths, packing, 4)
    assert tokens.source.tolist() == [1, 2, 3, 5]
    assert tokens.slot.tolist() == [0, 1, 2, 3]
    assert tokens.position.tolist() == [1, 2, 3, 3]
    assert tokens.segment.tolist() == [1, 1, 1, 2]
    assert one_per_row(lengths, 4).column.tolist() == [1, 3]


def test_deal_gives_each_part_about_as_much():
    sizes = np.random.default_rng(0).integers(0, 50, 40)
    parts = deal(sizes, 4)
    assert sorted(parts.reshape(-1)) == list(range(40)) and parts.shape == (4, 10)
    sums = sizes[parts].sum(axis=1)
    assert sums.max() - sums.min() <= sizes.max()
    assert np.arange(8, 0, -1)[deal(np.arange(8, 0, -1), 2)].sum(axis=1).tolist() == [18, 18]
    more = deal(np.concatenate([sizes + 1, np.zeros(8, int)]), 4)  # of size 0
    assert [sorted(p[p < 40]) for p in more] == [sorted(p) for p in parts]
