"""Prompts as rows: padding."""

import numpy as np
import pytest

from recjax.errors import InputError
from recjax.generate.prompts import pad_rows


def test_pad_rows():
    tokens, mask = pad_rows([[5, 6, 7], [], [8]], pad_id=9)
    assert tokens.tolist() == [[5, 6, 7], [9, 9, 9], [9, 9, 8]]
    assert mask.tolist() == [[True] * 3, [False] * 3, [False, False, True]]
    assert tokens.dtype == np.int32
    tokens, mask = pad_rows([[5, 6, 7]], pad_id=0, sizes=(8, 4, 2))
    assert tokens.tolist() == [[0, 5, 6, 7]] and mask.sum() == 3
    with pytest.raises(InputError, match="a text of 3 tokens; expected at most 2"):
        pad_rows([[5, 6, 7]], pad_id=0, sizes=(2,))
