import numpy as np
import pytest

from recjax.config import build
from recjax.data import splits
from recjax.errors import InputError
from recjax.training.ranking_run import SplitConfig


def triples(spans):
    columns = (spans.users, spans.starts, spans.stops)
    return list(zip(*(c.tolist() for c in columns), strict=True))


OFFSETS = np.array([0, 4, 6, 7, 10])  # lengths 4, 2, 1, 3


def test_leave_one_out():
    split = splits.leave_one_out(OFFSETS)
    # Short histories train whole; the others without their last two items.
    assert triples(split.train) == [(0, 0, 2), (1, 4, 6), (2, 6, 7), (3, 7, 8)]
    assert triples(split.validation) == [(0, 0, 2), (3, 7, 8)]
    assert triples(split.test) == [(0, 0, 3), (3, 7, 9)]


@pytest.mark.parametrize("offsets", [[], [0, 4, 2], [0.0, 4.0], [[0, 4]]], ids=str)
def test_what_are_no_offsets_is_refused(offsets):
    with pytest.raises(InputError, match=r"offsets: expected \[U\+1\] whole numbers, none less"):
        splits.leave_one_out(offsets)
    assert splits.leave_one_out([0, 4]).test.stops.tolist() == [3]


def test_rolling_points_have_all_that_was_before_them():
    split = splits.rolling(OFFSETS, 2, 1)
    assert triples(split.train) == [(0, 0, 1), (1, 4, 6), (2, 6, 7), (3, 7, 8)]
    assert triples(split.validation) == [(0, 0, 1), (3, 7, 8)]
    assert triples(split.test) == [(0, 0, 2), (0, 0, 3), (3, 7, 9)]
    # A user of few items keeps one for training; validation yields to tests.
    many = splits.rolling(np.array([0, 20, 25]), 10, 20)
    assert triples(many.train) == [(0, 0, 1), (1, 20, 21)]
    assert many.test.stops.tolist() == [*range(10, 20), 22, 23, 24]
    assert many.validation.stops.tolist() == [*range(1, 10), 21]


def test_one_rolling_point_is_leave_one_out():
    one, other = splits.rolling(OFFSETS, 1, 1), splits.leave_one_out(OFFSETS)
    for part in ("train", "validation", "test"):
        assert triples(getattr(one, part)) == triples(getattr(other, part))


def test_sequences_are_cut_by_the_time_of_their_last_item():
    last = [50, 10, 40, 20, 30, 60, 70, 80, 90, 100]  # of ten users with two items each
    times = np.array([[t - 5, t] for t in last]).reshape(-1)
    split = splits.chronological_sequences(np.arange(0, 21, 2), times)
    assert split.train.users.tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert triples(split.validation) == [(8, 16, 17)]
    assert triples(split.test) == [(9, 18, 19)]


def test_sequences_are_cut_by_their_first_time_or_in_the_order_of_users():
    first = [50, 10, 40, 20, 30, 60, 70, 80, 90, 0]
    times = np.array([[t, 200 - t] for t in first]).reshape(-1)  # who begins first ends last
    offsets = np.arange(0, 21, 2)
    users = {
        by: [part.users.tolist() for part in parts(offsets, times, by=by)]
        for by in ("start", "end", "user")
    }
    assert users["start"] == [[0, 1, 2, 3, 4, 5, 6, 9], [7], [8]]
    assert users["end"] == [[0, 2, 3, 4, 5, 6, 7, 8], [1], [9]]
    assert users["user"] == [[0, 1, 2, 3, 4, 5, 6, 7], [8], [9]]
    # The order of users needs no times.
    assert [p.users.tolist() for p in parts(offsets, None, by="user")] == users["user"]
    for by in ("start", "end"):
        with pytest.raises(InputError, match="'chronological_sequences' needs timestamps"):
            parts(offsets, None, by=by)


def parts(offsets, times, ratios=(8, 1, 1), **options):
    split = splits.chronological_sequences(offsets, times, ratios, **options)
    return split.train, split.validation, split.test


