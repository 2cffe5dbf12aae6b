import dataclasses

import numpy as np
import pytest

from recjax.data.pipeline import EvalBatches, TrainBatches, step_size
from recjax.data.splits import Spans, leave_one_out
from recjax.errors import InputError


def spans(lengths):
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    users = np.arange(len(lengths), dtype=np.int32)
    return Spans(users, offsets[:-1], offsets[1:])


def make(lengths=(3, 1, 5, 2, 9, 4, 2, 7), **kwargs):
    items = np.arange(1, sum(lengths) + 1, dtype=np.int32)
    options = {"length": 6, "batch_size": 4, "seed": 3, **kwargs}
    return items, TrainBatches(items, spans(lengths), **options)


def pairs(batch, k=0):
    real = batch["targets"][k] > 0
    found = zip(batch["ids"][k][real].tolist(), batch["targets"][k][real].tolist(), strict=True)
    return sorted(found)


def test_inputs_and_targets_are_neighbours_of_one_sequence():
    _, batches = make()
    owner = np.repeat(np.arange(8), [3, 1, 5, 2, 9, 4, 2, 7])
    batch = batches(0, 5)
    real = batch["targets"] > 0
    assert (real == (batch["ids"] > 0)).all()
    ids, targets = batch["ids"][real], batch["targets"][real]
    assert (targets == ids + 1).all()
    assert (owner[ids - 1] == owner[targets - 1]).all()
    assert (batch["sequences"][real] == owner[ids - 1]).all()


def test_every_sequence_once_an_epoch_and_the_newest_items_kept():
    _, batches = make()
    assert batches.n_sequences == 7  # the one with a single item trains nothing
    assert batches.steps_per_epoch == 2  # of four each: nearest to 7 / 4
    seven = make(batch_size=7)[1](0)
    found = pairs(seven)
    # The run of nine items is 12..20; its window holds the newest seven, six inputs.
    expected = [(a, a + 1) for a in (1, 2, 5, 6, 7, 8, 10)] + [(a, a + 1) for a in range(14, 20)]
    expected += [(21, 22), (22, 23), (23, 24), (25, 26)] + [(a, a + 1) for a in range(27, 33)]
    assert found == sorted(expected)


def test_batches_depend_on_seed_and_step_alone():
    _, batches = make()
    together = batches(2, 3)
    alone = make()[1](3)
    for name, value in alone.items():
        np.testing.assert_array_equal(value[0], together[name][1])
    assert pairs(make(seed=4)[1](0)) != pairs(batches(0))


def test_packed_and_padded_hold_the_same_sequences():
    lengths = [2, 3] * 20
    packed, padded = (make(lengths, batch_size=20, packed=p)[1](1) for p in (True, False))
    assert pairs(packed) == pairs(padded)
    assert packed["ids"].shape[1] < padded["ids"].shape[1] == 20
    assert (padded["ids"][0, :, -1] > 0).all()  # newest on the right


def test_processes_share_a_batch():
    whole = make(batch_size=6)[1](4)
    parts = [make(batch_size=6, process=(p, 2))[1](4) for p in range(2)]
    assert parts[0]["ids"].shape == parts[1]["ids"].shape
    assert sorted(pairs(parts[0]) + pairs(parts[1])) == pairs(whole)
    with pytest.raises(
        InputError, match="config.train.batch_size: 4 is no multiple of the 3 processes"
    ):
        make(process=(0, 3))


def test_processes_have_the_rows_that_any_of_them_needs():
    lengths = [2] * 30 + [9] * 3
    parts = [make(lengths, length=8, batch_size=16, process=(p, 2))[1] for p in range(2)]
    for part in parts:
        vars(part)["_usual_rows"] = 1  # as if nearly every batch fitted one
    for step in (0, 3):  # one of them needs two, the other three
        assert [part(step)["ids"].shape for part in parts] == [(1, 3, 8)] * 2


@pytest.mark.parametrize("batch_size", [7, 8, 256])
def test_a_step_takes_no_sequence_twice(batch_size):
    _, batches = make(batch_size=batch_size)
    assert (batches.per_step, batches.steps_per_epoch) == (7, 1)
    for step in range(3):
        assert pairs(batches(step)) == pairs(make(batch_size=7)[1](0))
    parts = [make(batch_size=256, process=(p, 2))[1] for p in range(2)]
    assert {part.per_step for part in parts} == {6}  # the seventh comes first in the next step
    first = [pairs(part(0)) for part in parts]
    assert not set(first[0]) & set(first[1])


@pytest.mark.parametrize(
    ("batch_size", "count", "multiple", "size"),
    [(256, 12, 1, 12), (256, 256, 1, 256), (256, 300, 1, 256), (8, 13, 4, 8), (8, 7, 4, 4),
     (8, 3, 4, 4), (8, 0, 1, 1)],
)  # fmt: skip
def test_what_a_step_takes(batch_size, count, multiple, size):
    assert step_size(batch_size, count, multiple) == size


def test_nothing_to_train_on():
    with pytest.raises(InputError, match="no training sequence has two items"):
        make(lengths=(1, 1))


def test_times_count_from_the_first_item_of_the_window():
    times, most = np.arange(9) * 2**30, np.iinfo(np.int32).max
    run = Spans(np.zeros(1, np.int32), np.zeros(1, int), np.array([9]), times)
    items = np.arange(1, 10, dtype=np.int32)
    train = TrainBatches(items, run, 6, 1, seed=0)(0)
    history = dataclasses.replace(run, stops=np.array([8]))
    for batch in (train, EvalBatches(items, history, 6, 1)(0)):
        assert batch["ids"].ravel().tolist() == [3, 4, 5, 6, 7, 8]
        # 68 years at most.
        assert batch["times"].ravel().tolist() == [0, 2**30, most, most, most, most]


