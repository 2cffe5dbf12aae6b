"""HSTU: hierarchical sequential transduction units (Zhai et al., ICML 2024).

One linear map with SiLU makes gates, values, queries and keys (equation 1); attention weighs by
`silu(q k^T + bias)` divided by the window's length, without a softmax (2); the normed result times
the gates goes through a linear map to the residual (3). There is no feed-forward network.

The bias is a learned number for the distance of two items and, with `times`, one for the time
between them (`recjax.nn.relative`). Where times are not known (a history that is given as items
alone, a frozen encoder's), the second is left out.

As in the authors' code for public data sets, norms have no parameters, positions have vectors of
their own, too, and the last layer's states get length 1 as they are; where items are not ranked by
cosine, a norm stands in its place.

Deviations: the time is that between the two items; the authors' code puts the next item's time in
the place of the newer one's, which says when the target is met. Each head has numbers of its own,
and the bias begins at 0.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from recjax.models.layered import LAYERED_AXES, LayeredConfig, LayeredRecommender, Rows
from recjax.nn.dropout import dropout
from recjax.nn.relative import RelativeBias, TimeBias
from recjax.ranges import Dropout
from recjax.typing import Array


@dataclasses.dataclass(frozen=True)
class Config(LayeredConfig):
    """Sizes and settings of HSTU."""

    dropout: Dropout = 0.2  # as the authors' code for public data sets
    times: bool = False  # a bias for the time between items; the data need timestamps


PRESETS = {
    # The authors' configs for MovieLens-1M: D 50, two layers, one head; HSTU-large has 8 and 2.
    "movielens": Config(
        dim=50, heads=1, max_length=200, cosine=True, times=True, scale_embedding=True
    ),
    "movielens-large": Config(
        dim=50, heads=2, layers=8, max_length=200, cosine=True, times=True, scale_embedding=True
    ),
    "sparse": Config(dropout=0.5),
}

PARAM_AXES = LAYERED_AXES


def _norm(config: Config, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(config.dim, use_bias=False, use_scale=False, rngs=rngs)


class Layer(nnx.Module):
    """One layer: [B L D] -> [B L D]."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        init, dim = nnx.initializers.normal(config.init_std), config.dim
        self.config = config

        def linear() -> nnx.Linear:
            return nnx.Linear(dim, dim, use_bias=False, kernel_init=init, rngs=rngs)

        self.norm = _norm(config, rngs)
        self.gate, self.value, self.query, self.key = (linear() for _ in range(4))
        self.bias = RelativeBias(config.max_length, config.heads)
        if config.times:
            self.time_bias = TimeBias(config.heads)
        self.mixed_norm = _norm(config, rngs)
        xavier = nnx.initializers.xavier_uniform()
        self.out = nnx.Linear(dim, dim, kernel_init=xavier, rngs=rngs)

    def __call__(self, x: Array, rows: Rows, *, deterministic: bool, rngs=None) -> Array:
        config = self.config
        normed = self.norm(x)
        split = (*x.shape[:2], config.heads, -1)
        gates = jax.nn.silu(self.gate(normed))
        q, k, v = (
            jax.nn.silu(part(normed)).reshape(split) for part in (self.query, self.key, self.value)
        )
        logits = jnp.einsum("BLNH,BMNH->BNLM", q, k) + self.bias(rows.positions)
        if config.times and rows.times is not None:
            logits += self.time_bias(rows.times)
        weights = jnp.where(rows.mask[:, None], jax.nn.silu(logits) / config.max_length, 0.0)
        mixed = jnp.einsum("BNLM,BMNH->BLNH", weights, v).reshape(x.shape)
        mixed = dropout(
            gates * self.mixed_norm(mixed), config.dropout, deterministic=deterministic, rngs=rngs
        )
        return x + self.out(mixed)


class Recommender(LayeredRecommender):
    """HSTU under the recommender contract."""

    config: Config

    def __init__(self, config: Config, n_items: int, *, rngs: nnx.Rngs):
        self.normed = "none" if config.cosine else "last"
        super().__init__(config, n_items, rngs=rngs)
        if config.scale_embedding and config.positions == "window":
            # Positions begin as large as items are at the input.
            vectors = self.positions.embedding[...] * config.dim**0.5
            self.positions.embedding = nnx.Param(vectors)

    @property
    def timed(self) -> bool:
        """See `SequentialRecommender`."""
        return self.config.times

    def layer(self, rngs: nnx.Rngs) -> Layer:
        """See `LayeredRecommender`."""
        return Layer(self.config, rngs=rngs)

    def outer_norm(self, rngs: nnx.Rngs) -> nnx.LayerNorm:
        """See `LayeredRecommender`."""
        return _norm(self.config, rngs)
