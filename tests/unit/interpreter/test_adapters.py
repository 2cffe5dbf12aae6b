"""Adapters: shapes, the paper's form, what each reads, what is trained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from recjax.interpreter.adapters import Adapter, Config, Whitening
from recjax.models.definition import define, params_of

L, D, E = 6, 8, 12
RNG = np.random.default_rng(0)
STATES = RNG.normal(size=(400, D)) @ RNG.normal(size=(D, D)) + np.arange(D)
H = STATES[: 5 * L].reshape(5, L, D).astype(np.float32)


def make(name, soft=3, length=L, **options):
    config = Config(name, soft=soft, hidden=16, **options)
    return Adapter(config, STATES, length, D, E, 0.5, rngs=nnx.Rngs(0))


def called(adapter):
    """The adapter as one program: `called(adapter)(H)`."""
    call = jax.jit(lambda h: adapter(h))
    return lambda h: np.asarray(call(h))


def changed(place, value):
    """H with other states at places."""
    out = H.copy()
    out[:, place] = value
    return out


def white(adapter, states):
    states = jnp.asarray(states, jnp.float32)
    return np.asarray(adapter.whitening.even(adapter.whitening.centre(states)))


@pytest.mark.parametrize("name", ["linear", "mlp", "qformer"])
def test_shapes_with_and_without_positions(name):
    with jax.enable_x64(True), jax.numpy_rank_promotion("raise"):
        found = jax.eval_shape(make(name), H)
    assert (found.shape, found.dtype) == ((5, 3, E), np.float32)
    assert called(make(name, length=1))(H[:, -1]).shape == (5, 3, E)


def test_the_papers_form_by_hand():
    """A filter over the positions, then one linear map."""
    adapter = make("linear", soft=1)
    adapter.body.filter[...] = jnp.arange(L) / 10.0
    mixed = np.einsum("BLD,L->BD", white(adapter, H), np.arange(L) / 10.0)
    expected = mixed @ np.asarray(adapter.body.out.kernel) + np.asarray(adapter.body.out.bias)
    np.testing.assert_allclose(adapter(H)[:, 0], expected, atol=1e-5)
    trained = {k: v.size for k, v in params_of(adapter).items() if not k.startswith("whitening")}
    assert trained == {"body/filter": L, "body/out/kernel": D * E, "body/out/bias": E}


def test_padding_adds_nothing():
    """However many positions of zeros are before a history: they are not whitened."""
    adapter = make("linear", soft=1)
    adapter.body.filter[...] = jnp.ones(L)
    assert np.abs(np.asarray(adapter.whitening.mean)).max() > 0.01
    one = changed(slice(-1), 0.0)
    expected = white(adapter, H[:, -1]) @ adapter.body.out.kernel[...]
    expected += adapter.body.out.bias[...]
    np.testing.assert_allclose(adapter(one)[:, 0], expected, atol=1e-5)


def test_a_single_state_has_no_variance_to_measure():
    single = Whitening(STATES[:1], D)
    np.testing.assert_array_equal(np.asarray(single.matrix), np.eye(D))
    assert not np.asarray(single.mean).any()


def test_whitened_states_are_uncorrelated():
    even = white(make("linear"), STATES)
    np.testing.assert_allclose(even.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(np.cov(even, rowvar=False), np.eye(D), atol=1e-3)


def test_directions_without_variance_are_not_blown_up():
    """However far new states go in them."""
    flat = STATES.copy()
    flat[:, 0] = flat[:, 1]
    adapter = Adapter(Config(), flat, 1, D, E, 0.5, rngs=nnx.Rngs(0))
    moved = flat[:1].copy()
    moved[0, 0] += 1.0
    change = white(adapter, moved) - white(adapter, flat[:1])
    assert 0 < np.abs(change).max() < 10


@pytest.mark.parametrize("count", [2, 20, 60, 64, 65, 100, 127, 128, 400])
def test_new_states_are_about_as_large_as_those_that_were_measured(count):
    """Of fewer states than there are directions, too."""
    rng, dim = np.random.default_rng(0), 64
    mixed = rng.normal(size=(dim, dim))
    states = rng.normal(size=(count + 300, dim)) @ mixed
    whitening = Whitening(states[:count], dim)
    sizes = np.sqrt(np.mean(np.asarray(whitening.even(whitening.centre(states))) ** 2, axis=1))
    assert np.sqrt((sizes[count:] ** 2).mean()) < 2


def test_at_the_start_the_filter_reads_the_newest_position():
    adapter = make("linear")
    call = called(adapter)
    np.testing.assert_array_equal(call(H), call(changed(slice(-1), 7.0)))
    assert np.abs(call(H) - call(changed(-1, 7.0))).max() > 0.01


def test_the_qformer_reads_all_positions_and_their_order():
    call = called(make("qformer"))
    for place in range(L):
        assert np.abs(call(H) - call(changed(place, H[:, place] + 3.0))).max() > 1e-4
    assert np.abs(call(H) - call(H[:, ::-1])).max() > 1e-4


@pytest.mark.parametrize("name", ["linear", "qformer"])
def test_soft_tokens_start_at_the_size_of_embeddings(name):
    rng = np.random.default_rng(1)
    h = rng.normal(size=(200, L, 64)).astype(np.float32)
    config = Config(name, soft=4, hidden=64)
    adapter = Adapter(config, None, L, 64, 96, 0.02, rngs=nnx.Rngs(0))
    assert 0.5 < float((called(adapter)(h) ** 2).mean() ** 0.5) / 0.02 < 2


@pytest.mark.parametrize("name", ["linear", "mlp", "qformer"])
def test_every_trained_parameter_takes_part(name):
    definition = define(lambda rngs: make(name))
    params = params_of(make(name))
    weights = jnp.array(np.random.default_rng(2).normal(size=(5, 3, E)), jnp.float32)
    loss = lambda p: (definition.merge(p)(H) * weights).sum()  # noqa: E731
    for path, gradient in jax.jit(jax.grad(loss))(params).items():
        if not path.startswith("whitening"):
            assert np.abs(gradient).max() > 0, path


def test_bad_sizes():
    with pytest.raises(ValueError, match="soft: expected 1 to 1000, got 0"):
        Config(soft=0)
    with pytest.raises(ValueError, match="hidden: 10 is no multiple of heads 4"):
        Config("qformer", hidden=10)
