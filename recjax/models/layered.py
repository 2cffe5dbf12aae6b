"""The common part of the modern encoders: items and positions in, layers, states out.

A model gives its `Config` and its layer; this module reads the items, hides some of them in
training, and ranks by inner product or by cosine.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from recjax.models.recommender import Learned, SequentialRecommender
from recjax.nn.dropout import dropout
from recjax.nn.masks import histories, make_mask
from recjax.nn.norms import unit
from recjax.nn.places import newest
from recjax.nn.table import Embedding, Table
from recjax.ranges import Checked, Dropout, Few, Positive, Size, check_multiple
from recjax.typing import Array

# Of the parameters of all these models.
LAYERED_AXES = (
    (r"items/embedding", ("items", "width")),
    (r"positions/embedding", (None, "width")),
    (r".*/(query|key|value)/kernel", ("width", "heads")),
    (r".*/out/kernel", ("heads", "width")),
    (r".*/(query|key|value)/bias", ("heads",)),
    (r".*/(up|gate_up)/kernel", ("width", "mlp")),
    (r".*/up/bias", ("mlp",)),
    (r".*/down/kernel", ("mlp", "width")),
    (r".*", (None,)),
)


@dataclasses.dataclass(frozen=True)
class LayeredConfig(Checked):
    """Sizes and settings that the encoders share."""

    dim: Size = 64  # D
    layers: Few = 2
    heads: Size = 2  # N
    max_length: Size = 50  # L
    dropout: Dropout = 0.5  # of inputs, attention weights and what a layer adds
    # Share of the histories' items that training hides: their vectors are 0.
    item_dropout: Dropout = 0.0
    # "window": a learned vector for each place in the window, the newest item's last; "none".
    positions: Literal["window", "none"] = "window"
    # States and item vectors get length 1: items are ranked by cosine. A softmax then needs a
    # temperature (`config.objective`).
    cosine: bool = False
    # Items of the history (in the window) have a learned number added to their scores: how much
    # more, or less, likely one is to be met again.
    repeats: bool = False
    init_std: Positive = 0.02  # of all tables and kernels, as BERT
    scale_embedding: bool = False  # inputs times sqrt(D), as SASRec's authors do

    def __post_init__(self):
        super().__post_init__()
        check_multiple(self, "dim", of="heads")


_PACE = 10.0  # inner products are so much larger than cosines


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """A layer's knowledge of its rows.

    Attributes:
        mask: [B L L] bool, who may read whom; causal.
        positions: [B L], in the window.
        segments: [B L], 0 = padding.
        times: [B L] seconds, or None where they are not known.
    """

    mask: Array
    positions: Array
    segments: Array
    times: Array | None = None


class LayeredRecommender(SequentialRecommender):
    """An encoder of layers under the recommender contract.

    A subclass has `layer`, which makes one: `layer(x [B L D], rows, deterministic=, rngs=)`, and
    may change `normed` and `outer_norm`.

    Args:
        config: sizes.
        n_items: I.
        rngs: initialiser keys.
    """

    config: LayeredConfig
    # Where a norm stands beside those of the layers: "first", "last" or "none".
    normed: str = "last"

    def __init__(self, config: LayeredConfig, n_items: int, *, rngs: nnx.Rngs):
        self.config = config
        init = nnx.initializers.normal(config.init_std)
        self.items = Table(n_items, config.dim, embedding_init=init, rngs=rngs)
        if config.positions == "window":
            self.positions = Embedding(
                config.max_length, config.dim, embedding_init=init, rngs=rngs
            )
        self.blocks = nnx.List([self.layer(rngs) for _ in range(config.layers)])
        self.norm = self.outer_norm(rngs)
        if config.repeats:
            self.again = nnx.Param(jnp.zeros((), jnp.float32))

    @property
    def repeats(self) -> bool:
        """See `SequentialRecommender`."""
        return self.config.repeats

    def layer(self, rngs: nnx.Rngs) -> Any:
        """A layer of the model."""
        raise NotImplementedError

    def outer_norm(self, rngs: nnx.Rngs) -> nnx.LayerNorm:
        """The norm beside those of the layers."""
        return nnx.LayerNorm(self.config.dim, rngs=rngs)

    def encode(
        self,
        ids: Array,
        *,
        positions: Array | None = None,
        segments: Array | None = None,
        times: Array | None = None,
        deterministic: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> Array:
        """Hidden states [B L D] of item ids [B L]; h_t has seen items up to t only."""
        config = self.config
        mode: dict[str, Any] = {"deterministic": deterministic, "rngs": rngs}
        positions, segments = self.layout(ids, positions, segments)
        rows = Rows(make_mask(segments > 0, 1, segments), positions, segments, times)
        x = self.input_vectors(ids)
        x *= dropout(jnp.ones((*ids.shape, 1), x.dtype), config.item_dropout, **mode)
        if config.positions == "window":
            x += self.positions(positions)
        x = dropout(self.norm(x) if self.normed == "first" else x, config.dropout, **mode)
        for block in self.blocks:
            x = block(x, rows, **mode)
        x = self.norm(x) if self.normed == "last" else x
        return unit(x) if config.cosine else x

    def predict(
        self,
        ids: Array,
        *,
        positions: Array | None = None,
        segments: Array | None = None,
        last: Array | None = None,
        users: Array | None = None,
        times: Array | None = None,
        rngs: nnx.Rngs | None = None,
    ) -> Array:
        """See `SequentialRecommender`; `times` [B L] of a `timed` model."""
        del users, rngs
        h = self.encode(ids, positions=positions, segments=segments, times=times)
        return newest(h, last)

    @classmethod
    def by_cosine(cls, config: Any) -> bool:
        """See `SequentialRecommender`."""
        return bool(config.cosine)

    def item_table(self) -> Array:
        """Item vectors [I D]."""
        table = self.items.embedding[...]
        return unit(table) if self.config.cosine else table

    @property
    def _bias(self) -> Array:
        """The term of the scores of the history's items."""
        return self.again[...] * (1.0 if self.config.cosine else _PACE)

    def learn(self, batch: dict[str, Array], rngs: nnx.Rngs) -> Learned:
        """See `SequentialRecommender`; with `seen` where the config says `repeats`."""
        learned = super().learn(batch, rngs)
        if not self.config.repeats:
            return learned
        ids = histories(batch["ids"], batch["segments"])
        return learned._replace(seen=(ids.reshape(-1, ids.shape[-1]), self._bias))

    def scores(
        self,
        ids: Array,
        *,
        positions: Array | None = None,
        segments: Array | None = None,
        last: Array | None = None,
        users: Array | None = None,
        times: Array | None = None,
        rngs: nnx.Rngs | None = None,
    ) -> Array:
        """See `SequentialRecommender`; with `repeats`, histories count, too."""
        layout: dict[str, Any] = {"positions": positions, "segments": segments, "last": last}
        scores = self.score(self.predict(ids, users=users, times=times, rngs=rngs, **layout))
        if not self.config.repeats:
            return scores
        seen = newest(histories(ids, self.layout(ids, positions, segments)[1]), last)
        bias = jnp.where(seen > 0, self._bias, 0.0)
        return scores.at[jnp.arange(len(scores))[:, None], seen].add(bias)
