import jax
import jax.numpy as jnp
import numpy as np

from recjax.nn.soft import place_soft

RNG = np.random.default_rng(0)
EMBEDDINGS = jnp.array(RNG.standard_normal((3, 6, 4)), jnp.float32)
SOFT = jnp.array(RNG.standard_normal((3, 2, 4)), jnp.float32)
# Left-padded rows of lengths 6, 4 and 2; the last one has no soft token.
IS_SOFT = jnp.array([[1, 0, 0, 0, 0, 1], [0, 0, 0, 1, 1, 0], [0] * 6], bool)


def by_hand(embeddings, is_soft, soft):
    out = np.array(embeddings)
    for b, row in enumerate(np.asarray(is_soft)):
        for s, t in enumerate(np.flatnonzero(row)):
            out[b, t] = soft[b, s]
    return out


def test_in_their_order_wherever_the_row_begins():
    got = jax.jit(place_soft)(EMBEDDINGS, IS_SOFT, SOFT)
    np.testing.assert_array_equal(got, by_hand(EMBEDDINGS, IS_SOFT, SOFT))


def test_gradients_reach_what_was_placed_and_nothing_else():
    d_embeddings, d_soft = jax.grad(
        lambda e, s: (place_soft(e, IS_SOFT, s) * jnp.arange(1.0, 7)[:, None]).sum(), (0, 1)
    )(EMBEDDINGS, SOFT)
    np.testing.assert_array_equal(d_soft[..., 0], [[1, 6], [4, 5], [0, 0]])
    np.testing.assert_array_equal(d_embeddings[..., 0] == 0, IS_SOFT)


def test_a_place_without_a_soft_token_is_no_number():
    got = place_soft(EMBEDDINGS, IS_SOFT.at[2, :3].set(True), SOFT)
    assert np.isnan(got[2, 2]).all() and np.isfinite(got[2, :2]).all()
    assert np.isfinite(got[:2]).all()


def test_in_the_type_of_the_embeddings():
    assert place_soft(EMBEDDINGS.astype(jnp.bfloat16), IS_SOFT, SOFT).dtype == jnp.bfloat16
