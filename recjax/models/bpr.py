"""BPR-MF (Rendle et al., UAI 2009), and with `hidden` layers BPR-MLP: users and items, no order.

A user's vector scores items by inner product, with a bias of the item; the loss is BPR
(`recjax.training.losses`). With `hidden`, the vectors of users and of items each go through
layers first.

Deviations: negatives are uniform and shared by the batch, in place of one for each pair. BPR-MLP is
a name of P5's tables without a description; two towers keep the score an inner product. Somebody
who is not in the data gets the mean of all users' vectors.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
from flax import nnx

from recjax.models.personal import Users, with_bias
from recjax.models.recommender import SequentialRecommender
from recjax.nn.dropout import dropout
from recjax.nn.table import Table
from recjax.ranges import Checked, Dropout, Positive, Size
from recjax.typing import Array


@dataclasses.dataclass(frozen=True)
class Config(Checked):
    """Sizes and settings of BPR-MF and BPR-MLP."""

    dim: Size = 64  # D
    hidden: tuple[Size, ...] = ()  # widths of the layers between; none = BPR-MF
    max_length: Size = 50  # the newest items of each user are trained on
    dropout: Dropout = 0.0  # on the users' vectors
    init_std: Positive = 0.1


PRESETS = {"mlp": Config(hidden=(64,))}

PARAM_AXES = (
    (r"items/embedding", ("items", "width")),
    (r".*", (None,)),
)


def _layers(config: Config, rngs: nnx.Rngs) -> nnx.List:
    widths = (config.dim, *config.hidden, config.dim) if config.hidden else (config.dim,)
    return nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in itertools.pairwise(widths)])


def _through(layers: nnx.List, x: Array) -> Array:
    for number, layer in enumerate(layers):
        x = layer(jax.nn.relu(x) if number else x)
    return x


class Recommender(SequentialRecommender):
    """BPR-MF under the recommender contract."""

    personal = True
    reads_history = False

    def __init__(self, config: Config, n_items: int, n_users: int, *, rngs: nnx.Rngs):
        self.config = config
        init = nnx.initializers.normal(config.init_std)
        self.items = Table(n_items, config.dim, embedding_init=init, rngs=rngs)
        self.users = Users(n_users, config.dim, config.init_std, rngs=rngs)
        self.bias = nnx.Param(jnp.zeros(n_items, jnp.float32))
        self.user_layers, self.item_layers = _layers(config, rngs), _layers(config, rngs)

    def encode(
        self,
        ids: Array,
        *,
        positions: Array | None = None,
        segments: Array | None = None,
        users: Array | None = None,
        deterministic: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> Array:
        """The users' vectors [B L D + 1] at every place; the last number is 1, for the biases."""
        self.layout(ids, positions, segments)
        h = _through(self.user_layers, self.users(users, ids))
        h = dropout(h, self.config.dropout, deterministic=deterministic, rngs=rngs)
        return jnp.concatenate([h, jnp.ones_like(h[..., :1])], axis=-1)

    def item_table(self) -> Array:
        """Vectors and biases of the items [I D + 1]."""
        table = _through(self.item_layers, self.items.embedding[...])
        return with_bias(table, self.bias[...])
