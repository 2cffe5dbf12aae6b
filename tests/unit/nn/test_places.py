"""Positions in packed rows."""

import jax.numpy as jnp

from recjax.nn.places import text_positions


def test_positions_of_packed_texts_and_their_options():
    segments = jnp.array([[1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 0]])
    options = jnp.array([[0, 0, 0, 1, 1, 2, 3, 0, 1, 1, 0]])
    assert text_positions(segments)[0, :10].tolist() == [0, 1, 2, 3, 4, 5, 6, 0, 1, 2]
    assert text_positions(segments, options)[0, :10].tolist() == [0, 1, 2, 3, 4, 3, 3, 0, 1, 2]
    whole = jnp.array([[1, 1, 1, 2, 2, 2, 2]])  # the second text has options alone
    options = jnp.array([[0, 1, 2, 1, 1, 2, 2]])
    assert text_positions(whole, options)[0].tolist() == [0, 1, 1, 0, 1, 0, 1]
