"""The contract of explainers: whole texts and word by word are the same; nothing ahead is read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from recjax.errors import InputError
from recjax.models.definition import define, params_of
from recjax.models.explainers import NAMES, Inputs, Sizes, read_explainer, stars

SIZES = Sizes(users=6, items=9, vocab=300)
SMALL = {
    "attn2seq": {"name": "attn2seq", "dim": 16, "attribute_dim": 8},
    "nrt": {"name": "nrt", "dim": 16, "word_dim": 8, "factors": 8, "rating_layers": 2},
    "peter": {"name": "peter", "dim": 16, "mlp_dim": 32},
    "peter+": {"name": "peter", "preset": "plus", "dim": 16, "mlp_dim": 32, "feature_tokens": 3},
}
ROWS, LENGTH = 4, 6


def asked(seed=0, width=3):
    rng = np.random.default_rng(seed)
    features = rng.integers(3, 300, (ROWS, width))
    features[1:, 2:] = 0
    arrays = (
        rng.integers(0, 6, ROWS), rng.integers(1, 9, ROWS), rng.integers(1, 6, ROWS), features
    )  # fmt: skip
    return Inputs(*(jnp.asarray(a) for a in arrays))


@pytest.fixture(scope="module", params=SMALL)
def made(request):
    """Of each model: its name, the model, and what it says to some texts."""
    module, config = read_explainer(SMALL[request.param])
    model = module.Model(config, SIZES, rngs=nnx.Rngs(1))
    # Larger than at the start, so that what a place reads shows.
    definition = define(lambda rngs: module.Model(config, SIZES, rngs=rngs))
    params = {path: 4 * a if a.ndim > 1 else a for path, a in params_of(model).items()}
    model = definition.merge(params)
    tokens = jnp.asarray(np.random.default_rng(2).integers(3, 300, (ROWS, LENGTH)))
    return request.param, model, tokens, jax.jit(lambda a, t: model.learn(a, t))


def test_every_model_has_a_case():
    assert {section["name"] for section in SMALL.values()} == set(NAMES)


def test_word_by_word_is_the_whole(made):
    _, model, tokens, learn = made
    said = learn(asked(), tokens)
    states, tokens = np.asarray(said.states), np.asarray(tokens)
    rating, cache = jax.jit(model.begin, static_argnums=1)(asked(), LENGTH)
    step = jax.jit(model.step)
    for t in range(LENGTH):
        h, cache = step(tokens[:, t], cache)
        np.testing.assert_allclose(h, states[:, t], atol=2e-4, rtol=2e-4)
    assert (rating is None) == (said.rating is None) == (not model.rates)
    if rating is not None:
        np.testing.assert_allclose(rating, said.rating, atol=1e-4)
    if said.context is not None:  # another place's than the rating's
        assert np.abs(jax.jit(model._rate)(said.context) - said.rating).min() > 1e-4
    logits = jax.jit(model.logits)(said.states)
    assert logits.shape == (ROWS, LENGTH, SIZES.vocab)


def test_nothing_ahead_is_read(made):
    name, model, tokens, learn = made
    del model
    before = learn(asked(), tokens)
    after = learn(asked(), tokens.at[:, 4:].set(7))
    np.testing.assert_allclose(after.states[:, :4], before.states[:, :4], atol=1e-5)
    assert np.abs(after.states[:, 4:] - before.states[:, 4:]).max() > 1e-3
    for seen in (before.rating, before.context):  # of user and item alone
        there = after.rating if seen is before.rating else after.context
        assert (seen is None) == (there is None)
        if seen is not None:
            np.testing.assert_allclose(there, seen, atol=1e-5)
    assert (before.context is not None) == name.startswith("peter")


def test_what_each_is_told_counts(made):
    name, model, tokens, learn = made
    states, said = {}, learn(asked(), tokens)
    for field in Inputs._fields:
        array = getattr(asked(), field)
        changed = learn(asked()._replace(**{field: array.at[0].set(1 + array[0] % 4)}), tokens)
        states[field] = np.abs(changed.states - said.states)
        if model.rates:  # by user and item alone
            off = np.abs(changed.rating - said.rating)
            assert (off[0] > 1e-5) == (field in ("users", "items")) and off[1:].max() < 1e-5
    told = {"users", "items"} | ({"ratings"} if name == "attn2seq" else set())
    told |= {"features"} if name == "peter+" else set()
    for field, off in states.items():
        assert (off[0].max() > 1e-4) == (field in told), field
        assert off[1:].max() < 1e-5


def test_stars_are_the_nearest_whole_ones():
    found = np.asarray(jax.jit(stars)(np.array([0.2, 1.4, 3.6, 9.0])))
    assert found.argmax(axis=-1).tolist() == [0, 0, 3, 4] and (found.sum(axis=-1) == 1).all()


def test_features_are_padded_freely():
    module, config = read_explainer(SMALL["peter+"])
    model = module.Model(config, SIZES, rngs=nnx.Rngs(1))
    tokens = jnp.full((ROWS, 2), 5)
    given = asked()
    noise = given.features.at[1:, 2].set(0)
    short = given._replace(features=noise)
    cut = module.Model(
        read_explainer({**SMALL["peter+"], "feature_tokens": 2})[1], SIZES, rngs=nnx.Rngs(1)
    )
    # Rows whose feature has two tokens say the same to the user with room for two or three.
    long, less = (jax.jit(lambda a, m=m: m.learn(a, tokens).rating)(short) for m in (model, cut))
    np.testing.assert_allclose(long[1:], less[1:], atol=1e-5)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({}, "lacks the key 'name'"),
        ({"name": "petr"}, r"config\.model\.name: no explainer 'petr'; .*peter"),
        ({"name": "peter", "preset": "pluss"}, r"config\.model\.preset: .*plus"),
        ({"name": "peter", "dim": 15}, r"config\.model\.dim: 15"),
        ({"name": "nrt", "factor": 3}, r"factors"),
    ],
)
def test_errors_name_the_key(section, said):
    with pytest.raises(InputError, match=said):
        read_explainer(section)
