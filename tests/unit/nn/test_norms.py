import jax.numpy as jnp
import numpy as np

from recjax.nn.norms import RMSNorm


def test_by_hand():
    norm = RMSNorm(2, eps=0.5)
    norm.scale[...] = jnp.array([1.0, 10.0])
    x = jnp.array([[3.0, 4.0]])  # mean square 12.5, with eps 13
    np.testing.assert_allclose(norm(x), np.array([[3.0, 40.0]]) / np.sqrt(13.0), rtol=1e-6)


def test_half_precision_is_computed_in_float32():
    """Squares of 300 overflow float16."""
    norm = RMSNorm(4, eps=1e-5)
    out = norm(jnp.full((1, 4), 300.0, jnp.float16))
    assert out.dtype == jnp.float16
    np.testing.assert_allclose(np.asarray(out, np.float32), 1.0, atol=1e-3)
