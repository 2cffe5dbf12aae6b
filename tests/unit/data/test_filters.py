"""Filters of a raw log."""

import pytest

from recjax.data import filters
from recjax.errors import InputError
from tests.unit.data.test_interactions import make


def rows(log):
    return [(log.user_keys[u], log.item_keys[i]) for u, i in zip(log.users, log.items, strict=True)]


def test_k_core_repeats_until_stable():
    # c is bought once: without it, user 3 has one item left and goes too; then b has one user.
    log = make([("1", "a"), ("1", "b"), ("2", "a"), ("2", "d"), ("1", "d"), ("3", "c"), ("3", "b")])
    core = filters.k_core(log, users=2, items=2)
    assert rows(core) == [("1", "a"), ("2", "a"), ("2", "d"), ("1", "d")]


def test_deduplicate_first_and_last_in_time():
    log = make([("1", "a", 30), ("1", "b", 10), ("1", "a", 20), ("2", "a", 5), ("1", "a", 40)])
    assert filters.count_duplicates(log) == 2
    first = filters.deduplicate(log, "first")
    assert first.timestamps.tolist() == [10, 20, 5]
    last = filters.deduplicate(log, "last")
    assert last.timestamps.tolist() == [10, 5, 40]


def test_filter_ratings():
    log = make([("1", "a", 0, 3.0), ("1", "b", 0, 4.0)])
    assert rows(filters.filter_ratings(log, 4.0)) == [("1", "b")]
    with pytest.raises(InputError, match="config.data.min_rating is set, but the source has no"):
        filters.filter_ratings(make([("1", "a")], ratings=False), 4.0)


def test_rows_of_one_user_item_and_time():
    log = make([("1", "a", 3), ("1", "b", 3), ("1", "a", 4), ("1", "a", 3), ("2", "a", 3)])
    assert filters.exact_duplicates(log).tolist() == [3]
    below = make([("1", "a", 3, 0.0, 5), ("1", "a", 3), ("1", "a", 3, 0.0, 5)])  # nanoseconds
    assert filters.exact_duplicates(below).tolist() == [2]
    assert rows(filters.deduplicate(log, "exact")) == rows(log)[:3] + [("2", "a")]
    assert filters.exact_duplicates(make([], timestamps=True)).tolist() == []
