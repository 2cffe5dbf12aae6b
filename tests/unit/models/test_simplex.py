"""SimpleX beside the paper's formula; the rest stands in `test_contract.py`."""

import jax
import numpy as np

from recjax.testing import contracts


def test_a_user_is_an_own_vector_and_the_mean_of_the_items():
    model = contracts.build({"name": "simplex", "max_length": 5, "dim": 4, "own_share": 0.3})
    ids, users = np.array([[0, 3, 9, 1, 9], [0, 0, 7, 2, 2]]), np.array([[2] * 5, [0] * 5])
    h = jax.jit(lambda ids, users: model.encode(ids, users=users))(ids, users)
    items, known = np.asarray(model.items.embedding[...]), np.asarray(model.users.embedding[...])
    for row, own in enumerate((known[1], known.mean(axis=0))):  # of somebody else the mean
        first = np.flatnonzero(ids[row])[0]
        for t in range(first, 5):
            mean = items[ids[row, first : t + 1]].mean(axis=0)
            made = 0.3 * own + 0.7 * mean @ np.asarray(model.map.kernel[...])
            np.testing.assert_allclose(h[row, t], made / np.linalg.norm(made), atol=1e-5)
