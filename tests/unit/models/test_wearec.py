"""WEARec beside a plain form of its layer, and the authors' number of parameters."""

import jax
import numpy as np

from recjax.models.definition import define
from recjax.models.filtered import MixerLayer
from recjax.models.layered import Rows
from recjax.models.wearec import PRESETS, Config, Layer, Recommender
from recjax.nn.masks import make_mask

RNG = np.random.default_rng(0)


def gelu(x):
    return np.asarray(jax.nn.gelu(x))


def plain(window, part):
    """Both parts of a whole window [L D], at all of its places, as the authors' code has them."""
    length, dim = window.shape
    groups = part["gains"].shape[0]
    spectrum = np.fft.rfft(window, axis=0, norm="ortho").reshape(-1, groups, dim // groups)
    read = gelu(window.mean(axis=0) @ part["read/kernel"] + part["read/bias"])
    moved = (read @ part["adapt/kernel"] + part["adapt/bias"]).reshape(groups, -1, 2)
    gains, offsets = part["gains"] * (1 + moved[..., 0]), part["offsets"] + moved[..., 1]
    spectrum = spectrum * gains.T[..., None] + offsets.T[..., None]
    filtered = np.fft.irfft(spectrum.reshape(-1, dim), length, axis=0, norm="ortho")
    older, newer = window[0::2], window[1::2]
    mean, detail = (older + newer) / 2, (older - newer) / 2 * part["details"]
    waved = np.empty_like(window)
    waved[0::2], waved[1::2] = mean + detail, mean - detail
    return filtered, waved


def test_a_full_window_has_the_authors_numbers_at_its_newest_place():
    config = Config(dim=6, heads=2, mlp_dim=8, max_length=8, filter_share=0.3)
    definition = define(lambda rngs: Layer(config, rngs=rngs))
    part = {
        path: RNG.normal(0, 0.5, value.shape).astype(np.float32)
        for path, value in definition.shapes.items()
    }
    window = RNG.standard_normal((8, 6)).astype(np.float32)
    filtered, waved = plain(window, part)
    x = window + 0.3 * filtered + 0.7 * waved
    x = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-6)
    expected = x * part["filter_norm/scale"] + part["filter_norm/bias"]

    segments = np.ones((1, 8), np.int32)
    rows = Rows(make_mask(segments > 0), np.arange(8)[None], segments)

    @jax.jit
    def mixed(part, x):
        made: MixerLayer = definition.merge(part)
        return made.mixed(x, rows, deterministic=True, rngs=None)

    found = np.asarray(mixed(part, window[None]))[0]
    np.testing.assert_allclose(found[-1], expected[-1], atol=1e-5)
    # Upstream's value at an earlier place has later items in it.
    assert np.abs(found[3] - expected[3]).max() > 1e-2
    later = window.copy()
    later[5:] += 1.0
    np.testing.assert_array_equal(np.asarray(mixed(part, later[None]))[0, :5], found[:5])


def test_parameters_are_as_many_as_in_the_authors_log():
    shapes = define(lambda rngs: Recommender(PRESETS["beauty"], 12_102, rngs=rngs)).shapes
    unused = 2  # a gate of each layer that their code makes and never reads
    assert sum(np.prod(leaf.shape) for leaf in shapes.values()) == 910_978 - unused
