"""HGN: hierarchical gating networks (Ma et al., KDD 2019).

Of the `window` newest items a gate of features keeps what fits the user (section 3.2), a gate of
instances weighs the items (3.3), and their weighted mean, the sum of the items' vectors (3.4) and
the user's vector score the next item, with output vectors and biases of their own (3.5).

Deviations: every position of a sequence is trained (the paper's next T = 3 items are the targets of
the following positions), windows at the start of a sequence are shorter, and negatives are shared
by the batch. Dropout on the state is not the paper's. The pooling is the authors' code's: the mean
weighted by the instances' gates.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from recjax.models.personal import Users, with_bias
from recjax.models.recommender import SequentialRecommender
from recjax.nn.conv import windows
from recjax.nn.dropout import dropout
from recjax.nn.table import Table
from recjax.ranges import Checked, Dropout, Few, FieldError, Positive, Size
from recjax.typing import Array


@dataclasses.dataclass(frozen=True)
class Config(Checked):
    """Sizes and settings of HGN."""

    dim: Size = 64  # D; the paper uses 50, S3-Rec's benchmark 64
    window: Few = 5  # L of the paper (section 4.4)
    max_length: Size = 50  # items of a row; the state reads `window` of them
    dropout: Dropout = 0.0  # on the states; not the paper's
    init_std: Positive = 0.02
    scale_embedding: bool = False  # inputs times sqrt(D), as SASRec's authors do

    def __post_init__(self):
        super().__post_init__()
        if self.window > self.max_length:
            raise FieldError("window", f"{self.window} is more than max_length {self.max_length}")


PRESETS = {"paper": Config(dim=50)}

PARAM_AXES = (
    (r"(items|outputs)/embedding", ("items", "width")),
    (r".*", (None,)),
)


class Recommender(SequentialRecommender):
    """HGN under the recommender contract."""

    personal = True

    def __init__(self, config: Config, n_items: int, n_users: int, *, rngs: nnx.Rngs):
        self.config = config
        width, init = config.dim, nnx.initializers.normal(config.init_std)
        self.items = Table(n_items, width, embedding_init=init, rngs=rngs)
        self.users = Users(n_users, width, config.init_std, rngs=rngs)
        self.outputs = Table(n_items, width, embedding_init=init, rngs=rngs)
        self.bias = nnx.Param(jnp.zeros(n_items, jnp.float32))
        self.gate_items = nnx.Linear(width, width, rngs=rngs)
        self.gate_user = nnx.Linear(width, width, use_bias=False, rngs=rngs)
        self.weigh_items = nnx.Linear(width, 1, use_bias=False, rngs=rngs)
        self.weigh_user = nnx.Linear(width, config.window, use_bias=False, rngs=rngs)

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
        """States [B L D + 1] of item ids [B L]; the last number is 1, for the items' biases."""
        _, segments = self.layout(ids, positions, segments)
        size = self.config.window
        user = self.users(users, ids)  # [B L D]
        image = windows(self.input_vectors(ids), segments, size)  # [B L w D]
        real = windows((segments > 0).astype(image.dtype)[..., None], segments, size)[..., 0]
        gate = jax.nn.sigmoid(self.gate_items(image) + self.gate_user(user)[:, :, None])
        gated = image * gate
        weights = self.weigh_items(gated)[..., 0] + self.weigh_user(user)
        weights = jax.nn.sigmoid(weights) * real  # [B L w]
        total = jnp.maximum(weights.sum(axis=-1, keepdims=True), 1e-9)
        pooled = jnp.einsum("BLw,BLwD->BLD", weights, gated) / total
        h = dropout(
            user + pooled + image.sum(axis=2),
            self.config.dropout,
            deterministic=deterministic,
            rngs=rngs,
        )
        return jnp.concatenate([h, jnp.ones_like(h[..., :1])], axis=-1)

    def item_table(self) -> Array:
        """Output vectors and biases [I D + 1]."""
        return with_bias(self.outputs.embedding[...], self.bias[...])
