import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.training.token_loss import token_loss

RNG = np.random.default_rng(0)
B, T, E, V = 3, 7, 5, 23
H = np.asarray(RNG.standard_normal((B, T, E)), np.float32)
TABLE = np.asarray(RNG.standard_normal((V, E)), np.float32)
LABELS = np.where(RNG.random((B, T)) < 0.5, RNG.integers(0, V, (B, T)), -100)
LABELS[0, 0], LABELS[1, 1], LABELS[2, -1] = 3, 0, V - 1  # the first place's label is no label
COUNT = int((LABELS[:, 1:] >= 0).sum())


def plain(h, table, labels=LABELS):
    log_p = jax.nn.log_softmax(jnp.einsum("BTE,VE->BTV", h, table))
    losses = [
        -log_p[b, t - 1, labels[b, t]] for b in range(B) for t in range(1, T) if labels[b, t] >= 0
    ]
    return sum(losses)


expected_of = jax.jit(jax.value_and_grad(plain, (0, 1)))


@pytest.mark.parametrize("chunk", [None, 4])
@pytest.mark.parametrize("budget", [None, COUNT, COUNT + 2, 1000])
def test_loss_and_gradients_are_those_of_all_logits(budget, chunk):
    def ours(h, table):
        return token_loss(h, table, jnp.array(LABELS), budget=budget, chunk=chunk)

    both = jax.jit(jax.value_and_grad(ours, (0, 1), has_aux=True))
    (total, weight), grads = both(H, TABLE)
    assert weight == COUNT
    expected = expected_of(H, TABLE)
    for a, b in zip((total, *grads), (expected[0], *expected[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_more_labels_than_the_budget_are_no_number():
    def ours(h):
        return token_loss(h, TABLE, jnp.array(LABELS), budget=COUNT - 1)[0]

    value, slope = jax.jit(jax.value_and_grad(ours))(H)
    assert np.isnan(value) and np.isnan(slope).any()


def test_no_label_weighs_nothing():
    none = np.full((B, T), -100)
    total, weight = jax.jit(lambda h: token_loss(h, TABLE, none, budget=4))(H)
    assert total == weight == 0


def test_logits_are_computed_for_the_budget_alone():
    def flops(budget):
        loss = jax.jit(lambda h: token_loss(h, table, labels, budget=budget)[0])
        h, table = np.ones((3, 65, 32), np.float32), np.ones((512, 32), np.float32)
        labels = np.where(np.arange(65) < 57, -100, np.ones((3, 1), int))
        return loss.lower(h).compile().cost_analysis()["flops"]

    assert flops(None) > 6 * flops(24)


def test_all_logits_never_exist():
    """The largest array of value and gradient is far smaller than [B T V]."""
    h, table = np.ones((4, 65, 16), np.float32), np.ones((4096, 16), np.float32)
    labels = np.ones((4, 65), int)
    loss = jax.jit(jax.value_and_grad(lambda h: token_loss(h, table, labels, chunk=16)[0]))
    used = loss.lower(h).compile().memory_analysis().temp_size_in_bytes
    assert used < 4 * 4 * 64 * 4096 / 3
