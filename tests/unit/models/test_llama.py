"""LLaMA beside the contract (test_language_contract.py): training, options, presets."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.models.definition import define, params_of
from recjax.models.llama import PARAM_AXES, PRESETS, Config, Llama
from recjax.nn import backend
from recjax.nn.positions import RopeScaling
from recjax.testing import language_contracts
from recjax.training.parallel import make_mesh, param_shardings

BASE = Config(
    vocab_size=23, dim=12, mlp_dim=20, layers=3, heads=4, kv_heads=2, head_dim=6, init_std=0.4
)
CONFIGS = [
    BASE,
    dataclasses.replace(BASE, kv_heads=4, tied=True),
    dataclasses.replace(BASE, kv_heads=1, rope_scaling=RopeScaling(4.0, 1.0, 4.0, 16)),
]
RNG = np.random.default_rng(0)
TOKENS = np.asarray(RNG.integers(0, 23, (3, 11)), np.int32)


model_of = language_contracts.build  # once a config


@pytest.fixture(params=range(len(CONFIGS)), ids=["gqa", "mha-tied", "mqa-llama3"])
def model(request):
    return model_of(CONFIGS[request.param])


@pytest.mark.parametrize("remat", ["none", "full", "dots"])
@pytest.mark.parametrize("padded", [False, True])
def test_training_after_a_shared_prefix_is_as_if_it_were_repeated(remat, padded):
    """`hidden(prefix=...)`: the same states, and the same gradients of the inputs."""
    config = dataclasses.replace(BASE, remat=remat)
    model = define(lambda rngs: Llama(config, rngs=rngs)).merge(params_of(model_of(BASE)))

    @jax.jit
    def start():
        _, cache = model.hidden(TOKENS[:1, :5], cache=model.empty_cache(1, 5))
        return cache.as_prefix(), model.embed(TOKENS[:, 5:])

    prefix, x = start()
    real = np.arange(6) < np.array([6, 4, 1])[:, None] if padded else np.ones((3, 6), bool)
    weights = np.asarray(RNG.normal(size=(3, 6, 12)), np.float32) * real[..., None]

    def after(x):
        h, none = model.hidden(x, mask=real if padded else None, prefix=prefix)
        assert none is None
        return (h * weights).sum(), h

    def repeated(x):
        shared = jnp.repeat(model.embed(TOKENS[:1, :5]), 3, axis=0)
        every = jnp.concatenate([jnp.ones((3, 5), bool), real], axis=1)
        h, _ = model.hidden(jnp.concatenate([shared, x], axis=1), mask=every)
        return (h[:, 5:] * weights).sum(), h[:, 5:]

    ((_, got), gradient), ((_, expected), wanted) = (
        jax.device_get(jax.jit(jax.value_and_grad(f, has_aux=True))(x)) for f in (after, repeated)
    )
    np.testing.assert_allclose(got[real], expected[real], atol=1e-5)
    scale = float(np.abs(wanted).max())
    np.testing.assert_allclose(gradient, wanted, atol=1e-5 * max(1.0, scale))
    assert scale > 0.1 and (gradient[~real] == 0).all()
    # And without it they are others.
    without = np.asarray(jax.jit(lambda x: model.hidden(x, mask=real)[0])(x))
    assert np.abs(without - got)[real].max() > 1e-2


def test_a_training_prefix_may_have_positions_of_its_own():
    model = model_of(BASE)
    start = jax.jit(lambda: model.hidden(TOKENS[:1, :5], cache=model.empty_cache(1, 5))[1])
    prefix = start().as_prefix()
    read = jax.jit(lambda p: model.hidden(TOKENS[:, 5:], positions=p, prefix=prefix)[0])
    positions = np.tile(5 + np.arange(6), (3, 1))
    expected = read(None)
    np.testing.assert_array_equal(read(positions), expected)
    other = read(positions + 3)
    assert np.abs(other - expected).max() > 1e-2


EVERY = ("bare", "mask", "prefix", "both", "positions")


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({}, EVERY),
        ({"layers": 1}, EVERY),
        ({"remat": "full"}, ("both", "positions")),
        ({"remat": "dots"}, ("both", "positions")),
    ],
)
def test_states_of_some_places_alone(monkeypatch, change, names):
    """As of all places, forwards and backwards; in any order, and twice if asked for twice."""
    model = model_of(dataclasses.replace(BASE, **change))
    places = np.array([[10, 2, 0], [5, 6, 6], [0, 1, 9]])

    @jax.jit
    def start():
        _, cache = model.hidden(TOKENS[:1, :4], cache=model.empty_cache(1, 4))
        return cache.as_prefix(), model.embed(TOKENS)

    prefix, x = start()
    mask = np.arange(11) < np.array([[11], [8], [11]])
    given = {
        "bare": {},
        "mask": {"mask": mask},
        "prefix": {"prefix": prefix},
        "both": {"mask": mask, "prefix": prefix},
        "positions": {"positions": np.tile(np.arange(11) * 2, (3, 1))},
    }

    def compiled(places):
        """States and gradients; what stands elsewhere is chosen when this is traced."""

        def total(x, options):
            h, _ = model.hidden(x, places=places, **options)
            if places is None:
                h = jnp.take_along_axis(h, where, axis=1)
            return (h**3).sum(), h

        call = jax.jit(jax.grad(total, has_aux=True))
        return {name: jax.device_get(call(x, given[name])) for name in names}

    where = places[..., None]
    expected = compiled(None)
    for device in ("cpu", "gpu"):
        monkeypatch.setattr(backend, "platform", lambda *_, device=device: device)
        for name, got in compiled(places).items():
            assert got[1].shape == (3, 3, 12)
            for one, other in zip(got, expected[name], strict=True):
                np.testing.assert_allclose(one, other, atol=1e-4 * float(np.abs(other).max()))


def test_states_of_some_places_of_a_cached_call(model):
    mask = np.arange(7) >= np.array([[0], [3], [2]])

    @functools.partial(jax.jit, static_argnums=0)
    def read(asked):
        places = jnp.array(asked) if asked else None
        return model.hidden(TOKENS[:, :7], mask=mask, cache=model.empty_cache(3, 9), places=places)

    (whole, cache), (some, other) = read(None), read(((6, 4),) * 3)
    np.testing.assert_allclose(some, np.asarray(whole)[:, [6, 4]], atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, other, cache)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="elsewhere all layers are scanned")
def test_the_last_layer_computes_asked_places_alone():
    model = model_of(dataclasses.replace(BASE, layers=1))
    x = jnp.zeros((2, 64, 12))

    def flops(places):
        call = jax.jit(lambda x: model.hidden(x, places=places)[0])
        return call.lower(x).compile().cost_analysis()["flops"]

    assert flops(jnp.zeros((2, 2), int)) < 0.4 * flops(None)


@pytest.mark.parametrize("change", [{"remat": "full"}, {"remat": "dots"}, {"unroll": 3}])
def test_execution_options_change_no_number(change):
    """Loss and gradients are those of the plain scan."""

    def gradients(config):
        definition = define(lambda rngs: Llama(config, rngs=rngs))
        params = params_of(model_of(BASE))
        return jax.jit(jax.grad(lambda p: (definition.merge(p)(TOKENS)[0] ** 2).mean()))(params)

    expected, got = gradients(BASE), gradients(dataclasses.replace(BASE, **change))
    for path, gradient in expected.items():
        np.testing.assert_allclose(got[path], gradient, rtol=1e-4, atol=1e-5)


def test_remat_recomputes():
    """What the backward pass keeps shrinks: the scan's residuals, counted in the jaxpr."""

    def kept(remat):
        config = dataclasses.replace(BASE, remat=remat)
        definition = define(lambda rngs: Llama(config, rngs=rngs))
        params = params_of(model_of(BASE))
        _, pullback = jax.eval_shape(
            lambda p: jax.vjp(lambda p: definition.merge(p)(TOKENS)[0], p), params
        )
        return sum(leaf.size for leaf in jax.tree.leaves(pullback))

    assert kept("full") < kept("dots") < kept("none")


