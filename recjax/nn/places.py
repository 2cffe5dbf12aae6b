"""Places in packed rows: positions of texts, and how rows are read at some of their places."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from recjax.typing import Array


def text_positions(segments: Array, options: Array | None = None) -> Array:
    """[R T] each token's place in its text; arguments as of `nn.masks.make_mask`.

    Each option goes on where the beginning ends that all of its text's options have.
    """
    place = jnp.arange(segments.shape[1])[None]
    changes = jnp.diff(segments, axis=1, prepend=-1) != 0
    first = jax.lax.cummax(jnp.where(changes, place, 0), axis=1)
    if options is None:
        return place - first
    asked = jax.lax.cummax(jnp.where(options == 0, place + 1, 0), axis=1)
    asked = jnp.maximum(asked, first)  # a text may begin with its options
    changes |= jnp.diff(options, axis=1, prepend=-1) != 0
    begins = jax.lax.cummax(jnp.where(changes, place, 0), axis=1)
    return jnp.where(options == 0, place, asked + place - begins) - first


def rows_at(x: Array, places: Array | None) -> Array:
    """x [B T ...] at places [B Q] of each row: [B Q ...]; x itself without places."""
    return x if places is None else jax.vmap(lambda row, at: row[at])(x, places)


def flat_rows(x: Array, places: Array) -> Array:
    """Rows [m ...] of x [R L ...] at places of the joined rows; see `at_places`."""
    return at_places(lambda at, flat: flat[at], places, x)


def newest(x: Array, last: Array | None) -> Array:
    """x [R L ...] at the newest place of each example: [B ...].

    Args:
        x: [R L ...].
        last: places of packed rows, as `at_places` takes them; None: each row's last place.
    """
    return x[:, -1] if last is None else flat_rows(x, last)


def at_places(function: Callable[..., Any], places: Array, *rows: Array) -> Any:
    """`function(places, *flat)`, of rows or of equal parts of them.

    Parts that different devices hold are read by each device for itself: no row leaves it.

    Args:
        function: of places [m] and of arrays [n ...] whose rows are joined to one axis.
        places: [m] in the joined rows; or [S m], those of each of S equal parts of the rows.
        rows: [R L ...].

    Returns:
        What the function returns, [m ...]; of parts [S m ...] as [S * m ...].
    """
    if places.ndim == 1:
        return function(places, *(a.reshape(-1, *a.shape[2:]) for a in rows))
    parts = (a.reshape(len(places), -1, *a.shape[2:]) for a in rows)
    out = jax.vmap(function)(places, *parts)
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), out)
