"""Models of ratings beside their formulas."""

import jax
import numpy as np
import pytest

from recjax.models.definition import define
from recjax.models.rating import Config, RatingModel


@pytest.mark.parametrize("name", ["mf", "mlp"])
def test_ratings_are_their_formula(name):
    config, rng = Config(name=name, dim=3, hidden=(4,)), np.random.default_rng(0)
    definition = define(lambda rngs: RatingModel(config, 9, 5, rngs=rngs))
    part = {k: rng.normal(size=a.shape).astype(a.dtype) for k, a in definition.shapes.items()}
    users, items = np.array([0, 4, 2]), np.array([8, 1, 3])
    found = jax.jit(lambda part, *pair: definition.merge(part)(*pair))(part, users, items)
    p, q = part["users/embedding"][users], part["items/embedding"][items]
    if name == "mf":
        own = part["user_bias"][users] + part["item_bias"][items] + (p * q).sum(axis=-1)
    else:
        both = np.concatenate([p, q], axis=-1)
        hidden = np.maximum(both @ part["layers/0/kernel"] + part["layers/0/bias"], 0)
        own = (hidden @ part["layers/1/kernel"] + part["layers/1/bias"])[:, 0]
    np.testing.assert_allclose(found, part["mean"] + own, rtol=1e-5)
