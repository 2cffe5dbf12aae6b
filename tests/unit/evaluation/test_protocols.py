"""Protocols end to end over a tiny made-up model, against plain numpy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.data.splits import leave_one_out
from recjax.errors import InputError
from recjax.evaluation.protocols import EvaluationConfig, Evaluator
from recjax.evaluation.ranking import marginal_relevance

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


def test_targets_that_are_no_new_items_are_told(monkeypatch):
    """A view, a cart and a purchase of one item: lists of new items never have the target."""
    assert make().repeated == 0 and make().note == ""
    items = ITEMS.copy()
    last = OFFSETS[1:] - 1
    items[last[:21]] = items[last[:21] - 1]  # 30 % of 70, and twice in some histories
    items[last[:5] - 2] = items[last[:5]]
    monkeypatch.setattr("recjax.evaluation.protocols._ITEMS", 16)
    found = dataclasses.replace(make(), items=items)
    assert found.repeated == pytest.approx(21 / 70)
    assert found.note.startswith("30% of the test targets are in the user's own history")
    assert "--with-seen" in found.note and "config.data.deduplicate=last" in found.note
    some = dataclasses.replace(found, config=EvaluationConfig(max_examples=10))
    assert some.repeated * 10 == pytest.approx(round(some.repeated * 10))


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
    """In validation the test's item, which the user meets later, is not among them either."""
    options = {"protocols": ("uni100",), "batch_size": 32}
    part = leave_one_out(OFFSETS).validation
    evaluator = dataclasses.replace(make(**options), examples=part)
    found = np.concatenate([r["uni100"]["ranks"] for r in evaluator.rank(1.0)])
    batches = [evaluator._batch(index) for index in range(len(evaluator.batches))]
    drawn = [batch["negatives"][batch["weights"] > 0] for batch in batches]
    for user, negatives in enumerate(np.concatenate(drawn)):
        met = ITEMS[OFFSETS[user] : OFFSETS[user + 1]]
        assert len({*negatives.tolist()} - {0, *met.tolist()}) == 100
        scores = TABLE @ TABLE[met[-3]]
        assert found[user] == 1 + (scores[negatives] >= scores[met[-2]]).sum()
    # Each batch draws its own, and the same ones the next time.
    assert np.corrcoef(drawn[0].reshape(-1), drawn[1].reshape(-1))[0, 1] < 0.7
    again = dataclasses.replace(make(**options), examples=part)._batch(1)
    np.testing.assert_array_equal(again["negatives"], drawn[1])


def test_lists_are_as_long_as_the_longest_cutoff():
    evaluator = make(cutoffs=(5, 1), mmr_balance=0.8, batch_size=70)
    (results,) = evaluator.rank(1.0)
    top, newest = results["full"]["top"], ITEMS[OFFSETS[1:] - 2]
    for user, ids in enumerate(top):
        scores = TABLE @ TABLE[newest[user]]
        scores[[0, *ITEMS[OFFSETS[user] : OFFSETS[user + 1] - 1]]] = -np.inf
        np.testing.assert_array_equal(ids, np.argsort(-scores)[:5])
    found = evaluator.run(1.0)
    relevance = jax.jit(marginal_relevance, static_argnums=(3, 4))
    mmr = np.asarray(relevance(TABLE[newest], TABLE, top, (5, 1), 0.8))
    for column, k in enumerate((5, 1)):
        assert found[f"test/full/coverage@{k}"] == len(np.unique(top[:, :k])) / (N_ITEMS - 1)
        assert found[f"test/full/mmr@{k}"] == pytest.approx(mmr[:, column].mean(), rel=1e-5)


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
