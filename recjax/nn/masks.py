"""Attention masks: boolean, True = may attend."""

import jax.numpy as jnp

from recjax.typing import Array, check_shapes


def make_mask(
    real: Array, ar: Array | int = 1, segments: Array | None = None, options: Array | None = None
) -> Array:
    """The one mask of self-attention: who may attend to whom.

    The query at place t may attend to the key at place s where `cumsum(ar)[s] <= cumsum(ar)[t]`,
    both are real, and s is of t's segment or of segment 0:

        make_mask(real)                               causal
        make_mask(real, 0)                            every token sees all others
        make_mask(real, [0, 0, 0, 1, 1])              a prefix read both ways, then causal
        make_mask(segments > 0, 1, segments)          sequences packed into rows, causal
        make_mask(real, 1, segments)                  options 1, 2, ... side by side behind one
                                                      prompt, of segment 0
        make_mask(segments > 0, 1, segments, options)       several such prompts in a row

    Args:
        real: [B T] bool, False = padding. Padding attends to itself alone, so that its softmax is
            defined, and nothing else attends to it.
        ar: int, [T] or [B T] or one for all: 1 = no earlier place sees this one; 0 = this place and
            the one before see the same and each other. By default causal.
        segments: [B T] int, the number of the sequence in its row; 0 is seen from all of them.
            By default a row is one sequence.
        options: [B T] int, the same once more inside each sequence: parts that do not see each
            other, behind a beginning of number 0 that all of them see.

    Returns:
        [B T T] bool, query by key.
    """
    check_shapes("BT, BT, BT", real=real, segments=segments, options=options)
    real, length = real.astype(bool), real.shape[-1]
    ar = jnp.atleast_2d(jnp.asarray(ar))
    order = jnp.cumsum(jnp.broadcast_to(ar, (len(ar), length)), axis=-1)
    mask = order[:, None, :] <= order[:, :, None]
    mask = mask & real[:, None, :] & real[:, :, None]
    for numbers in (segments, options):
        if numbers is not None:
            keys, queries = numbers[:, None, :], numbers[:, :, None]
            mask &= (keys == queries) | (keys == 0)
    return mask | jnp.eye(length, dtype=bool)[None]


def histories(ids: Array, segments: Array) -> Array:
    """The different ids up to every place of its sequence: [B L] -> [B L L], 0 = none.

    Args:
        ids: [B L].
        segments: [B L], 0 = padding.
    """
    causal = make_mask(segments > 0, 1, segments) & (segments > 0)[:, None, :]
    others = ~jnp.eye(ids.shape[1], dtype=bool)[None]
    repeats = causal & others & (ids[:, :, None] == ids[:, None, :])
    is_first = ~repeats.any(axis=-1)
    return jnp.where(causal & is_first[:, None, :], ids[:, None, :], 0)


def shift(x: Array, places: int) -> Array:
    """`x` [B L ...] moved `places` to the right (negative: to the left), 0 where nothing was."""
    if not places:
        return x
    width = [(0, 0)] * x.ndim
    if places > 0:
        width[1] = (places, 0)
        return jnp.pad(x, width)[:, : x.shape[1]]
    width[1] = (0, -places)
    return jnp.pad(x, width)[:, -places:]
