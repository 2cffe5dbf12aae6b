"""Reading rows at places of their own, and packed rows at flat places."""

from collections.abc import Callable
from typing import Any

import jax

from recjax.typing import Array


def rows_at(x: Array, places: Array | None) -> Array:
    """x [B T ...] at places [B Q] of each row: [B Q ...]; x itself without places."""
    return x if places is None else jax.vmap(lambda row, at: row[at])(x, places)


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
