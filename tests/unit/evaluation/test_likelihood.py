"""The likelihood of tokens, of hidden states before them."""

import jax.numpy as jnp
import numpy as np

from recjax.evaluation.likelihood import likelihood


def test_likelihood_is_the_softmax_s():
    rng = np.random.default_rng(0)
    h, table = rng.normal(size=(1024, 8)), rng.normal(size=(20, 8))
    targets = rng.integers(0, 20, 1024)
    loss, right = likelihood(jnp.asarray(h), jnp.asarray(targets), lambda x: x @ table.T)
    logits = h @ table.T
    expected = np.log(np.exp(logits).sum(1)) - logits[np.arange(1024), targets]
    np.testing.assert_allclose(loss, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(right, logits.argmax(1) == targets)
