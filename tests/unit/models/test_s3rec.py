"""S3-Rec's draws; its model stands in `test_contract.py`."""

import jax
import numpy as np

from recjax.models.s3rec import another


def test_a_drawn_item_is_another_one():
    ids = np.repeat(np.arange(1, 5), 300)
    drawn = np.asarray(jax.jit(another, static_argnums=2)(jax.random.key(0), ids, 5))
    for item in range(1, 5):
        found, counts = np.unique(drawn[ids == item], return_counts=True)
        assert found.tolist() == [k for k in range(1, 5) if k != item]
        assert counts.min() > 60  # of 100 each
