"""FDSA: feature-level deeper self-attention (Zhang et al., IJCAI 2019).

One stack of self-attention reads the items, another one their attributes, which attention pools to
one vector an item (section 3.2); both ends go through one linear map (3.5), and items are scored by
inner product with their embeddings.

Deviations: blocks are SASRec's (`recjax.models.sasrec`), a norm closes each stack, and both have
one table of positions; attributes are one set of labels, without vectors of text.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import nnx

from recjax.models import sasrec
from recjax.models.attributed import ATTRIBUTE_AXES, AttributedConfig, ItemAttributes
from recjax.models.recommender import SequentialRecommender
from recjax.nn.dropout import dropout
from recjax.nn.masks import make_mask
from recjax.nn.table import Embedding, Table
from recjax.ranges import Dropout, Few, Positive, Size, check_multiple
from recjax.typing import Array


@dataclasses.dataclass(frozen=True)
class Config(AttributedConfig):
    """Sizes and settings of FDSA."""

    dim: Size = 64  # D; 100 in the paper, 64 in S3-Rec's benchmark
    layers: Few = 2  # of each stack
    heads: Size = 2  # N, as S3-Rec's benchmark
    mlp_dim: Size = 64  # F
    max_length: Size = 50  # L
    dropout: Dropout = 0.5
    init_std: Positive = 0.02
    scale_embedding: bool = False  # inputs times sqrt(D), as SASRec's authors do

    def __post_init__(self):
        super().__post_init__()
        check_multiple(self, "dim", of="heads")


PRESETS = {"paper": Config(dim=100, mlp_dim=100)}

PARAM_AXES = (*ATTRIBUTE_AXES, (r"project/.*", (None,)), *sasrec.PARAM_AXES)


class Recommender(SequentialRecommender):
    """FDSA under the recommender contract."""

    attributed = True

    def __init__(self, config: Config, n_items: int, n_attributes: int, *, rngs: nnx.Rngs):
        self.config = config
        init = nnx.initializers.normal(config.init_std)
        self.items = Table(n_items, config.dim, embedding_init=init, rngs=rngs)
        self.attributes = ItemAttributes(
            n_items, n_attributes, config.dim, config.init_std, rngs=rngs
        )
        self.positions = Embedding(config.max_length, config.dim, embedding_init=init, rngs=rngs)
        self.item_blocks = sasrec.pre_norm_blocks(config, config.init_std, rngs=rngs)
        self.blocks = sasrec.pre_norm_blocks(config, config.init_std, rngs=rngs)
        self.item_norm = nnx.LayerNorm(config.dim, rngs=rngs)
        self.norm = nnx.LayerNorm(config.dim, rngs=rngs)
        self.project = nnx.Linear(2 * config.dim, config.dim, rngs=rngs)

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
        mode: dict[str, Any] = {"deterministic": deterministic, "rngs": rngs}
        mask, place = make_mask(segments > 0, 1, segments), self.positions(positions)
        item = dropout(self.input_vectors(ids) + place, self.config.dropout, **mode)
        feature = dropout(self.attributes()[ids] + place, self.config.dropout, **mode)
        for block in self.item_blocks:
            item = block(item, mask, **mode)
        for block in self.blocks:
            feature = block(feature, mask, **mode)
        return self.project(jnp.concatenate([self.item_norm(item), self.norm(feature)], axis=-1))

    def item_table(self) -> Array:
        """Item vectors [I D]."""
        return self.items.embedding[...]
