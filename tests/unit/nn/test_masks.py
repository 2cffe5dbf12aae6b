"""`make_mask` in all its uses, beside masks written out."""

import jax.numpy as jnp
import numpy as np
import pytest

from recjax.nn.masks import make_mask

CASES = {
    "causal": ([1, 1, 1], 1, None, ["100", "110", "111"]),
    "both ways": ([1, 1, 1], 0, None, ["111", "111", "111"]),
    "padding before": ([0, 1, 1], 1, None, ["100", "010", "011"]),
    "padding behind": ([1, 1, 0], 1, None, ["100", "110", "001"]),
    "padding amid, both ways": ([1, 0, 1], 0, None, ["101", "010", "101"]),
    # Part A is read both ways, and never sees part B; part B sees A and what it wrote itself.
    "blank infilling": (
        [1, 1, 1, 1, 1], [0, 0, 0, 1, 1], None, ["11100", "11100", "11100", "11110", "11111"],
    ),
    "blocks": ([1, 1, 1, 1], [1, 0, 1, 0], None, ["1100", "1100", "1111", "1111"]),
    "packed": ([0, 1, 1, 1, 1], 1, [0, 1, 1, 2, 2], ["10000", "01000", "01100", "00010", "00011"]),
    "packed, both ways": ([0, 1, 1, 1], 0, [0, 1, 1, 2], ["1000", "0110", "0110", "0001"]),
    "packed prefixes": (
        [1] * 6, [0, 0, 1, 0, 0, 1], [1, 1, 1, 2, 2, 2],
        ["110000", "110000", "111000", "000110", "000110", "000111"],
    ),
    "options side by side": (
        [1] * 6, 1, [0, 0, 1, 1, 2, 2],
        ["100000", "110000", "111000", "111100", "110010", "110011"],
    ),
    "options behind a prompt read both ways": (
        [1] * 4, [0, 0, 1, 1], [0, 0, 1, 2], ["1100", "1100", "1110", "1101"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_against_masks_written_out(case):
    real, ar, segments, expected = CASES[case]
    segments = None if segments is None else jnp.array([segments])
    mask = make_mask(jnp.array([real]), ar if isinstance(ar, int) else jnp.array(ar), segments)
    assert ["".join(map(str, row)) for row in mask[0].astype(int).tolist()] == expected


def test_options_of_packed_texts():
    """Both ways in what is asked; each option sees that and itself."""
    mask = make_mask(
        jnp.array([[1, 1, 1, 1, 1, 1, 0]]),
        jnp.array([[0, 0, 1, 1, 0, 1, 1]]),
        jnp.array([[1, 1, 1, 1, 2, 2, 0]]),
        jnp.array([[0, 0, 1, 2, 0, 1, 0]]),
    )
    assert ["".join(map(str, row)) for row in mask[0].astype(int).tolist()] == [
        "1100000", "1100000", "1110000", "1101000", "0000100", "0000110", "0000001",
    ]  # fmt: skip


def test_rows_may_differ():
    """[B T] in `ar`, `real` and `segments`: each row as if it were alone."""
    rng = np.random.default_rng(0)
    real, ar = rng.random((4, 7)) < 0.7, rng.integers(0, 2, (4, 7))
    segments = np.sort(rng.integers(0, 3, (4, 7)), axis=1)
    mask = make_mask(*map(jnp.array, (real, ar, segments)))
    order = np.cumsum(ar, axis=1)
    for row in range(4):
        for t in range(7):
            for s in range(7):
                seen = order[row, s] <= order[row, t] and real[row, s] and real[row, t]
                seen = seen and segments[row, s] in (0, segments[row, t])
                assert mask[row, t, s] == (seen or s == t)
