"""SASRec: self-attentive sequential recommendation (Kang and McAuley, ICDM 2018).

Item and position embeddings (section III-A), blocks of causal self-attention and a point-wise
feed-forward network (III-B), each wrapped as `x + Dropout(g(LayerNorm(x)))` (III-C), items scored
by inner product with the shared item embedding (III-D).

Deviations: a LayerNorm closes the last block, as in the authors' code, not in the paper's text.
Attention reads LayerNorm(x) for queries, keys and values alike, as the paper's formula says (the
authors' code normalises the queries only). A linear map follows attention, as in pmixer's code; the
paper's formula and the authors' code have none. Embeddings and kernels start from a normal
distribution of `init_std` (the paper leaves it open). Item embeddings are scaled by sqrt(D) at the
input, as in the authors' code, when `scale_embedding` is set.

`block`, `norm_eps`, `activation` and `padding` are there for weights of pmixer/SASRec.pytorch (see
`recjax.convert.seqrec_torch`), whose attention does not mask padding: a history shorter than the
window also attends to the padding on its left. All padding of a row holds one and the same vector
in every layer, so the blocks take that one vector and how often it stands there, and rows stay
packed. In training upstream draws dropout for each padding position; here the vector has none.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from recjax.models.recommender import SequentialRecommender
from recjax.nn.attention import MultiHeadAttention
from recjax.nn.dropout import dropout
from recjax.nn.masks import make_mask
from recjax.nn.table import Embedding, Table
from recjax.ranges import Checked, Dropout, Few, Positive, Share, Size, check_multiple
from recjax.sharded import constrain
from recjax.typing import Array


@dataclasses.dataclass(frozen=True)
class Config(Checked):
    """Sizes and settings of SASRec."""

    dim: Size = 64  # D; the paper uses 50, S3-Rec's benchmark 64
    layers: Few = 2  # b (section IV-D)
    heads: Size = 1  # N; the paper found no gain from more (section III-B)
    mlp_dim: Size = 64  # F; the paper's W1 and W2 are [D D]
    max_length: Size = 50  # L; 200 for MovieLens, 50 elsewhere (section IV-D)
    dropout: Dropout = 0.5  # 0.2 for MovieLens, 0.5 for sparse sets (section IV-D)
    init_std: Positive = 0.02  # as BERT and S3-Rec
    scale_embedding: bool = False  # times sqrt(D), as in the authors' code
    # "pre": x + g(norm(x)), the paper (III-C), pmixer 2025 with --norm_first; "query": only queries
    # are normed and residuals start from what is normed, the authors' code, pmixer until 2025;
    # "post": norm(x + g(x)), pmixer 2025.
    block: Literal["pre", "query", "post"] = "pre"
    norm_eps: Share = 1e-6  # Flax's default; 1e-8 in the authors' code and pmixer's
    activation: Literal["relu", "none"] = "relu"  # ReLU (III-B); none in pmixer's of September 2020
    # What attention sees of padding. "masked": nothing, the authors' code; "zero": zeros in every
    # layer, pmixer until 2024; "carried": row 0 of both embeddings, taken through the layers, and
    # window positions are rows 1..L, pmixer since 2024.
    padding: Literal["masked", "zero", "carried"] = "masked"

    def __post_init__(self):
        super().__post_init__()
        check_multiple(self, "dim", of="heads")


# By name in a config: {"name": "sasrec", "preset": "paper-sparse"}.
PRESETS = {
    "paper-sparse": Config(dim=50, mlp_dim=50, max_length=50, dropout=0.5),
    "paper-movielens": Config(dim=50, mlp_dim=50, max_length=200, dropout=0.2),
    # D, layers, heads and L of its section 5.1.4; F is SASRec's D (in S3-Rec's own code 4 D).
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
    """One block of `config.block`'s form: [B L D] -> [B L D]."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        init = nnx.initializers.normal(config.init_std)
        self.form, self.rate = config.block, config.dropout
        self.relu = config.activation == "relu"
        self.attention_norm = nnx.LayerNorm(config.dim, epsilon=config.norm_eps, rngs=rngs)
        self.attention = MultiHeadAttention(
            config.dim, config.heads, config.dropout, kernel_init=init, rngs=rngs
        )
        self.mlp_norm = nnx.LayerNorm(config.dim, epsilon=config.norm_eps, rngs=rngs)
        self.up = nnx.Linear(config.dim, config.mlp_dim, kernel_init=init, rngs=rngs)
        self.down = nnx.Linear(config.mlp_dim, config.dim, kernel_init=init, rngs=rngs)

    def __call__(
        self,
        x: Array,
        mask: Array,
        padding: tuple[Array, Array] | None = None,
        *,
        deterministic: bool,
        rngs=None,
    ) -> Array:
        """Attends within `mask` [B L L] and to `padding`: the vector [D] and its count [B L]."""
        mode = {"deterministic": deterministic, "rngs": rngs}

        def attend(queries: Array, memory: Array, repeated: tuple[Array, Array] | None) -> Array:
            attended = self.attention(queries, memory, mask, repeated=repeated, **mode)
            return dropout(attended, self.rate, **mode)

        def mlp(x: Array) -> Array:
            hidden = self.up(x)
            hidden = dropout(jax.nn.relu(hidden) if self.relu else hidden, self.rate, **mode)
            return dropout(self.down(hidden), self.rate, **mode)

        x = constrain(x, "batch", "length", None)
        if self.form == "post":
            x = self.attention_norm(x + attend(x, x, padding))
            return self.mlp_norm(x + mlp(x))
        normed = self.attention_norm(x)
        if self.form == "query":
            x = self.mlp_norm(normed + attend(normed, x, padding))
            return x + mlp(x)
        if padding is not None:
            padding = self.attention_norm(padding[0]), padding[1]
        x = x + attend(normed, normed, padding)
        return x + mlp(self.mlp_norm(x))


