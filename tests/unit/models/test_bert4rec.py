"""BERT4Rec's masking: how much, where, and that a masked item is not seen."""

import jax
import numpy as np
import pytest
from flax import nnx

from recjax.data.pipeline import TrainBatches
from recjax.data.splits import Spans
from recjax.errors import InputError
from recjax.models.recommender import read_config
from recjax.testing import contracts

N = contracts.N_ITEMS
SECTION = {"name": "bert4rec", "max_length": 12, "dim": 8, "mlp_dim": 12, "dropout": 0.0}


def _batch(sequences=300, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 15, sequences)
    stops = np.cumsum(lengths)
    spans = Spans(np.arange(sequences, dtype=np.int32), stops - lengths, stops)
    items = rng.integers(1, N, stops[-1]).astype(np.int32)
    batches = TrainBatches(items, spans, 12, sequences, seed=0, shifted=False)
    return {k: np.array(v[0]) for k, v in batches(0).items()}, lengths


def _both(model, batch, seed):
    """What is masked, and what is learned of it."""

    @jax.jit
    def both(batch):
        chosen = model._choose(batch["positions"], batch["segments"], nnx.Rngs(noise=seed))
        return chosen, model.learn(batch, nnx.Rngs(noise=seed))[:3]

    chosen, learned = both(batch)
    return np.asarray(chosen), *map(np.asarray, learned)


def _learned(section, batch, seed):
    model = contracts.build({**SECTION, **section})
    return model, *_both(model, batch, seed)


def test_share_of_masked_items():
    batch, _ = _batch()
    real = np.asarray(batch["segments"]) > 0
    for share in (0.2, 0.6):
        _, chosen, _, targets, _ = _learned({"mask_share": share, "last_share": 0.0}, batch, seed=1)
        assert not chosen[~real].any()
        assert chosen[real].mean() == pytest.approx(share, abs=0.04)
        assert (targets > 0).sum() == chosen.sum(), "all masked items are learned from"
        assert sorted(targets[targets > 0]) == sorted(np.asarray(batch["ids"])[chosen])
        assert len(targets) < 0.8 * real.size, "few vectors are computed for nothing"


def test_newest_item_alone():
    batch, lengths = _batch()
    _, chosen, _, targets, sequences = _learned({"last_share": 1.0}, batch, seed=2)
    newest = np.asarray(batch["positions"]) == 11
    np.testing.assert_array_equal(chosen, newest & (np.asarray(batch["segments"]) > 0))
    assert sorted(sequences[targets > 0]) == list(range(len(lengths)))
    # With half of them: those sequences have one masked item, the newest.
    _, chosen, _, _, _ = _learned({"mask_share": 0.9, "last_share": 0.5}, batch, seed=3)
    whole = np.asarray(batch["sequences"])
    alone = [
        s
        for s in range(300)
        if (picked := chosen[(whole == s) & (np.asarray(batch["segments"]) > 0)]).sum() == 1
        and picked[-1]
    ]
    assert 130 < len(alone) < 200


def test_masked_items_are_not_seen():
    """The vectors at masked places do not change with the items that stood there."""
    batch, _ = _batch(40)
    model, chosen, h, targets, _ = _learned({}, batch, seed=4)
    swapped = dict(batch, ids=np.where(chosen, batch["ids"] % (N - 1) + 1, batch["ids"]))
    again = _both(model, swapped, 4)[1]
    np.testing.assert_array_equal(h[targets > 0], again[targets > 0])


def test_no_more_vectors_than_are_masked_at_most():
    """When the coins mask more than fits, the rest is left out, not mixed up."""
    batch, _ = _batch()
    model = nnx.clone(contracts.build({**SECTION, "mask_share": 0.3, "last_share": 0.0}))
    model._most_masked = lambda count: 10
    chosen, h, targets, sequences = _both(model, batch, 5)
    first = np.flatnonzero(chosen)[:10]
    assert h.shape[0] == 10
    np.testing.assert_array_equal(targets, np.asarray(batch["ids"]).reshape(-1)[first])
    np.testing.assert_array_equal(sequences, np.asarray(batch["sequences"]).reshape(-1)[first])


def test_shares_are_checked():
    with pytest.raises(InputError, match="mask_share: expected 0 to 1"):
        read_config({"name": "bert4rec", "mask_share": 1.2})
