"""S3-Rec's draws and losses; its model stands in `test_contract.py`."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from recjax.models.s3rec import drawn_runs, other_items, pair_loss
from recjax.testing import contracts

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


def test_the_tasks_read_what_the_paper_says():
    """Section 4.2, place by place; the encoder is the model's own, which sees both sides."""
    section = {
        "name": "s3rec", "stage": "pretrain", "dim": 4, "mlp_dim": 4, "layers": 1, "max_length": 6,
        "dropout": 0.0, "mask_share": 0.5,
    }  # fmt: skip
    model, n_items = contracts.build(section), contracts.N_ITEMS
    ids = np.array([[1, 2, 3, 4, 5, 6], [0, 7, 8, 1, 7, 3]], np.int32)
    segments, draws = PACKED["segments"], nnx.Rngs(noise=2)
    alike = (segments[:, :, None] == segments[:, None]) & (segments > 0)[:, None]
    alike |= np.eye(6, dtype=bool)

    @jax.jit
    def read(ids, hidden):
        x = jnp.where(hidden[..., None], model.mask[...], model.items(ids))
        return model._read(x, PACKED["positions"], alike, {"deterministic": True, "rngs": None})

    @jax.jit
    def draw(coins, others, runs):
        coins = jax.random.uniform(coins, ids.shape)
        return coins, other_items(others, ids, n_items), drawn_runs(runs, **PACKED, longest=6)

    coins, drawn, runs = map(np.asarray, draw(*(draws.noise() for _ in range(3))))
    masked = (coins < 0.5) & (segments > 0)
    table = np.asarray(model.items.embedding[...])
    task, labels = model.attributes, np.asarray(model.attributes.embedding[...])
    has = np.asarray(task.values[...])

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    def pair(a, right, wrong):
        return -np.log(sigmoid(sigmoid(a @ right) - sigmoid(a @ wrong)))

    def told(a, item):
        p = sigmoid(labels @ a)
        return -(has[item] * np.log(p) + (1 - has[item]) * np.log(1 - p)).sum()

    mip, map_, aap, sp = (
        np.asarray(f.kernel[...]) for f in (task.mip, task.map, task.aap, task.sp)
    )
    h, around, inside = (np.asarray(read(ids, hidden)) for hidden in (masked, runs, ~runs))
    places, real = list(zip(*np.nonzero(masked), strict=True)), segments > 0
    groups = [
        (segments == n) & (np.arange(2) == row)[:, None] & runs for row, n in ((0, 1), (1, 2))
    ]
    contexts, own = ([part[g].mean(axis=0) for g in groups] for part in (around, inside))
    expected = [
        sum(pair(h[at] @ mip, table[ids[at]], table[drawn[at]]) for at in places),
        sum(told(h[at] @ map_, ids[at]) for at in places),
        0.2 * sum(told(table[item] @ aap, item) for item in ids[real]),
        0.5 * sum(pair(contexts[n] @ sp, own[n], own[1 - n]) for n in (0, 1)),
    ]
    batch = {"ids": ids, **PACKED}
    sums, weights = jax.jit(lambda batch: model.loss(batch, nnx.Rngs(dropout=1, noise=2)))(batch)
    np.testing.assert_allclose(sums, expected, rtol=2e-4)
    assert np.asarray(weights).tolist() == [len(places), len(places), 11, 2]
