"""Soft tokens: embeddings that stand in the places of tokens."""

import jax.numpy as jnp

from recjax.typing import Array, check_shapes


def place_soft(embeddings: Array, is_soft: Array, soft: Array) -> Array:
    """Each row's soft tokens in its marked places, in their order.

    `where(is_soft, soft[cumsum(is_soft) - 1], embeddings)`. What precedes the places does not
    matter, so rows may be padded on the left.

    Args:
        embeddings: [B T E] of the tokens (of whichever token marks a place, too).
        is_soft: [B T] bool, the places.
        soft: [B S E]; a row uses as many as it has places. Places beyond S are an error that
            cannot be raised here: they become nan.

    Returns:
        [B T E] of the embeddings' type.
    """
    check_shapes("BTE, BT, BSE", embeddings=embeddings, is_soft=is_soft, soft=soft)
    which = jnp.cumsum(is_soft, axis=-1) - 1
    # Before the first place `which` is -1, and is not used.
    placed = jnp.take_along_axis(
        soft.astype(embeddings.dtype), jnp.maximum(which, 0)[..., None], axis=1,
        mode="fill", fill_value=jnp.nan,
    )  # fmt: skip
    return jnp.where(is_soft[..., None], placed, embeddings)
