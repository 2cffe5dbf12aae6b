"""Tables of vectors, by id."""

from typing import Any

from flax import nnx

from recjax.sharded import rows_of
from recjax.typing import Array


class Table(nnx.Embed):
    """Item vectors [I D]; where its rows are split over devices, a look-up gathers no table."""

    def __call__(self, inputs: Array, out_sharding: Any = None) -> Array:
        """Vectors [... D] of ids [...]."""
        del out_sharding
        return rows_of(self.embedding[...], inputs, "items")