@pytest.mark.parametrize("by", ["end", "start", "user"])
@pytest.mark.parametrize("seed", range(8))
def test_whole_sequences_go_to_one_part_each_and_none_is_lost(by, seed):
    rng = np.random.default_rng(seed)
    n, ratios = int(rng.integers(1, 60)), [(8, 1, 1), (3, 1, 1), (1, 0, 0)][seed % 3]
    lengths = rng.integers(1, 6, n)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    # Few times, so that there are ties.
    times = np.concatenate([np.sort(rng.integers(0, 9, length)) for length in lengths])
    split = parts(offsets, times, ratios, by=by)
    owner, read = [], []
    for number, part in enumerate(split):
        # A validation or test sequence ends with its target, which `stops` leaves out.
        stops = part.stops + (number > 0)
        np.testing.assert_array_equal(part.starts, offsets[part.users])
        np.testing.assert_array_equal(stops, offsets[part.users + 1])
        owner += part.users.tolist()
        read += [i for a, b in zip(part.starts, stops, strict=True) for i in range(a, b)]
    assert len(owner) == len(set(owner)) and len(read) == len(set(read))
    # What is missing had one interaction alone, and so no history with a target.
    missing = sorted(set(range(n)) - set(owner))
    assert (lengths[missing] == 1).all() and len(read) == lengths.sum() - len(missing)
    assert len(split[0]) == int(n * ratios[0] / sum(ratios) + 1e-9)
    # Nothing of a later part comes before anything of an earlier one, ties in order of users.
    keys = {"end": times[offsets[1:] - 1], "start": times[offsets[:-1]], "user": np.arange(n)}[by]
    for earlier, later in ((0, 1), (0, 2), (1, 2)):
        places = [[(keys[u], u) for u in split[k].users.tolist()] for k in (earlier, later)]
        assert not all(places) or max(places[0]) < min(places[1])


def test_recinterpreters_counts():
    offsets = np.arange(0, 2 * 943 + 1, 2)
    split = splits.chronological_sequences(offsets, np.arange(2 * 943))
    assert [len(s) for s in (split.train, split.validation, split.test)] == [754, 94, 95]


def test_one_cut_in_time():
    # Two users, interleaved; cuts at the 80 % and 90 % quantiles: times 8 and 9.
    times = np.array([0, 2, 4, 6, 8, 1, 3, 5, 7, 9])
    split = splits.chronological_time(np.array([0, 5, 10]), times)
    assert triples(split.train) == [(0, 0, 4), (1, 5, 9)]
    assert triples(split.validation) == [(0, 0, 4)]  # history items[0:4], target items[4] at 8
    assert triples(split.test) == [(1, 5, 9)]


def test_cuts_may_be_given():
    times = np.array([0, 2, 4, 6, 8, 1, 3, 5, 7, 9])
    split = splits.chronological_time(np.array([0, 5, 10]), times, cuts=(5, 8))
    assert triples(split.train) == [(0, 0, 3), (1, 5, 7)]
    assert triples(split.validation) == [(0, 0, 3), (1, 5, 7), (1, 5, 8)]
    assert triples(split.test) == [(0, 0, 4), (1, 5, 9)]
    with pytest.raises(InputError, match="validation_from: nothing is before it, 0 in seconds; "):
        splits.chronological_time(np.array([0, 5, 10]), times, cuts=(0, 8))


@pytest.mark.parametrize(
    "given, message",
    [
        ({"test_from": "2024-03-01"}, "validation_from: expected a date, as test_from has one"),
        ({"validation_from": "2024-03-01"}, "test_from: expected a date, as validation_from has"),
        (
            {"validation_from": "2024-03-02", "test_from": "2024-03-01"},
            "test_from: '2024-03-01' is before validation_from",
        ),
        (
            {"validation_from": "2024", "test_from": "2024-03-01"},
            "validation_from: '2024': expected a date such as 2024-03-01",
        ),
        (
            {"validation_from": "2024-03-01", "test_from": "2024-03-01", "name": "rolling"},
            "validation_from: 'rolling' reads neither it nor test_from",
        ),
    ],
)
def test_cuts_are_checked(given, message):
    with pytest.raises(InputError, match=message):
        build(SplitConfig, {"name": "chronological_time"} | given, "config.split")


@pytest.mark.parametrize("name", ["chronological_sequences", "chronological_time"])
def test_chronological_splits_need_times_and_ratios(name):
    function = getattr(splits, name)
    with pytest.raises(InputError, match=f"config.split.name: '{name}' needs timestamps"):
        function(OFFSETS, None)
    with pytest.raises(InputError, match=r"config.split.ratios: .* got \(8, 2\)"):
        function(OFFSETS, np.arange(10), (8, 2))


def test_a_share_of_nothing_is_empty():
    split = splits.chronological_time(np.array([0, 5, 10]), np.arange(10), (8, 2, 0))
    assert triples(split.train) == [(0, 0, 5), (1, 5, 8)]
    assert triples(split.validation) == [(1, 5, 8), (1, 5, 9)]
    assert len(split.test) == 0


def test_a_cut_at_a_whole_number_stands_there():
    # 90 times 0.7 is 62.99999999999999 in float64.
    split = splits.chronological_time(np.array([0, 90]), np.arange(90), (7, 1, 2))
    assert [len(s) for s in (split.validation, split.test)] == [9, 18]


def test_users_with_one_interaction():
    offsets, times = np.array([0, 1, 2, 3, 4, 5]), np.array([3, 1, 4, 2, 5])
    for split in (
        splits.leave_one_out(offsets),
        splits.chronological_sequences(offsets, times, (3, 1, 1)),
        splits.chronological_time(offsets, times, (3, 1, 1)),
    ):
        assert len(split.train) and not len(split.validation) and not len(split.test)
