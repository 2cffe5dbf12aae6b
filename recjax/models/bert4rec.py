"""BERT4Rec: bidirectional Transformer over item sequences (Sun et al., CIKM 2019).

Item and position embeddings, post-norm blocks of bidirectional attention and a GELU feed-forward
network (section 3.3), learned by filling in masked items (the Cloze task, 3.6). The next item is
what stands at a mask that follows the history.

Training masks each item with probability `mask_share`, and in a `last_share` of the sequences the
newest item alone, which is what the test looks like (3.6, "fine-tuning"; the authors' code adds
such samples).

Deviations: an item is masked by its own coin, not a fixed number of them, and always by the mask
(as the paper says, without BERT's random replacements). A LayerNorm follows the output layer's GELU
(as in the authors' code, not in equation 7); no output bias. GELU is its approximation by tanh
(5e-4 off at most). Sequences are whole, newest `max_length` items, not sliding windows, and the
last position is the newest item's; the authors' code pads behind, and the first is the oldest's.
"""

import dataclasses
import math
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from flax import nnx

from recjax.models import sasrec
from recjax.models.recommender import Learned, SequentialRecommender
from recjax.nn.attention import MultiHeadAttention
from recjax.nn.dropout import dropout
from recjax.nn.masks import make_mask
from recjax.nn.table import Embedding, Table
from recjax.ranges import (
    Checked,
    Dropout,
    Few,
    FieldError,
    Positive,
    Range,
    Share,
    Size,
    check_multiple,
)
from recjax.typing import Array


@dataclasses.dataclass(frozen=True)
class Config(Checked):
    """Sizes and settings of BERT4Rec."""

    dim: Size = 64  # D (section 4.3)
    layers: Few = 2  # L of the paper
    heads: Size = 2  # h
    mlp_dim: Size = 256  # 4 D
    # N: 200 for MovieLens, 50 elsewhere; the mask takes one place of it.
    max_length: Annotated[int, Range(2, 2**20)] = 50
    dropout: Dropout = 0.1  # BERT's; the authors' config of Beauty has 0.5, and 0.2 on attention
    mask_share: Share = 0.6  # rho: Beauty 0.6, Steam 0.4, MovieLens 0.2 (section 4.6)
    last_share: Share = 0.1  # of the sequences, in which the newest item alone is masked
    init_std: Positive = 0.02  # (section 4.3)

    def __post_init__(self):
        super().__post_init__()
        check_multiple(self, "dim", of="heads")
        if not (self.mask_share or self.last_share):
            raise FieldError("mask_share", "0 beside last_share 0: nothing is masked, or learned")


PRESETS = {
    "paper-sparse": Config(),
    "paper-movielens": Config(max_length=200, mask_share=0.2),
}

PARAM_AXES = sasrec.PARAM_AXES  # its parts have the same names


