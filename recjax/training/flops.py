"""FLOPs of traced functions."""

import math
from collections.abc import Iterator
from typing import Any


def product_flops(jaxpr: Any) -> int:
    """FLOPs of the matrix products of a traced function, loops of known length unrolled.

    Args:
        jaxpr: of `jax.make_jaxpr`.
    """
    total = 0
    for eqn in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            sizes = (eqn.invars[0].aval.shape[axis] for axis in contracted)
            total += 2 * math.prod(eqn.outvars[0].aval.shape) * math.prod(sizes)
        inside = sum(map(product_flops, inner(eqn)))
        total += inside * (eqn.params["length"] if eqn.primitive.name == "scan" else 1)
    return total


def inner(eqn: Any) -> Iterator[Any]:
    """The jaxprs that an equation runs."""
    for value in eqn.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if hasattr(item, "eqns") or hasattr(getattr(item, "jaxpr", None), "eqns"):
                yield item
