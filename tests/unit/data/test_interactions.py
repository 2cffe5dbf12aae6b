import numpy as np
import pytest

from recjax.data import filters, interactions
from recjax.data.interactions import LogBuilder


def make(rows, timestamps=True, ratings=True):
    log = LogBuilder(timestamps=timestamps, ratings=ratings)
    for row in rows:
        log.add(*row)
    return log.build()


def test_time_order_is_stable_and_counts_what_was_late():
    log = make([("2", "a", 5), ("1", "b", 9), ("1", "c", 3), ("1", "d", 9), ("2", "e", 5)])
    # Users are codes in order of appearance: "2" is 0.
    assert interactions.time_order(log).tolist() == [0, 4, 2, 1, 3]
    assert interactions.out_of_order(log) == 1
    no_times = make([("2", "a"), ("1", "b"), ("2", "c")], timestamps=False)
    assert interactions.time_order(no_times).tolist() == [0, 2, 1]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [(["10", "9", "100"], ["9", "10", "100"]), (["b", "a", "10"], ["10", "a", "b"])],
)
def test_compact_orders_ids_by_key(keys, expected):
    log = make([("u", key) for key in keys])
    assert interactions.compact(log).item_keys == expected
    dropped = filters.select(log, np.array([0, 2]))
    assert interactions.compact(dropped).item_keys == [k for k in expected if k != keys[1]]


def test_statistics():
    stats = interactions.statistics(np.array([0, 3, 4, 8]), 6, np.arange(8), np.full(8, 4.5))
    assert stats["length"] == {"min": 1, "median": 3.0, "mean": 8 / 3, "max": 4}
    assert stats["density"] == pytest.approx(8 / 15)
    assert stats["time"] == {"first": 0, "last": 7}
    assert stats["rating"] == {"mean": 4.5}


def test_rows_of_one_time_in_the_order_of_keys_are_told(monkeypatch):
    offsets = np.arange(0, 81 * 4, 4)  # 80 users of four items, whose last two times are one
    items = np.tile([5, 2, 3, 9], 80).astype(np.int32)
    timestamps = np.tile([1, 2, 2, 2], 80)
    for chunk in (7, 1 << 18):
        monkeypatch.setattr(interactions, "_ROWS", chunk)
        note = interactions.order_of_keys(offsets, items, timestamps)
        assert note and note.startswith("160 rows have the time of the same user's row before")
        assert "100% of them stand in the order of the item keys" in note
        for other in (
            np.tile([5, 3, 2, 9], 80),  # half of them rise
            np.tile([5, 2, 2, 2], 80),  # one item again
        ):
            assert interactions.order_of_keys(offsets, other, timestamps) is None
        apart = np.tile([2, 2, 3, 4], 80)  # and the first two
        assert interactions.order_of_keys(offsets, items, apart) is None
        assert (
            interactions.order_of_keys(offsets[:40], items[:156], timestamps[:156]) is None
        )  # few
    one_each = np.arange(161)  # equal times of different users
    assert interactions.order_of_keys(one_each, np.arange(160), np.zeros(160, int)) is None


def test_nanoseconds_order_rows_within_a_second():
    log = LogBuilder(timestamps=True, ratings=False)
    for item, time in (("c", (1, 5)), ("a", (1, 2)), ("a", (1, 9)), ("b", (0, 7)), ("d", (2, 1))):
        log.add("u", item, time[0], nanoseconds=time[1])
    log = log.build()
    assert log.nanoseconds.tolist() == [5, 2, 9, 7, 1]
    assert (
        interactions.time_order(log).tolist() == [3, 1, 0, 2, 4]
        and interactions.out_of_order(log) == 2
    )
    for keep, rows in (("first", [1, 0, 3, 4]), ("last", [0, 2, 3, 4])):
        kept = filters.deduplicate(log, keep)
        assert sorted(kept.nanoseconds.tolist()) == sorted(log.nanoseconds[rows].tolist())
    assert interactions.compact(filters.select(log, np.array([0, 1]))).nanoseconds.tolist() == [
        5,
        2,
    ]
    whole = LogBuilder(timestamps=True, ratings=False)
    whole.add("u", "a", 3)
    assert whole.build().nanoseconds is None
