import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from recjax.models.attributed import ItemAttributes


def test_an_items_vector_is_the_gated_mean_of_its_labels():
    """Whatever the gates of labels that it does not have; zeros without any."""
    model = ItemAttributes(4, 4, 3, 1.0, rngs=nnx.Rngs(0))
    model.values[...] = values = jnp.array([[0, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 1], [0.0] * 4])
    vectors = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
    model.embedding[...] = vectors.at[:, 0].set(jnp.array([-30.0, -29.0, 0.0, 1.0]))
    model.gate.kernel[...] = jnp.array([[1.0], [0.0], [0.0]])
    found = model()
    logits = jnp.where(values > 0, model.embedding[...][:, 0], -jnp.inf)
    expected = jax.nn.softmax(logits[1:3], axis=-1) @ model.embedding[...]
    np.testing.assert_allclose(found[1:3], expected, rtol=1e-5)
    assert not found[0].any() and not found[3].any()
    grads = nnx.grad(lambda m: (m() ** 2).sum())(model)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
