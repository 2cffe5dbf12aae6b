"""The shorter first layer: the same states and gradients; where it is refused or not taken."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from recjax.errors import InputError
from recjax.models.known_inputs import LearnedInputs, map_tokens
from recjax.models.language import LanguageModule
from recjax.models.llama import Config
from recjax.nn import backend
from recjax.nn.lora import LoRAConfig, add_lora
from recjax.nn.masks import make_mask
from recjax.testing import language_contracts

BASE = Config(
    vocab_size=23, dim=12, mlp_dim=20, layers=3, heads=4, kv_heads=2, head_dim=6, init_std=0.4
)
RNG = np.random.default_rng(0)
TOKENS = np.asarray(RNG.integers(0, 23, (3, 11)), np.int32)


def model_of(config):
    return nnx.clone(language_contracts.build(config))


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="elsewhere all layers are scanned")
@pytest.mark.parametrize("change", [{}, {"remat": "full"}, {"layers": 2, "kv_heads": 4}])
def test_gradients_of_some_places_alone(change):
    """States and these gradients are as ever, with padding, a prefix and packed rows."""
    model = model_of(dataclasses.replace(BASE, **change))
    places = np.array([[3, 9], [7, 4], [5, 6]])

    @jax.jit
    def start():
        _, cache = model.hidden(TOKENS[:1, :4], cache=model.empty_cache(1, 4))
        return cache.as_prefix(), map_tokens(model), model.embed(TOKENS)

    prefix, mapped, embedded = start()
    segments = np.tile(np.where(np.arange(11) < 5, 1, 2), (3, 1))
    segments[1, 8:] = 0
    packed = jax.jit(make_mask)(segments > 0, 1, segments)
    asked = np.array([[10, 2, 0], [5, 6, 6], [0, 1, 9]])
    row, few = np.arange(3)[:, None], LearnedInputs(TOKENS, places, mapped)
    for options in (
        {},
        {"mask": np.arange(11) < np.array([[11], [8], [11]])},
        {"mask": packed, "prefix": prefix, "places": asked},
    ):
        x = np.array(embedded)
        x[row, places] = RNG.standard_normal((3, 2, 12))

        def both(learned, x, options=options):
            h, _ = model.hidden(x, learned=learned, **options)
            return (h**3).sum(), h

        slope, expected = map(
            np.asarray, jax.jit(jax.grad(functools.partial(both, None), has_aux=True))(x)
        )
        got, h = map(np.asarray, jax.jit(jax.grad(functools.partial(both, few), has_aux=True))(x))
        np.testing.assert_allclose(h, expected, atol=2e-5)
        at = places[..., None]
        one, other = (np.take_along_axis(g, at, axis=1) for g in (got, slope))
        np.testing.assert_allclose(one, other, atol=1e-4 * np.abs(slope).max())
        assert np.abs(other).max() > 1e-3


def test_where_the_first_layer_is_not_apart(monkeypatch):
    assert map_tokens(model_of(dataclasses.replace(BASE, layers=1))) is None
    assert map_tokens(LanguageModule.__new__(LanguageModule)) is None  # of another family
    monkeypatch.setattr(backend, "platform", lambda *_: "gpu")
    assert map_tokens(model_of(BASE)) is None


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="elsewhere all layers are scanned")
def test_the_first_layers_gradient_is_of_asked_places_alone():
    """In a long row attention is most of the work, and four of its six products are the gradient's.
    The compiler counts the body of a scan once: the layers are unrolled."""
    model = model_of(dataclasses.replace(BASE, layers=2, unroll=2))
    tokens, x = jnp.zeros((2, 256), int), jnp.zeros((2, 256, 12))

    def flops(learned):
        call = jax.jit(jax.grad(lambda x: model.hidden(x, learned=learned)[0].sum()))
        return call.lower(x).compile().cost_analysis()["flops"]

    assert flops(LearnedInputs(tokens, tokens[:, :1], map_tokens(model))) < 0.8 * flops(None)


@pytest.mark.parametrize("target", ["layers/attention/query", "layers/down"])
def test_a_model_with_lora_is_refused(target):
    """Its gradients would be left out in silence."""
    model = model_of(BASE)
    few = LearnedInputs(TOKENS, TOKENS[:, :1], map_tokens(model))
    add_lora(model, LoRAConfig(rank=2, targets=(target,)), nnx.Rngs(1))
    with pytest.raises(InputError, match="has LoRA adapters"):
        map_tokens(model)
    with pytest.raises(InputError, match="has LoRA adapters"):
        model.hidden(TOKENS, learned=few)