def pre_norm_blocks(config: Any, init_std: float, *, rngs: nnx.Rngs) -> nnx.List:
    """SASRec's blocks for another model, whose config has `layers` and the sizes of a block."""
    block = Config(
        dim=config.dim, heads=config.heads, mlp_dim=config.mlp_dim, dropout=config.dropout,
        init_std=init_std,
    )  # fmt: skip
    return nnx.List([Block(block, rngs=rngs) for _ in range(config.layers)])


def _row_0_zero(init: Callable) -> Callable:
    """An initialiser whose row 0 is 0."""
    return lambda *args, **kwargs: init(*args, **kwargs).at[0].set(0)


class Recommender(SequentialRecommender):
    """SASRec under the recommender contract."""

    def __init__(self, config: Config, n_items: int, *, rngs: nnx.Rngs):
        self.config = config
        init = nnx.initializers.normal(config.init_std)
        carried = config.padding == "carried"
        table = _row_0_zero(init) if carried else init
        rows = config.max_length + carried
        self.items = Table(n_items, config.dim, embedding_init=table, rngs=rngs)
        self.positions = Embedding(rows, config.dim, embedding_init=table, rngs=rngs)
        self.blocks = nnx.List([Block(config, rngs=rngs) for _ in range(config.layers)])
        self.final_norm = nnx.LayerNorm(config.dim, epsilon=config.norm_eps, rngs=rngs)

    def _embed(self, ids: Array, rows: Array) -> Array:
        """Items [B L] at rows [B L] of the position table: [B L D]."""
        return self.input_vectors(ids) + self.positions(rows)

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
        config = self.config
        positions, segments = self.layout(ids, positions, segments)
        carried = config.padding == "carried"
        x = self._embed(ids, positions + 1 if carried else positions)
        x = dropout(x, config.dropout, deterministic=deterministic, rngs=rngs)
        mask = make_mask(segments > 0, 1, segments)
        if config.padding == "masked":
            for block in self.blocks:
                x = block(x, mask, deterministic=deterministic, rngs=rngs)
            return self.final_norm(x)
        # A row of the mask counts the item and those before it: the rest of its window is padding.
        count = positions + 1 - mask.sum(axis=-1)
        vector = jnp.zeros((1, 1, config.dim), x.dtype)
        if carried:
            zero = jnp.zeros((1, 1), jnp.int32)
            vector = jax.lax.stop_gradient(self._embed(zero, zero))  # padding_idx=0 upstream
        for block in self.blocks:
            x = block(x, mask, (vector[0, 0], count), deterministic=deterministic, rngs=rngs)
            if carried:  # padding sees padding only
                vector = block(vector, jnp.ones((1, 1, 1), bool), deterministic=True)
        return self.final_norm(x)

    def item_table(self) -> Array:
        """Item vectors [I D]."""
        return self.items.embedding[...]
