"""BSARec's layer beside its formula; the filters stand in `tests/unit/nn/test_filters.py`."""

import jax
import numpy as np

from recjax.models.definition import define
from recjax.models.filtered import Config, Layer, MixerLayer
from recjax.models.layered import Rows
from recjax.nn.masks import make_mask

RNG = np.random.default_rng(0)


def _norm(x, part, name):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * part[f"{name}/scale"] + part[f"{name}/bias"]


def test_a_full_window_has_the_authors_numbers_at_its_newest_place():
    config = Config(dim=6, heads=2, mlp_dim=8, max_length=8, filter_share=0.3, cutoff=4)
    definition = define(lambda rngs: Layer(config, rngs=rngs))
    part = {
        path: RNG.normal(0, 0.5, value.shape).astype(np.float32)
        for path, value in definition.shapes.items()
    }
    window = RNG.standard_normal((8, 6)).astype(np.float32)
    segments = np.ones((1, 8), np.int32)
    rows = Rows(make_mask(segments > 0), np.arange(8)[None], segments)

    @jax.jit
    def called(part, x):
        made: MixerLayer = definition.merge(part)
        attended = made.attention(x, x, rows.mask, deterministic=True)
        return made(x, rows, deterministic=True), attended

    found, attended = (np.asarray(a)[0, -1] for a in called(part, window[None]))
    spectrum = np.fft.rfft(window, axis=0)
    spectrum[3:] = 0  # c // 2 + 1 are kept
    low, x = np.fft.irfft(spectrum, 8, axis=0)[-1], window[-1]
    mixed = _norm(x + low + part["beta"] ** 2 * (x - low), part, "filter_norm")
    mixed = 0.3 * mixed + 0.7 * _norm(x + attended, part, "attention_norm")
    hidden = np.asarray(jax.nn.gelu(mixed @ part["up/kernel"] + part["up/bias"]))
    added = hidden @ part["down/kernel"] + part["down/bias"]
    np.testing.assert_allclose(found, _norm(mixed + added, part, "mlp_norm"), atol=1e-5)
