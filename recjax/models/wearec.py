"""WEARec: a filter of frequencies that follows the history, and wavelets (Xu et al., AAAI 2026).

A layer has two parts. The dynamic filter: the mean of the history goes through an MLP, which scales
and moves a learned gain and a learned offset of every frequency, for each of k groups of channels.
The wavelets: Haar's transform of neighbouring items, whose detail has learned scales.
`filter_share` of the first and the rest of the second are added to the input and normed; a
feed-forward network follows. There is no attention.

Deviations: GELU is its approximation by tanh. All of it is causal, so that every position is
trained at once. Upstream the frequencies, the wavelets and the mean have the whole window in them,
also later items. Here a position has the filter's value for a window that ends there, with the mean
of the items up to it. A wavelet's pair is always an item and the one before, and the value that of
the newer of the two: upstream's number at every second place, the newest among them. Places before
a sequence began count as 0 and are left out of the mean; upstream they hold the norm of their
position's vector. To train as the authors do, each prefix with its last target, set
`train.prefixes`.
"""

import dataclasses
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from flax import nnx

from recjax.models.filtered import MixerLayer
from recjax.models.layered import LAYERED_AXES, LayeredConfig, LayeredRecommender, Rows
from recjax.nn.dropout import dropout
from recjax.nn.filters import detail_scaled, filtered_each, waves
from recjax.ranges import Range, Size
from recjax.typing import Array


@dataclasses.dataclass(frozen=True)
class Config(LayeredConfig):
    """Sizes and settings of WEARec."""

    heads: Size = 8  # k: groups of channels, each with filters of its own
    mlp_dim: Size = 256  # F, 4 D upstream
    filter_share: Annotated[float, Range(0, 1)] = 0.2  # alpha; the rest is the wavelets'


# The authors' logs of their runs with windows of 50: the dropout, alpha and k in their names.
PRESETS = {
    "beauty": Config(),
    "sports": Config(filter_share=0.3, heads=4),
    "lastfm": Config(filter_share=0.3, heads=2),
    "movielens": Config(filter_share=0.3, heads=2, dropout=0.1),
}

PARAM_AXES = LAYERED_AXES


class Layer(MixerLayer):
    """One layer: [B L D] -> [B L D]."""

    config: Config

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        init = nnx.initializers.normal(config.init_std)
        dim, groups, length = config.dim, config.heads, config.max_length
        waved = length // 2 + 1  # M
        self.gains = nnx.Param(jnp.ones((groups, waved), jnp.float32))
        self.offsets = nnx.Param(jnp.full((groups, waved), -0.1, jnp.float32))
        self.details = nnx.Param(init(rngs.params(), ((length + 1) // 2, dim), jnp.float32))
        self.read = nnx.Linear(dim, dim, kernel_init=init, rngs=rngs)
        self.adapt = nnx.Linear(dim, groups * waved * 2, kernel_init=init, rngs=rngs)
        super().__init__(config, rngs=rngs)

    def _filter(self, x: Array, rows: Rows) -> Array:
        """The dynamic filter."""
        length, groups = self.config.max_length, self.config.heads
        seen = rows.mask.astype(jnp.float32)
        mean = (seen / seen.sum(axis=-1, keepdims=True)).astype(x.dtype)
        context = jnp.einsum("BLM,BMD->BLD", mean, x)
        moved = self.adapt(jax.nn.gelu(self.read(context)))
        moved = moved.reshape(*x.shape[:2], groups, -1, 2)  # [B L N M 2]
        gains = self.gains[...][None, None] * (1 + moved[..., 0])
        filtered = filtered_each(
            x.reshape(*x.shape[:2], groups, -1), gains, length, rows.mask, rows.positions
        )
        # Offsets are added to the frequencies of the transform of unit norm; this is what they
        # make of the window's newest place.
        cosines, _, weights = waves(length)
        newest = jnp.asarray(cosines[-1] * weights * length**0.5, x.dtype)
        added = (self.offsets[...][None, None] + moved[..., 1]) @ newest
        return (filtered + added[..., None]).reshape(x.shape)

    def mixed(self, x: Array, rows: Rows, **mode: Any) -> Array:
        """See `MixerLayer`."""
        share = self.config.filter_share
        waved = detail_scaled(x, self.details[...][rows.positions // 2], rows.segments)
        both = (1 - share) * waved + share * self._filter(x, rows)
        return self.filter_norm(x + dropout(both, self.config.dropout, **mode))


class Recommender(LayeredRecommender):
    """WEARec under the recommender contract."""

    config: Config
    normed = "first"

    def layer(self, rngs: nnx.Rngs) -> Layer:
        """See `LayeredRecommender`."""
        return Layer(self.config, rngs=rngs)
