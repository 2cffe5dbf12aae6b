"""Models as plain arrays."""

import jax
import numpy as np
from flax import nnx

from recjax.models.definition import define, initial_keys, params_of
from recjax.models.recommender import make_recommender


def build(rngs):
    return make_recommender({"name": "sasrec", "dim": 4, "layers": 1}, 9, rngs)


def test_initial_keys_are_those_of_nnx():
    """Runs keep their first parameters, and a definition is that of the module itself."""
    kinds = (lambda: nnx.Rngs(params=jax.random.key(3)), lambda: initial_keys(3))
    theirs, ours = (jax.jit(lambda keys=keys: params_of(build(keys())))() for keys in kinds)
    assert ours.keys() == theirs.keys() == define(build).shapes.keys()
    for path, value in theirs.items():
        np.testing.assert_array_equal(ours[path], value, err_msg=path)
    assert define(build).graphdef == nnx.split(nnx.eval_shape(lambda: build(nnx.Rngs(0))))[0]
