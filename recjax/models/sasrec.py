"""SASRec: self-attentive sequential recommendation (Kang and McAuley, ICDM 2018).

Item and position embeddings (section III-A), blocks of causal self-attention and a point-wise
feed-forward network (III-B), each wrapped as `x + Dropout(g(LayerNorm(x)))` (III-C), items scored
by inner product with the shared item embedding (III-D).

Deviations: a LayerNorm closes the last block, as in the authors' code, not in the paper's text.
Attention reads LayerNorm(x) for queries, keys and values alike, as the paper's formula says (the
authors' code normalises the queries only). Embeddings and kernels start from a normal distribution
of `init_std` (the paper leaves it open). Item embeddings are scaled by sqrt(D) at the input, as
in the authors' code, when `scale_embedding` is set.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from recjax.models.recommender import SequentialRecommender
from recjax.nn.attention import MultiHeadAttention
from recjax.nn.dropout import dropout
from recjax.nn.masks import segment_mask
from recjax.typing import Array


@dataclasses.dataclass(frozen=True)
class Config:
    dim: int = 64  # D; the paper uses 50, S3-Rec's benchmark 64
    layers: int = 2  # b (section IV-D)
    heads: int = 1  # N; the paper found no gain from more (section III-B)
    mlp_dim: int = 64  # F; the paper's W1 and W2 are [D D]
    max_length: int = 50  # L; 200 for MovieLens, 50 elsewhere (section IV-D)
    dropout: float = 0.5  # 0.2 for MovieLens, 0.5 for sparse sets (section IV-D)
    init_std: float = 0.02  # as BERT and S3-Rec
    scale_embedding: bool = False  # times sqrt(D), as in the authors' code

    def __post_init__(self):
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is no multiple of heads {self.heads}")


# By name in a config: {"name": "sasrec", "preset": "paper-sparse"}.
PRESETS = {
    "paper-sparse": Config(dim=50, mlp_dim=50, max_length=50, dropout=0.5),
    "paper-movielens": Config(dim=50, mlp_dim=50, max_length=200, dropout=0.2),
    "s3rec-benchmark": Config(heads=2),
}

PARAM_AXES = (
    (r"items/embedding", ("items", "width")),
    (r"positions/embedding", (None, "width")),
    (r".*attention/(query|key|value)/kernel", ("width", "heads")),
    (r".*attention/out/kernel", ("heads", "width")),
    (r".*attention/(query|key|value)/bias", ("heads",)),
    (r".*up/kernel", ("width", "mlp")),
    (r".*up/bias", ("mlp",)),
    (r".*down/kernel", ("mlp", "width")),
    (r".*", (None,)),
)


class Block(nnx.Module):
    """One pre-norm block: [B L D] -> [B L D]."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        init = nnx.initializers.normal(config.init_std)
        self.rate = config.dropout
        self.attention_norm = nnx.LayerNorm(config.dim, rngs=rngs)
        self.attention = MultiHeadAttention(
            config.dim, config.heads, config.dropout, kernel_init=init, rngs=rngs
        )
        self.mlp_norm = nnx.LayerNorm(config.dim, rngs=rngs)
        self.up = nnx.Linear(config.dim, config.mlp_dim, kernel_init=init, rngs=rngs)
        self.down = nnx.Linear(config.mlp_dim, config.dim, kernel_init=init, rngs=rngs)

    def __call__(self, x: Array, mask: Array, *, deterministic: bool, rngs=None) -> Array:
        drop = {"rate": self.rate, "deterministic": deterministic, "rngs": rngs}
        normed = self.attention_norm(x)
        attended = self.attention(normed, normed, mask, deterministic=deterministic, rngs=rngs)
        x = x + dropout(attended, **drop)
        hidden = dropout(jax.nn.relu(self.up(self.mlp_norm(x))), **drop)
        return x + dropout(self.down(hidden), **drop)


class Recommender(SequentialRecommender):
    """SASRec under the recommender contract.

    Args:
        config: sizes.
        n_items: I.
        rngs: initialiser keys.
    """

    def __init__(self, config: Config, n_items: int, *, rngs: nnx.Rngs):
        self.config = config
        init = nnx.initializers.normal(config.init_std)
        self.items = nnx.Embed(n_items, config.dim, embedding_init=init, rngs=rngs)
        self.positions = nnx.Embed(config.max_length, config.dim, embedding_init=init, rngs=rngs)
        self.blocks = nnx.List([Block(config, rngs=rngs) for _ in range(config.layers)])
        self.final_norm = nnx.LayerNorm(config.dim, rngs=rngs)

    def encode(
        self,
        ids: Array,
        *,
        positions: Array | None = None,
        segments: Array | None = None,
        deterministic: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> Array:
        """Hidden states [B L D] of item ids [B L]; h_t has seen items up to t only."""
        positions, segments = self.layout(ids, positions, segments)
        x = self.items(ids)
        if self.config.scale_embedding:
            x = x * jnp.sqrt(self.config.dim).astype(x.dtype)
        x = x + self.positions(positions)
        x = dropout(x, self.config.dropout, deterministic=deterministic, rngs=rngs)
        mask = segment_mask(segments, causal=True)
        for block in self.blocks:
            x = block(x, mask, deterministic=deterministic, rngs=rngs)
        return self.final_norm(x)

    def item_table(self) -> Array:
        return self.items.embedding[...]
