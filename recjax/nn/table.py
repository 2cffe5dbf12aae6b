"""Tables of vectors, by id."""

from typing import Any

from flax import nnx

from recjax.sharded import rows_of
from recjax.typing import Array


class Embedding(nnx.Embed):
    """Vectors [n D] by number, in the dtype that the table has when it is read.

    Flax gives them the type that the table began with: in a step in bfloat16 the vectors of
    positions would make all that follows float32.
    """

    def __call__(self, inputs: Array, out_sharding: Any = None) -> Array:
        """Vectors [... D] of numbers [...]."""
        del out_sharding
        return self.embedding[...][inputs]


class Table(Embedding):
    """Item vectors [I D]; where its rows are split over devices, a look-up gathers no table."""

    def __call__(self, inputs: Array, out_sharding: Any = None) -> Array:
        """Vectors [... D] of ids [...]."""
        del out_sharding
        return rows_of(self.embedding[...], inputs, "items")
