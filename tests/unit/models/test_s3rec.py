"""S3-Rec's draws and losses; its model stands in `test_contract.py`."""

import jax
import numpy as np
from flax import nnx

from recjax.models.definition import define
from recjax.models.recommender import make_recommender
from recjax.models.s3rec import against, another


def test_a_drawn_item_is_another_one():
    ids = np.repeat(np.arange(1, 5), 300)
    drawn = np.asarray(jax.jit(another, static_argnums=2)(jax.random.key(0), ids, 5))
    for item in range(1, 5):
        found, counts = np.unique(drawn[ids == item], return_counts=True)
        assert found.tolist() == [k for k in range(1, 5) if k != item]
        assert counts.min() > 60  # of 100 each


def test_a_pair_is_compared_by_its_probabilities():
    right, wrong = np.array([0.0, 2.0, 90.0]), np.array([0.0, -1.0, -90.0])
    differences = 1 / (1 + np.exp(-right)) - 1 / (1 + np.exp(-wrong))
    np.testing.assert_allclose(
        jax.jit(against)(right, wrong), np.log1p(np.exp(-differences)), rtol=1e-6
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
    ids = np.array([[1, 2, 3, 4, 5, 6], [0, 0, 0, 7, 8, 1]], np.int32)
    places = np.tile(np.arange(6, dtype=np.int32), (2, 1))
    batch = {"ids": ids, "segments": (ids > 0).astype(np.int32), "positions": places}

    def loss(params, batch):
        return definition.merge(params).loss(batch, nnx.Rngs(dropout=1, noise=2))

    sums, weights = jax.device_get(jax.jit(loss)(params, batch))
    assert 0 < weights[0] < 9 and weights.tolist() == [weights[0], weights[0], 9, 2]
    even = np.log(2)
    # A masked item against another, its attributes, all items' attributes, segments.
    np.testing.assert_allclose(sums / weights, [even, 5 * even, 0.2 * 5 * even, 0.5 * even], 1e-6)
