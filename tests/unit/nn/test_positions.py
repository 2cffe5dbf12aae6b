"""Rotary embeddings: what they must do to inner products, and LLaMA 3's scaling by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from recjax.nn.positions import RopeScaling, rope_angles, rope_frequencies, rotate


def test_frequencies_by_hand():
    # theta^0, theta^(-1/2): a head of 4 has two pairs.
    np.testing.assert_allclose(rope_frequencies(4, 10000.0), [1.0, 0.01], rtol=1e-6)
    assert rope_frequencies(4, 10000.0).dtype == np.float32


def test_llama3_scaling_has_three_ranges():
    """Context 64, low 1, high 4: wavelengths under 16 stay, over 64 are stretched by 4."""
    scaling = RopeScaling(4.0, 1.0, 4.0, 64)
    plain, scaled = rope_frequencies(16, 1000.0), rope_frequencies(16, 1000.0, scaling)
    wavelength = 2 * np.pi / plain
    short, long = wavelength < 16, wavelength > 64
    assert short.any() and long.any() and (~short & ~long).any()
    np.testing.assert_array_equal(scaled[short], plain[short])
    np.testing.assert_allclose(scaled[long], plain[long] / 4, rtol=1e-6)
    between = ~short & ~long
    share = (64 / wavelength[between] - 1) / 3
    expected = plain[between] * (share + (1 - share) / 4)
    np.testing.assert_allclose(scaled[between], expected, rtol=1e-6)


def test_scores_depend_on_distance_alone():
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 6, 8))
    frequencies = rope_frequencies(8, 100.0)

    def scores(start):
        angles = rope_angles(start + jnp.arange(6)[None], frequencies)
        return jnp.einsum("BNTH,BNMH->BTM", rotate(q, angles), rotate(k, angles))

    np.testing.assert_allclose(scores(0), scores(37), atol=1e-4)
    assert np.abs(scores(0) - jnp.einsum("BNTH,BNMH->BTM", q, k)).max() > 0.1


def test_position_0_is_the_identity_and_pairs_are_half_a_head_apart():
    x = jnp.zeros((1, 1, 2, 8)).at[..., 1].set(1.0)
    turned = rotate(x, rope_angles(jnp.array([[0, 1]]), rope_frequencies(8, 100.0)))
    np.testing.assert_array_equal(turned[0, 0, 0], x[0, 0, 0])
    assert set(np.flatnonzero(turned[0, 0, 1])) == {1, 5}