CHANGES = {
    "norm_eps": 0.1, "rope_theta": 100.0, "rope_scaling": RopeScaling(8.0, 1.0, 4.0, 8),
}  # fmt: skip


@pytest.mark.parametrize("field", CHANGES)
def test_numbers_of_the_config_are_read(field):
    definition = define(
        lambda r: Llama(dataclasses.replace(BASE, **{field: CHANGES[field]}), rngs=r)
    )
    base = model_of(BASE)
    changed = jax.jit(definition.merge(params_of(base)))(TOKENS)[0]
    assert np.abs(changed - jax.jit(base)(TOKENS)[0]).max() > 1e-2


def test_decoding_takes_layers_apart_before_the_loop():
    """Same logits; and inside the loop no layer is sliced out of its stack."""
    definition, params = define(lambda rngs: Llama(BASE, rngs=rngs)), params_of(model_of(BASE))

    def generate(prepare, params):
        model = prepare(definition.merge(params))

        def body(_, carry):
            token, cache = carry
            logits, cache = model(token, cache=cache)
            return jnp.argmax(logits[:, -1:], axis=-1), cache

        return jax.lax.fori_loop(0, 5, body, (TOKENS[:, :1], model.empty_cache(3, 8)))

    def slices_in_the_loop(prepare):
        program = jax.make_jaxpr(functools.partial(generate, prepare))(params)
        loop = next(e for e in program.jaxpr.eqns if e.primitive.name in ("while", "scan"))
        body = loop.params.get("body_jaxpr") or loop.params["jaxpr"]
        count = sum(e.primitive.name == "slice" for e in body.jaxpr.eqns)
        return count, jax.jit(functools.partial(generate, prepare))(params)

    plain, expected = slices_in_the_loop(lambda model: model)
    apart, got = slices_in_the_loop(Llama.for_decoding)
    assert plain >= 9 * BASE.layers and apart <= plain - 9 * BASE.layers
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, expected)