class Block(nnx.Module):
    """One post-norm block: [B L D] -> [B L D]."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        init = nnx.initializers.truncated_normal(config.init_std)
        self.rate = config.dropout
        self.attention = MultiHeadAttention(
            config.dim, config.heads, config.dropout, kernel_init=init, rngs=rngs
        )
        self.attention_norm = nnx.LayerNorm(config.dim, rngs=rngs)
        self.up = nnx.Linear(config.dim, config.mlp_dim, kernel_init=init, rngs=rngs)
        self.down = nnx.Linear(config.mlp_dim, config.dim, kernel_init=init, rngs=rngs)
        self.mlp_norm = nnx.LayerNorm(config.dim, rngs=rngs)

    def __call__(self, x: Array, mask: Array, *, deterministic: bool, rngs=None) -> Array:
        drop: dict[str, Any] = {"rate": self.rate, "deterministic": deterministic, "rngs": rngs}
        attended = self.attention(x, x, mask, deterministic=deterministic, rngs=rngs)
        x = self.attention_norm(x + dropout(attended, **drop))
        return self.mlp_norm(x + dropout(self.down(jax.nn.gelu(self.up(x))), **drop))


class Recommender(SequentialRecommender):
    """BERT4Rec under the recommender contract (its states see later items too)."""

    masked = True

    def __init__(self, config: Config, n_items: int, *, rngs: nnx.Rngs):
        self.config = config
        init = nnx.initializers.truncated_normal(config.init_std)
        self.mask_id = n_items  # behind the items
        self.items = Table(n_items, config.dim, embedding_init=init, rngs=rngs)
        self.mask = nnx.Param(init(rngs.params(), (config.dim,), jnp.float32))
        self.positions = Embedding(config.max_length, config.dim, embedding_init=init, rngs=rngs)
        self.input_norm = nnx.LayerNorm(config.dim, rngs=rngs)
        self.blocks = nnx.List([Block(config, rngs=rngs) for _ in range(config.layers)])
        self.out = nnx.Linear(config.dim, config.dim, kernel_init=init, rngs=rngs)
        self.out_norm = nnx.LayerNorm(config.dim, rngs=rngs)

    def encode(
        self,
        ids: Array,
        *,
        positions: Array | None = None,
        segments: Array | None = None,
        deterministic: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> Array:
        """Hidden states [B L D] of item ids [B L] (I is the mask); each sees the whole row."""
        positions, segments = self.layout(ids, positions, segments)
        x = self.items(jnp.minimum(ids, self.mask_id - 1))
        x = jnp.where((ids == self.mask_id)[..., None], self.mask[...], x)
        x = self.input_norm(x + self.positions(positions))
        x = dropout(x, self.config.dropout, deterministic=deterministic, rngs=rngs)
        mask = make_mask(segments > 0, 0, segments)
        for block in self.blocks:
            x = block(x, mask, deterministic=deterministic, rngs=rngs)
        return self.out_norm(jax.nn.gelu(self.out(x)))

    def item_table(self) -> Array:
        """Item vectors [I D]."""
        return self.items.embedding[...]

    def predict(
        self,
        ids: Array,
        *,
        positions: Array | None = None,
        segments: Array | None = None,
        last: Array | None = None,
        users: Array | None = None,
        rngs: nnx.Rngs | None = None,
    ) -> Array:
        """Vectors [B D] at the mask that follows each history.

        Args:
            ids: [B L] histories; with `last`, rows that hold their masks already.
            positions, segments: see `encode`.
            last: places of the masks, as `SequentialRecommender.predict` takes them.
            rngs: not used.
        """
        if last is None:
            if positions is not None or segments is not None:
                raise ValueError("packed rows need `last`, the places of their masks")
            ids = jnp.pad(ids, ((0, 0), (0, 1)), constant_values=self.mask_id)
            ids = ids[:, -self.config.max_length :]
        return super().predict(ids, positions=positions, segments=segments, last=last, rngs=rngs)

    def learn(self, batch: dict[str, Array], rngs: nnx.Rngs) -> Learned:
        """Masks items, and gathers the states of the masked ones.

        The number T of vectors is fixed (a compiled step has fixed shapes) and such that more
        items are masked about once in 10,000 batches; those over it are not learned from.
        """
        ids, segments = batch["ids"], batch["segments"]
        chosen = self._choose(batch["positions"], segments, rngs)
        h = self.encode(
            jnp.where(chosen, self.mask_id, ids),
            positions=batch["positions"],
            segments=segments,
            deterministic=False,
            rngs=rngs,
        )
        size = self._most_masked(ids.size)
        places = jnp.nonzero(chosen.reshape(-1), size=size, fill_value=ids.size)[0]
        targets, sequences = (
            batch[name].reshape(-1).at[places].get(mode="fill", fill_value=0)
            for name in ("targets", "sequences")
        )
        vectors = h.reshape(ids.size, -1).at[places].get(mode="clip")
        return Learned(vectors, targets, sequences)

    def _choose(self, positions: Array, segments: Array, rngs: nnx.Rngs) -> Array:
        """Which items are masked: [B L] bool."""
        config = self.config
        coins = jax.random.uniform(rngs.noise(), segments.shape, jnp.float32)
        if config.last_share:
            # One coin a sequence of the row, found by its number.
            rows, length = segments.shape
            fate = jax.random.uniform(rngs.noise(), (rows, length + 1), jnp.float32)
            newest = positions == config.max_length - 1
            chosen = jnp.where(
                jnp.take_along_axis(fate < config.last_share, segments, axis=1),
                newest,
                coins < config.mask_share,
            )
        else:
            chosen = coins < config.mask_share
        return chosen & (segments != 0)

    def _most_masked(self, count: int) -> int:
        share, last = self.config.mask_share, self.config.last_share
        # A sequence has two items at least, so at most half of them are the newest.
        share = max(share, (1 - last) * share + last / 2)
        return min(count, math.ceil(count * share + 4 * math.sqrt(count * share)))
