"""Vectors of users, for models whose class says `personal`."""

import jax.numpy as jnp
from flax import nnx

from recjax.typing import Array


class Users(nnx.Module):
    """A vector for each user; somebody else gets the mean of all.

    Args:
        n_users: U.
        dim: D.
        init_std: standard deviation of the initial vectors.
        rngs: initialiser keys.
    """

    def __init__(self, n_users: int, dim: int, init_std: float, *, rngs: nnx.Rngs):
        init = nnx.initializers.normal(init_std)
        self.embedding = nnx.Param(init(rngs.params(), (n_users, dim), jnp.float32))

    def __call__(self, users: Array | None, ids: Array) -> Array:
        """Vectors [B L D].

        Args:
            users: [B L] numbers from 1 on, 0 = somebody else; None = all are.
            ids: [B L], for the shape.
        """
        table = self.embedding[...]
        anybody = table.mean(axis=0)
        if users is None:
            return jnp.broadcast_to(anybody, (*ids.shape, table.shape[1]))
        return jnp.where((users > 0)[..., None], table[jnp.maximum(users - 1, 0)], anybody)


def with_bias(table: Array, bias: Array) -> Array:
    """Item vectors [I D] with their biases [I] as one more number: [I D + 1].

    The table may have rows behind the items, so that devices divide it; their bias is 0.
    """
    bias = jnp.pad(bias, (0, len(table) - len(bias)))
    return jnp.concatenate([table, bias[:, None]], axis=-1)
