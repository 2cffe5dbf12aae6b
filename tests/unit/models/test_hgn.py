"""HGN beside the paper's formulas, window by window; the rest stands in `test_contract.py`."""

import jax
import numpy as np

from recjax.testing import contracts

SECTION = {"name": "hgn", "max_length": 5, "dim": 4, "window": 3}


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_states_are_those_of_the_paper():
    model = contracts.build(SECTION)
    ids = np.array([[3, 9, 1, 22, 9]])
    h, table = jax.jit(lambda users: (model.encode(ids, users=users), model.item_table()))(
        np.full(ids.shape, 2)
    )
    vectors, user = (
        np.asarray(model.items.embedding[...]),
        np.asarray(model.users.embedding[...])[1],
    )
    maps = {n: np.asarray(getattr(model, n).kernel[...]) for n in
            ("gate_items", "gate_user", "weigh_items", "weigh_user")}  # fmt: skip
    moved = np.asarray(model.gate_items.bias[...]) + user @ maps["gate_user"]
    for t in range(5):
        window = vectors[ids[0, max(0, t - 2) : t + 1]]  # the first ones are shorter
        gated = window * _sigmoid(window @ maps["gate_items"] + moved)
        of_places = (user @ maps["weigh_user"])[-len(window) :]
        weights = _sigmoid((gated @ maps["weigh_items"])[:, 0] + of_places)
        pooled = (weights[:, None] * gated).sum(axis=0) / weights.sum()
        np.testing.assert_allclose(h[0, t], [*(user + pooled + window.sum(axis=0)), 1], atol=1e-5)
    biased = np.column_stack([model.outputs.embedding[...], model.bias[...]])
    np.testing.assert_array_equal(table, biased)
