"""The likelihood of tokens, of hidden states before them."""

import jax.numpy as jnp
import numpy as np

from recjax.evaluation.likelihood import likelihood, measures


def test_likelihood_is_the_softmax_s():
    rng = np.random.default_rng(0)
    h, table = rng.normal(size=(1024, 8)), rng.normal(size=(20, 8))
    targets = rng.integers(0, 20, 1024)
    loss, right = likelihood(jnp.asarray(h), jnp.asarray(targets), lambda x: x @ table.T)
    logits = h @ table.T
    expected = np.log(np.exp(logits).sum(1)) - logits[np.arange(1024), targets]
    np.testing.assert_allclose(loss, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(right, logits.argmax(1) == targets)


def test_examples_without_a_token_are_not_exact():
    loss, right, tokens = np.array([3.0, 0.0, 1.0]), np.array([2, 0, 1]), np.array([2, 0, 2])
    assert measures(loss, right, tokens) == {
        "loss": 1.0, "perplexity": np.e, "accuracy": 3 / 4, "exact": 1 / 3
    }  # fmt: skip
