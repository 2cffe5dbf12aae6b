"""GRU4Rec's own options; the rest is the contract's."""

import jax.numpy as jnp
import numpy as np

from recjax.testing import contracts


def test_scaled_inputs_are_larger_by_sqrt_d():
    section = {"name": "gru4rec", "max_length": 9, "dim": 16}
    plain, scaled = contracts.build(section), contracts.build(section | {"scale_embedding": True})
    table = plain.items.embedding[...]
    assert np.array_equal(table, scaled.items.embedding[...])
    assert np.array_equal(plain.item_table(), scaled.item_table())  # what scores is as it was
    ids = jnp.array([[3, 9, 1, 4]])
    h = scaled.encode(ids)
    assert not np.allclose(h, plain.encode(ids))
    plain.items.embedding[...] = 4 * table
    np.testing.assert_allclose(h, plain.encode(ids), rtol=1e-5)
