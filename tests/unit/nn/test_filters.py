"""Causal filters beside those in the frequencies, and the bias of distances."""

import jax.numpy as jnp
import numpy as np

from recjax.nn.filters import filtered, filtered_alike, kernel_of, low_pass
from recjax.nn.masks import make_mask
from recjax.nn.relative import RelativeBias

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 10, 3)).astype(np.float32)
ONES, PLACES = jnp.ones((2, 10), jnp.int32), jnp.broadcast_to(jnp.arange(10), (2, 10))


def test_the_newest_vector_has_the_filter_of_its_window():
    gains = RNG.standard_normal((6, 3, 2)).astype(np.float32)
    spectrum = np.fft.rfft(X, axis=1) * (gains[..., 0] + 1j * gains[..., 1])
    found = filtered(jnp.array(X), kernel_of(jnp.array(gains), 10), ONES)
    np.testing.assert_allclose(found[:, -1], np.fft.irfft(spectrum, 10, axis=1)[:, -1], atol=1e-5)


def test_a_low_pass_keeps_the_lowest_frequencies():
    for kept in (1, 3, 6):
        spectrum = np.fft.rfft(X, axis=1)
        spectrum[:, kept:] = 0
        found = filtered_alike(jnp.array(X), low_pass(10, kept), make_mask(ONES), PLACES)
        expected = np.fft.irfft(spectrum, 10, axis=1)[:, -1]
        np.testing.assert_allclose(found[:, -1], expected, atol=1e-5)


def test_distances_bias_by_head():
    bias = RelativeBias(4, 2)
    bias.table[...] = jnp.arange(8.0).reshape(4, 2)
    found = np.asarray(bias(jnp.array([[3, 5, 9]])))
    assert found.shape == (1, 2, 3, 3)
    np.testing.assert_array_equal(found[0, 1], [[1, 1, 1], [5, 1, 1], [7, 7, 1]])
