"""Ratings of users and items: matrix factorisation with biases, and a network.

- "mf": `mean + b_u + b_i + <p_u, q_i>` (Koren et al., Computer 2009);
- "mlp": `mean + network([p_u, q_i])` (Cheng et al., DLRS 2016, the deep part).

Neither reads an order. Users and items that training has not have vectors near 0, and the mean.
"""

import dataclasses
import itertools
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from recjax.nn.dropout import dropout
from recjax.nn.table import Embedding
from recjax.ranges import Checked, Dropout, Positive, Size
from recjax.typing import Array


@dataclasses.dataclass(frozen=True)
class Config(Checked):
    """Sizes and settings of models of ratings."""

    name: Literal["mf", "mlp"] = "mf"
    dim: Size = 16  # D
    hidden: tuple[Size, ...] = (64, 32)  # mlp: widths of its layers
    dropout: Dropout = 0.0  # on the vectors of users and items
    init_std: Positive = 0.01


PARAM_AXES = ((r".*", (None,)),)


class RatingModel(nnx.Module):
    """Predicts ratings.

    Args:
        config: sizes.
        n_items: I.
        n_users: U.
        rngs: initialiser keys.
    """

    def __init__(self, config: Config, n_items: int, n_users: int, *, rngs: nnx.Rngs):
        self.config = config
        init = nnx.initializers.normal(config.init_std)
        self.mean = nnx.Param(jnp.zeros((), jnp.float32))
        self.users = Embedding(n_users, config.dim, embedding_init=init, rngs=rngs)
        self.items = Embedding(n_items, config.dim, embedding_init=init, rngs=rngs)
        if config.name == "mf":
            self.user_bias = nnx.Param(jnp.zeros(n_users, jnp.float32))
            self.item_bias = nnx.Param(jnp.zeros(n_items, jnp.float32))
        else:
            widths = (2 * config.dim, *config.hidden, 1)
            self.layers = nnx.List(
                [nnx.Linear(a, b, rngs=rngs) for a, b in itertools.pairwise(widths)]
            )

    def __call__(
        self,
        users: Array,
        items: Array,
        *,
        deterministic: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> Array:
        """Ratings [B] of users [B] (from 0) for items [B] (ids from 1), in float32."""
        rate, mean = self.config.dropout, self.mean[...].astype(jnp.float32)
        p = dropout(self.users(users), rate, deterministic=deterministic, rngs=rngs)
        q = dropout(self.items(items), rate, deterministic=deterministic, rngs=rngs)
        if self.config.name == "mf":
            biases = self.user_bias[...][users] + self.item_bias[...][items]
            return mean + biases + jnp.einsum("BD,BD->B", p, q)
        x = jnp.concatenate([p, q], axis=-1)
        for number, layer in enumerate(self.layers):
            x = layer(jax.nn.relu(x) if number else x)
        return mean + x[:, 0]
