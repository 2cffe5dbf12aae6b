"""S3-Rec's draws and losses; its model stands in `test_contract.py`."""

import jax
import numpy as np
from flax import nnx

from recjax.models.definition import define
from recjax.models.recommender import make_recommender
from recjax.models.s3rec import drawn_runs, other_items, pair_loss

# Sequences of six items; and of one and of four, behind a place of padding.
PACKED = {
    "positions": np.array([[0, 1, 2, 3, 4, 5], [0, 5, 2, 3, 4, 5]], np.int32),
    "segments": np.array([[1, 1, 1, 1, 1, 1], [0, 1, 2, 2, 2, 2]], np.int32),
}


def test_a_drawn_item_is_another_one():
    ids = np.repeat(np.arange(1, 5), 300)
    drawn = np.asarray(jax.jit(other_items, static_argnums=2)(jax.random.key(0), ids, 5))
    for item in range(1, 5):
        found, counts = np.unique(drawn[ids == item], return_counts=True)
        assert found.tolist() == [k for k in range(1, 5) if k != item]
        assert counts.min() > 60  # of 100 each


def test_a_run_is_in_one_sequence_and_half_of_it_at_most():
    keys = jax.random.split(jax.random.key(0), 300)
    draw = jax.jit(jax.vmap(lambda key: drawn_runs(key, **PACKED, longest=6)))
    drawn = np.asarray(draw(keys)).astype(int)
    assert not drawn[:, 1, :2].any()
    for row, start, size in ((0, 0, 6), (1, 2, 4)):
        runs = {tuple(run) for run in drawn[:, row, start : start + size].tolist()}
        assert runs == {
            tuple(int(first <= k < first + many) for k in range(size))
            for many in range(1, size // 2 + 1)
            for first in range(size - many + 1)
        }


def test_a_pair_is_compared_by_its_probabilities():
    right, wrong = np.array([0.0, 2.0, 90.0]), np.array([0.0, -1.0, -90.0])
    differences = 1 / (1 + np.exp(-right)) - 1 / (1 + np.exp(-wrong))
    np.testing.assert_allclose(
        jax.jit(pair_loss)(right, wrong), np.log1p(np.exp(-differences)), rtol=1e-6
    )


def test_attributes_add_up_and_pairs_count_once():
    section = {
        "name": "s3rec", "stage": "pretrain", "dim": 2, "mlp_dim": 2, "layers": 1, "max_length": 6,
        "dropout": 0.0, "mask_share": 0.5,
    }  # fmt: skip
    definition = define(lambda rngs: make_recommender(section, 9, rngs, n_attributes=5))
    # Where nothing weighs anything, each comparison is even.
    params = {path: np.zeros(a.shape, a.dtype) for path, a in definition.shapes.items()}
    params["attributes/values"] = np.eye(9, 5, dtype=np.float32)
    batch = {"ids": np.array([[1, 2, 3, 4, 5, 6], [0, 7, 8, 1, 7, 3]], np.int32), **PACKED}

    def loss(params, batch):
        return definition.merge(params).loss(batch, nnx.Rngs(dropout=1, noise=2))

    sums, weights = jax.device_get(jax.jit(loss)(params, batch))
    assert 0 < weights[0] < 11 and weights.tolist() == [weights[0], weights[0], 11, 2]
    even = np.log(2)
    # A masked item against another, its attributes, all items' attributes, runs of items.
    np.testing.assert_allclose(sums / weights, [even, 5 * even, 0.2 * 5 * even, 0.5 * even], 1e-6)