@pytest.mark.devices
@pytest.mark.parametrize("name", PRESETS)
def test_published_sizes_and_shardings(name):
    """Parameter counts of the published models, and a sharding for each parameter."""
    definition = define(lambda rngs: Llama(PRESETS[name], rngs=rngs))
    count = sum(int(np.prod(a.shape)) for a in definition.shapes.values())
    expected = {
        "llama-7b": 6_738_415_616,
        "llama-2-7b": 6_738_415_616,
        "llama-3.2-1b": 1_235_814_400,
        "llama-3.2-3b": 3_212_749_824,
        "stories-15m": 15_191_712,
        "stories-110m": 109_529_856,
    }
    assert count == expected[name]
    specs = param_shardings(definition.shapes, PARAM_AXES, make_mesh((1, 4, 2)))
    whole = {path for path, sharding in specs.items() if not any(sharding.spec)}
    assert whole == {path for path in definition.shapes if path.endswith("scale")}


def test_bad_sizes():
    with pytest.raises(ValueError, match="heads: 3 is no multiple of kv_heads 2"):
        Config(heads=3, kv_heads=2)
    with pytest.raises(ValueError, match="head_dim: 7"):
        Config(head_dim=7)


def test_a_full_cache_is_an_error():
    """Where its length is known; the last slots would be written over."""
    model = model_of(BASE)
    _, cache = model.hidden(TOKENS[:1, :4], cache=model.empty_cache(1, 5))
    with pytest.raises(ValueError, match="cache: 4 of 5 slots are taken; expected room for 2 more"):
        model.hidden(TOKENS[:1, 4:6], cache=cache)