def test_evaluation_batches_cover_every_example_once():
    lengths = [4, 3, 12, 5, 3]
    items = np.arange(1, sum(lengths) + 1, dtype=np.int32)
    test = leave_one_out(np.concatenate([[0], np.cumsum(lengths)])).test
    for packed in (True, False):
        batches = EvalBatches(items, test, length=6, batch_size=2, packed=packed)
        seen = []
        for index in range(len(batches)):
            batch = batches(index)
            newest = batch["ids"].reshape(-1)[batch["last"]]
            positions = batch["positions"].reshape(-1)[batch["last"]]
            for k in np.flatnonzero(batch["weights"]):
                assert batch["targets"][k] == newest[k] + 1
                assert positions[k] == 5
                seen.append((int(batch["examples"][k]), int(batch["targets"][k])))
        assert seen == [(0, 4), (1, 7), (2, 19), (3, 24), (4, 27)]
    # The state of one without items would be that of the example before it.
    nobody = Spans(np.arange(3), np.array([0, 4, 7]), np.array([3, 4, 9]))
    with pytest.raises(InputError, match=r"example 1: its history \(4, 4\) is empty; expected"):
        EvalBatches(items, nobody, length=6, batch_size=2)
    masked = EvalBatches(items, nobody, length=6, batch_size=4, closing=99)(0)
    assert (masked["ids"].reshape(-1)[masked["last"][:3]] == 99).all()


def test_whole_runs_are_their_own_targets():
    """For models that learn at masked items: inputs and targets are the newest L items."""
    _, batches = make(batch_size=7, shifted=False)
    batch = batches(0)
    np.testing.assert_array_equal(batch["ids"], batch["targets"])
    found = sorted(batch["ids"][batch["ids"] > 0].tolist())
    # All runs but the single item 4, and of 12..20 the newest six.
    assert found == [1, 2, 3, *range(5, 12), *range(15, 27), *range(28, 34)]
    newest = batch["positions"] == 5
    assert newest.sum() == 7


def test_a_mask_follows_every_history():
    lengths = [4, 3, 12, 5, 3]
    items = np.arange(1, sum(lengths) + 1, dtype=np.int32)
    test = leave_one_out(np.concatenate([[0], np.cumsum(lengths)])).test
    for packed in (True, False):
        batches = EvalBatches(items, test, length=6, batch_size=2, packed=packed, closing=99)
        for index in range(len(batches)):
            batch = batches(index)
            ids, last = batch["ids"].reshape(-1), batch["last"]
            real = batch["weights"] > 0
            targets = batch["targets"][real]
            assert (ids[last[real]] == 99).all()
            np.testing.assert_array_equal(ids[last[real] - 1], targets - 1)
            assert (batch["positions"].reshape(-1)[last[real]] == 5).all()
            assert not np.isin(ids, targets).any(), "the answer is in the question"

        assert (batches(1)["ids"] != 0).sum() == 6 + 5  # five newest of eleven, and four


@pytest.mark.parametrize(("stride", "count"), [(0, 3), (4, 6), (3, 6), (1, 12)])
def test_stride_takes_earlier_windows_too(stride, count):
    """Runs of 2, 14 and 3 items in windows of 4 inputs: the long one has 13 inputs."""
    items = np.arange(100, dtype=np.int32)
    spans = Spans(np.arange(3), np.array([10, 20, 40]), np.array([12, 34, 43]))
    batches = TrainBatches(items, spans, 4, 4, seed=0, stride=stride)
    assert batches.n_sequences == count
    which, stops, lengths = batches._windows
    rows = [items[stop - n : stop] for stop, n in zip(stops, lengths, strict=True)]
    long = [row for row, span in zip(rows, which, strict=True) if span == 1]
    assert [row[-1] for row in long] == [32 - (stride or 1) * k for k in range(count - 2)]
    assert all(row[0] >= 20 and 1 <= len(row) <= 4 for row in long)
    if stride:
        assert set(np.concatenate(long)) == set(range(20, 33)), "every input is in a window"


def test_a_stride_beyond_the_window_would_lose_items():
    spans = Spans(np.arange(1), np.array([0]), np.array([9]))
    with pytest.raises(InputError, match="config.train.stride: 5, expected 0 to the window's 4"):
        TrainBatches(np.arange(9, dtype=np.int32), spans, 4, 1, seed=0, stride=5)


def test_every_prefix_is_a_sequence_with_its_last_target():
    _, batches = make(batch_size=25, prefixes=True)
    assert batches.n_sequences == 2 + 4 + 1 + 8 + 3 + 1 + 6  # the pairs of all positions
    batch = batches(0)
    whole = make(batch_size=7, length=9)[1](0)
    assert pairs(batch) == pairs(whole)
    here = batch["targets"] > 0
    assert (batch["positions"][here] == 5).all()  # the newest item ends the window
    assert (batch["ids"] > 0).sum() > here.sum()


def test_what_prefixes_do_not_go_with():
    with pytest.raises(InputError, match=r"config.train.stride: 2: prefixes .* expected 0"):
        make(prefixes=True, stride=2)
    with pytest.raises(InputError, match=r"config.train.prefixes: expected a model that reads"):
        make(prefixes=True, shifted=False)
