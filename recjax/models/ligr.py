"""LiGR: a Transformer with gated residuals over the items of a history.

Layers are those of LiGR (Borisyuk et al. 2025, "From features to Transformers") as eSASRec
(RecSys 2025) and RecTools read it: `x + sigmoid(G x) * g(norm(x))` for attention and for a
feed-forward network with SwiGLU (Shazeer 2020); items are scored by inner product with the shared
item embedding, or by cosine. Without gates and with "relu" it is SASRec's pre-norm form.

Deviations: distances of items may bias the attention (`relative`), which eSASRec does not have. A
norm follows the last layer; RecTools' LiGR has none there. eSASRec trains with a sampled softmax;
what objective is the config's.
"""

import dataclasses
from typing import Literal

import jax
from flax import nnx

from recjax.models.layered import LAYERED_AXES, LayeredConfig, LayeredRecommender, Rows
from recjax.nn.attention import MultiHeadAttention
from recjax.nn.dropout import dropout
from recjax.nn.mlp import gated_silu
from recjax.nn.relative import RelativeBias
from recjax.ranges import Size
from recjax.typing import Array


@dataclasses.dataclass(frozen=True)
class Config(LayeredConfig):
    """Sizes and settings of LiGR."""

    mlp_dim: Size = 256  # F, 4 D as RecTools
    gated: bool = True  # residuals through gates
    feed_forward: Literal["swiglu", "relu", "gelu"] = "swiglu"
    relative: bool = False  # distances bias the attention


PRESETS = {
    # RecTools' LiGRLayers: SwiGLU of 4 D, gates, a norm before each part.
    "esasrec": Config(dim=256, mlp_dim=1024, heads=4, dropout=0.2, max_length=200),
    "sparse": Config(),
}

PARAM_AXES = LAYERED_AXES


class Layer(nnx.Module):
    """One layer: [B L D] -> [B L D]."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        init = nnx.initializers.normal(config.init_std)
        self.config = config

        def linear(inner: int, outer: int, bias: bool = False) -> nnx.Linear:
            return nnx.Linear(inner, outer, use_bias=bias, kernel_init=init, rngs=rngs)

        dim, wide = config.dim, config.mlp_dim
        self.attention_norm = nnx.LayerNorm(dim, rngs=rngs)
        self.attention = MultiHeadAttention(
            dim, config.heads, config.dropout, kernel_init=init, rngs=rngs
        )
        if config.relative:
            self.bias = RelativeBias(config.max_length, config.heads)
        self.mlp_norm = nnx.LayerNorm(dim, rngs=rngs)
        self.up, self.down = linear(dim, wide), linear(wide, dim)
        if config.feed_forward == "swiglu":
            self.gate_up = linear(dim, wide)
        if config.gated:
            self.attention_gate, self.mlp_gate = linear(dim, dim, True), linear(dim, dim, True)

    def __call__(self, x: Array, rows: Rows, *, deterministic: bool, rngs=None) -> Array:
        config = self.config
        mode = {"deterministic": deterministic, "rngs": rngs}
        bias = self.bias(rows.positions) if config.relative else None
        normed = self.attention_norm(x)
        attended = self.attention(normed, normed, rows.mask, bias=bias, **mode)
        attended = dropout(attended, config.dropout, **mode)
        x += jax.nn.sigmoid(self.attention_gate(x)) * attended if config.gated else attended
        normed = self.mlp_norm(x)
        hidden = self.up(normed)
        if config.feed_forward == "swiglu":
            hidden = gated_silu(self.gate_up(normed), hidden)
        else:
            hidden = jax.nn.relu(hidden) if config.feed_forward == "relu" else jax.nn.gelu(hidden)
        added = self.down(dropout(hidden, config.dropout, **mode))
        added = dropout(added, config.dropout, **mode)
        return x + (jax.nn.sigmoid(self.mlp_gate(x)) * added if config.gated else added)


class Recommender(LayeredRecommender):
    """LiGR under the recommender contract."""

    config: Config

    def layer(self, rngs: nnx.Rngs) -> Layer:
        """See `LayeredRecommender`."""
        return Layer(self.config, rngs=rngs)
