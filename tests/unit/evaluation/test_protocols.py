"""Protocols end to end over a tiny made-up model, against plain numpy."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from recjax.data.splits import leave_one_out
from recjax.errors import InputError
from recjax.evaluation.protocols import EvaluationConfig, Evaluator

RNG = np.random.default_rng(0)
N_ITEMS = 160
LENGTHS = RNG.integers(3, 15, 70)
OFFSETS = np.concatenate([[0], np.cumsum(LENGTHS)])
ITEMS = np.concatenate(
    [RNG.choice(np.arange(1, N_ITEMS), n, replace=False) for n in LENGTHS]
).astype(np.int32)
TABLE = RNG.standard_normal((N_ITEMS, 6)).astype(np.float32)


def encode(params, batch):
    """The newest item's own vector."""
    table = jnp.array(TABLE) * params
    return table[batch["ids"].reshape(-1)[batch["last"]]], table


def make(**config):
    return Evaluator(
        EvaluationConfig(**config),
        "test",
        ITEMS,
        OFFSETS,
        leave_one_out(OFFSETS).test,
        N_ITEMS,
        length=8,
        encode=encode,
    )


def ranks(mask_seen):
    out = []
    for user in range(len(LENGTHS)):
        history = ITEMS[OFFSETS[user] : OFFSETS[user + 1] - 1]
        target = ITEMS[OFFSETS[user + 1] - 1]
        scores = TABLE @ TABLE[history[-1]]
        part = np.ones(N_ITEMS, bool)
        part[0] = False
        if mask_seen:
            part[history] = False
        part[target] = False
        out.append(1 + (scores[part] >= scores[target]).sum())
    return np.array(out)


@pytest.mark.parametrize("batch_size", [16, 70, 100])
def test_full_with_and_without_seen_items(batch_size):
    evaluator = make(protocols=("full", "full_with_seen"), batch_size=batch_size, item_chunk=64)
    found = evaluator.run(1.0)
    assert sorted(found) == sorted(evaluator.metric_names)
    for name, mask_seen in (("full", True), ("full_with_seen", False)):
        expected = ranks(mask_seen)
        for k in (1, 5, 10, 20):
            assert found[f"test/{name}/hr@{k}"] == pytest.approx((expected <= k).mean())
            gains = (expected <= k) / np.log2(expected + 1)
            assert found[f"test/{name}/ndcg@{k}"] == pytest.approx(gains.mean())
        assert found[f"test/{name}/mrr"] == pytest.approx((1 / expected).mean())
    # The newest item is its own best match: with seen items it always comes first.
    assert found["test/full_with_seen/hr@1"] == 0 < found["test/full/hr@20"]


def test_several_sets_of_parameters_at_once():
    """Each is measured as alone; the last of them reads half of the vectors."""
    evaluator = make(protocols=("full", "uni100"), batch_size=32)
    stacked = np.array([[1] * 6, [2] * 6, [1, 1, 1, 0, 0, 0]], np.float32)
    found = evaluator.measure_stacked(stacked)
    assert len(found) == 3
    for one, own in zip(stacked, found, strict=True):
        alone = evaluator.measure(one)
        assert own.metrics == pytest.approx(alone.metrics)
        np.testing.assert_array_equal(own.values["full"]["rank"], alone.values["full"]["rank"])
    np.testing.assert_array_equal(found[0].users, found[2].users)
    assert found[0].metrics["test/full/mrr"] != found[2].metrics["test/full/mrr"]


def test_what_was_found_of_each_example():
    evaluator = make(protocols=("full", "uni100"), batch_size=16)
    measured = evaluator.measure(1.0)
    np.testing.assert_array_equal(measured.users, np.arange(len(LENGTHS)))
    np.testing.assert_array_equal(measured.targets, ITEMS[OFFSETS[1:] - 1])
    np.testing.assert_array_equal(measured.values["full"]["rank"], ranks(True))
    assert measured.metrics == evaluator.run(1.0)
    means = {
        f"test/{protocol}/{name}": column.mean()
        for protocol, columns in measured.values.items()
        for name, column in columns.items()
        if name != "rank"
    }
    assert means == {k: v for k, v in measured.metrics.items() if "coverage" not in k}
    # Of a sample, too, each example is the one that its user and target say.
    some = make(max_examples=20, batch_size=8).measure(1.0)
    np.testing.assert_array_equal(some.values["full"]["rank"], ranks(True)[some.users])
    np.testing.assert_array_equal(some.targets, measured.targets[some.users])


def test_uni100_ranks_among_items_never_met():
    evaluator = make(protocols=("uni100",), batch_size=32)
    results = list(evaluator.rank(1.0))
    found = np.concatenate([r["uni100"]["ranks"] for r in results])
    assert found.min() >= 1 and found.max() <= 101
    # 100 of the items never met: the rank scales down by about that share.
    share = 100 / (N_ITEMS - 1 - LENGTHS.mean())
    assert found.mean() == pytest.approx(1 + share * (ranks(True).mean() - 1), rel=0.05)
    again = np.concatenate(
        [r["uni100"]["ranks"] for r in make(protocols=("uni100",), batch_size=32).rank(1.0)]
    )
    np.testing.assert_array_equal(found, again)


def test_a_sample_of_examples():
    results = list(make(max_examples=20, batch_size=8).rank(1.0))
    assert sum(len(r["examples"]) for r in results) == 20


def test_uni100_needs_100_items_that_a_user_never_met():
    few = np.unique(ITEMS)[: 100 + LENGTHS.max() - 1]
    message = f"'uni100' ranks among 100 items .* of {len(few)} items a user of the test split lea"
    evaluator = dataclasses.replace(make(protocols=("uni100",)), n_items=len(few) + 1)
    for call in (evaluator.check, lambda: evaluator.run(1.0)):
        with pytest.raises(InputError, match=f"config.evaluation.protocols: {message}ves 99: "):
            call()
    dataclasses.replace(evaluator, n_items=len(few) + 2).check()
    dataclasses.replace(evaluator, config=EvaluationConfig(), n_items=30).check()


def test_what_cannot_be_evaluated():
    with pytest.raises(InputError, match="no protocol 'ful'; did you mean 'full'"):
        make(protocols=("ful",))
    with pytest.raises(InputError, match="cutoffs: expected "):
        make(cutoffs=(0,))
    with pytest.raises(InputError, match="config.split leaves no example for test"):
        Evaluator(
            EvaluationConfig(), "test", ITEMS, OFFSETS,
            leave_one_out(np.array([0, 2])).test, N_ITEMS, 8, encode,
        )  # fmt: skip
