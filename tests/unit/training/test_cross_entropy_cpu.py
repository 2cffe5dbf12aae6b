"""Blocks without a position that counts, on a CPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.training.cross_entropy import softmax_cross_entropy
from recjax.training.cross_entropy_cpu import block_count, skip_weightless


def test_blocks_of_weight_0_are_not_computed():
    def body(carry, block):
        rows, _, _ = block
        return carry + 1, rows + 1

    rows, weights = np.ones((3, 4, 2), np.float32), np.zeros((3, 4), np.float32)
    weights[1, 2] = 0.5
    computed, out = jax.jit(lambda *given: jax.lax.scan(skip_weightless(body), 0, given))(
        rows, weights, weights
    )
    assert computed == 1
    assert np.asarray(out)[:, 0, 0].tolist() == [0, 2, 0]


def test_blocks_are_many_but_not_small():
    assert [block_count(n, 1) for n in (100, 256, 1024, 10**6)] == [1, 2, 8, 8]
    assert block_count(1024, 20) == 20


@pytest.mark.parametrize("budget", [None, 300])
def test_few_positions_of_many_have_the_loss_of_those_alone(budget):
    rng = np.random.default_rng(0)
    h, table = (rng.standard_normal((n, 4)).astype(np.float32) for n in (600, 9))
    targets = rng.integers(1, 9, 600)
    counts = rng.random(600) < 0.3
    weights = np.where(counts, rng.random(600), 0.0).astype(np.float32)

    def loss(h, table, targets, weights, budget):
        return softmax_cross_entropy(h, table, targets, weights, budget=budget)[0]

    gradient = jax.jit(jax.value_and_grad(loss, (0, 1)), static_argnums=4)
    value, (d_h, d_table) = gradient(h, table, targets, weights, budget)
    alone, (d_h_alone, d_table_alone) = gradient(
        h[counts], table, targets[counts], weights[counts], None
    )
    np.testing.assert_allclose(value, alone, rtol=1e-5)
    np.testing.assert_allclose(d_table, d_table_alone, atol=1e-5)
    np.testing.assert_allclose(np.asarray(d_h)[counts], d_h_alone, atol=1e-6)
    assert not jnp.any(d_h[~counts])
