"""Shapes by letters."""

import jax
import numpy as np
import pytest

from recjax.typing import check_shapes

H, TABLE, TARGETS = np.ones((6, 3)), np.ones((9, 3)), np.ones(6)


def test_shapes_that_fit():
    check_shapes("TD, ID, T, TM", h=H, table=TABLE, targets=TARGETS, negatives=None)
    jax.eval_shape(lambda h: check_shapes("TD, ID", h=h, table=TABLE), H)


@pytest.mark.parametrize(
    ("arrays", "error", "message"),
    [
        ({"h": H, "table": TABLE.T}, ValueError, "table: expected [I D] with D = 3, which h has; "),
        ({"h": H[0], "table": TABLE}, ValueError, "h: expected [T D]; got the shape (3,)"),
        ({"h": [[1.0]], "table": TABLE}, TypeError, "h: expected [T D], an array; got list"),
    ],
)
def test_others_are_named(arrays, error, message):
    with pytest.raises(error) as found:
        check_shapes("TD, ID", **arrays)
    assert str(found.value).startswith(message)
