"""Causal filters beside those in the frequencies, and the bias of distances."""

import jax
import jax.numpy as jnp
import numpy as np

from recjax.nn.filters import (
    detail_scaled,
    filtered,
    filtered_alike,
    filtered_each,
    kernel_of,
    low_pass,
)
from recjax.nn.masks import make_mask
from recjax.nn.relative import BUCKETS, RelativeBias, TimeBias

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


def test_every_place_has_its_own_gains():
    for length in (10, 9):
        x = X[:, :length]
        gains = RNG.standard_normal((2, length, 3, length // 2 + 1)).astype(np.float32)
        ones, places = ONES[:, :length], PLACES[:, :length]
        found = jax.jit(filtered_each, static_argnums=2)(
            x[..., None], gains, length, make_mask(ones), places
        )
        for t in (3, length - 1):  # of the window that ends at t
            window = np.concatenate([np.zeros((2, length - 1 - t, 3)), x[:, : t + 1]], axis=1)
            spectrum = np.fft.rfft(window, axis=1) * gains[:, t].transpose(0, 2, 1)
            expected = np.fft.irfft(spectrum, length, axis=1)[:, -1]
            np.testing.assert_allclose(found[:, t, :, 0], expected, atol=1e-5)


def test_the_newer_vector_of_a_pair_has_its_wavelets_value():
    scale = RNG.standard_normal((5, 3)).astype(np.float32)
    older, newer = X[:, 0::2], X[:, 1::2]
    mean, detail = (older + newer) / 2, (older - newer) / 2
    found = np.asarray(detail_scaled(jnp.array(X), np.repeat(scale, 2, axis=0), ONES))
    np.testing.assert_allclose(found[:, 1::2], mean - scale * detail, atol=1e-6)
    np.testing.assert_allclose(detail_scaled(jnp.array(X), jnp.ones(1), ONES), X, atol=1e-6)
    packed = jnp.array([[1, 1, 1, 2, 2, 2, 2, 3, 3, 0]] * 2)  # nothing comes before a first one
    found = np.asarray(detail_scaled(jnp.array(X), jnp.zeros(1), packed))
    np.testing.assert_allclose(found[:, [0, 3, 7]], X[:, [0, 3, 7]] / 2, atol=1e-6)


def test_distances_bias_by_head():
    bias = RelativeBias(4, 2)
    bias.table[...] = jnp.arange(8.0).reshape(4, 2)
    found = np.asarray(bias(jnp.array([[3, 5, 9]])))
    assert found.shape == (1, 2, 3, 3)
    np.testing.assert_array_equal(found[0, 1], [[1, 1, 1], [5, 1, 1], [7, 7, 1]])


def test_times_bias_by_bucket():
    bias = TimeBias(1)
    bias.table[...] = jnp.arange(float(BUCKETS))[:, None]
    times = jnp.array([[0, 1, 61, 86_461, 2**31 - 1]])
    found = np.asarray(bias(times))[0, 0]
    seconds = np.array([0, 1, 61, 86_461, 2**31 - 1])
    np.testing.assert_array_equal(found[:, 0], np.log(np.maximum(seconds, 1)) // 0.301)
    assert found[4, 0] == BUCKETS - 1 and found[1, 0] == found[0, 0] == 0
    np.testing.assert_array_equal(found, found.T)
