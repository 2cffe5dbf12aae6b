"""S3-Rec: self-supervised learning with mutual information maximisation (Zhou et al., CIKM 2020).

Two runs: `stage = "pretrain"` trains an encoder that sees both sides on four tasks, and
`stage = "finetune"` (with `config.start`, the first run's folder) trains the same parameters as
SASRec. The tasks (section 4.2) score pairs by `f = s(a^T W b)`, s the sigmoid:

- AAP: an item's vector and each attribute, the binary cross-entropy summed over all attributes;
- MAP: the state at a masked item and each attribute, the same;
- MIP: the state at a masked item, and that item against a drawn one, `-log s(f+ - f-)`;
- SP: the state of a sequence with a masked run of items, and that run against another, the same.

Deviations: the encoder is SASRec's, with norms before its parts and ReLU; the authors' code has
BERT's, with norms after them, one more after the embeddings, and GELU. A task's loss is its mean
over places (SP: over sequences), where the code adds up all of a batch. Whole histories are read,
where the code has each prefix, whose newest item it always masks. AAP reads item vectors, as the
paper says, the code the states of items that are not masked. A run's state is the mean of its
positions, read alone, in place of the last one; the run of another sequence is the wrong one.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from recjax.models import sasrec
from recjax.models.attributed import ATTRIBUTE_AXES, AttributedConfig
from recjax.models.recommender import SequentialRecommender
from recjax.nn.dropout import dropout
from recjax.nn.masks import make_mask
from recjax.nn.table import Embedding, Table
from recjax.ranges import Amount, Dropout, Few, FieldError, Positive, Share, Size, check_multiple
from recjax.typing import Array


@dataclasses.dataclass(frozen=True)
class Config(AttributedConfig):
    """Sizes and settings of S3-Rec."""

    stage: Literal["pretrain", "finetune"] = "finetune"
    dim: Size = 64  # D (section 5.1.4)
    layers: Few = 2
    heads: Size = 2
    mlp_dim: Size = 256  # F; four times D in the authors' code
    max_length: Size = 50  # L
    dropout: Dropout = 0.5  # as the authors' code
    init_std: Positive = 0.02
    scale_embedding: bool = False  # inputs times sqrt(D), as SASRec's authors do
    # Pre-training.
    mask_share: Share = 0.2  # of the items (5.1.4)
    aap_weight: Amount = 0.2  # of the task's loss; the weights of the authors' code
    mip_weight: Amount = 1.0
    map_weight: Amount = 1.0
    sp_weight: Amount = 0.5

    def __post_init__(self):
        super().__post_init__()
        check_multiple(self, "dim", of="heads")
        masked = self.mip_weight + self.map_weight
        if self.stage == "pretrain" and not masked + self.aap_weight + self.sp_weight:
            raise FieldError("mip_weight", "0, as all others: 'pretrain' has nothing to learn")
        if self.stage == "pretrain" and masked and not self.mask_share:
            raise FieldError("mask_share", "0: expected more, or mip_weight and map_weight 0")


PRESETS = {"paper": Config()}

PARAM_AXES = (*ATTRIBUTE_AXES, *sasrec.PARAM_AXES)


def other_items(key: Array, ids: Array, n_items: int) -> Array:
    """An item other than each of `ids`, drawn uniformly; the same item if there is only one.

    Args:
        key: of the draws.
        ids: [...] from 1 on.
        n_items: I.
    """
    count = n_items - 1
    return 1 + (ids - 1 + jax.random.randint(key, ids.shape, 1, max(2, count))) % count


def drawn_runs(key: Array, positions: Array, segments: Array, longest: int) -> Array:
    """A run of items in each sequence: [B L] bool, True inside.

    It has from one item to half of the sequence's, at any place; a sequence of one item has none.

    Args:
        key: of the draws.
        positions, segments: [B L], of packed rows.
        longest: length of a window; the newest item's position is one less.
    """
    rows, length = segments.shape
    sizes = (segments[:, :, None] == segments[:, None, :]).sum(axis=-1)
    # One draw a sequence of the row, found by its number.
    coins = jax.random.uniform(key, (2, rows, length + 1), jnp.float32)
    size_coin, place_coin = (jnp.take_along_axis(coin, segments, axis=1) for coin in coins)
    size = 1 + (size_coin * (sizes // 2)).astype(jnp.int32)
    first = (place_coin * (sizes - size + 1)).astype(jnp.int32)
    place = positions - (longest - sizes)
    inside = (place >= first) & (place < first + size)
    return inside & (segments > 0) & (sizes > 1)


def _products(a: Array, b: Array) -> Array:
    """Inner products [...] of vectors [... D], in float32: a loss is made of their differences."""
    return (a * b).sum(axis=-1, dtype=jnp.float32)


def pair_loss(right: Array, wrong: Array) -> Array:
    """The loss `-log s(s(right) - s(wrong))` of pairs' logits [...] (section 4.2, with one wrong
    pair; s is the sigmoid)."""
    return jax.nn.softplus(jax.nn.sigmoid(wrong) - jax.nn.sigmoid(right))


class Pretraining(nnx.Module):
    """The four tasks' own parameters: attributes, and a bilinear form each.

    Args:
        n_items: I.
        n_attributes: A.
        config: sizes.
        rngs: initialiser keys.
    """

    def __init__(self, n_items: int, n_attributes: int, config: Config, *, rngs: nnx.Rngs):
        init = nnx.initializers.normal(config.init_std)
        self.values = nnx.Variable(jnp.zeros((n_items, n_attributes), jnp.float32))
        self.embedding = nnx.Param(init(rngs.params(), (n_attributes, config.dim), jnp.float32))

        def form() -> nnx.Linear:
            return nnx.Linear(config.dim, config.dim, use_bias=False, rngs=rngs)

        self.aap, self.mip, self.map, self.sp = form(), form(), form(), form()


class Recommender(SequentialRecommender):
    """S3-Rec under the recommender contract."""

    attributed = True

    def __init__(self, config: Config, n_items: int, n_attributes: int, *, rngs: nnx.Rngs):
        self.config, self.n_items = config, n_items
        init = nnx.initializers.normal(config.init_std)
        self.items = Table(n_items, config.dim, embedding_init=init, rngs=rngs)
        self.positions = Embedding(config.max_length, config.dim, embedding_init=init, rngs=rngs)
        self.blocks = sasrec.pre_norm_blocks(config, config.init_std, rngs=rngs)
        self.final_norm = nnx.LayerNorm(config.dim, rngs=rngs)
        if config.stage == "pretrain":
            self.attributes = Pretraining(n_items, n_attributes, config, rngs=rngs)
            self.mask = nnx.Param(init(rngs.params(), (config.dim,), jnp.float32))

    @classmethod
    def reads_attributes(cls, config: Config) -> bool:
        """Pre-training does."""
        return config.stage == "pretrain"

    @classmethod
    def shifted(cls, config: Config) -> bool:
        """Fine-tuning is; pre-training reads whole histories."""
        return config.stage == "finetune"

    def _read(self, x: Array, positions: Array, mask: Array, mode: dict[str, Any]) -> Array:
        """States [B L D] of item vectors [B L D]."""
        x = dropout(x + self.positions(positions), self.config.dropout, **mode)
        for block in self.blocks:
            x = block(x, mask, **mode)
        return self.final_norm(x)

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
        mask = make_mask(segments > 0, 1, segments)
        return self._read(self.input_vectors(ids), positions, mask, mode)

    def item_table(self) -> Array:
        """Item vectors [I D]."""
        return self.items.embedding[...]

    def loss(self, batch: dict[str, Array], rngs: nnx.Rngs) -> tuple[Array, Array] | None:
        """In pre-training, (sums, weights) [4] of the four tasks."""
        config = self.config
        if config.stage != "pretrain":
            return None
        ids, positions, segments = batch["ids"], batch["positions"], batch["segments"]
        mode: dict[str, Any] = {"deterministic": False, "rngs": rngs}
        real, inputs = segments > 0, self.input_vectors(ids)
        mask = make_mask(real, 0, segments)
        coins = jax.random.uniform(rngs.noise(), ids.shape, jnp.float32)
        is_masked = real & (coins < config.mask_share)
        h = self._read(
            jnp.where(is_masked[..., None], self.mask[...], inputs), positions, mask, mode
        )
        masked, count = is_masked.astype(jnp.float32), is_masked.sum()
        task, table = self.attributes, self.items.embedding[...]
        has = task.values[...][ids]  # [B L A]

        def labels(states: Array, weights: Array) -> Array:
            """The binary cross-entropy of all attributes, summed over them and over places."""
            logits = jnp.einsum(
                "BLD,AD->BLA", states, task.embedding[...], preferred_element_type=jnp.float32
            )
            losses = jax.nn.softplus(logits) - has * logits
            return (losses.sum(axis=-1) * weights).sum()

        drawn = other_items(rngs.noise(), ids, self.n_items)
        mapped = task.mip(h)
        losses = pair_loss(*(_products(mapped, table[i]) for i in (ids, drawn)))
        segments_loss, n_runs = self._segments(inputs, positions, segments, mask, mode, rngs)
        sums = (
            config.mip_weight * (losses * masked).sum(),
            config.map_weight * labels(task.map(h), masked),
            config.aap_weight * labels(task.aap(inputs), real.astype(jnp.float32)),
            config.sp_weight * segments_loss,
        )
        weights = (count, count, real.sum(), n_runs)
        return jnp.stack(sums), jnp.stack(weights).astype(jnp.float32)

    def _segments(
        self,
        inputs: Array,
        positions: Array,
        segments: Array,
        mask: Array,
        mode: dict,
        rngs: nnx.Rngs,
    ) -> tuple[Array, Array]:
        """SP: (sum, weight) over sequences."""
        inside = drawn_runs(rngs.noise(), positions, segments, self.config.max_length)
        hidden = inside[..., None]
        context = self._read(jnp.where(hidden, self.mask[...], inputs), positions, mask, mode)
        runs = self._read(jnp.where(hidden, inputs, self.mask[...]), positions, mask, mode)
        numbers = 1 + jnp.arange(segments.shape[1])  # of sequences in a row
        members = (segments[:, None, :] == numbers[None, :, None]) & inside[:, None, :]
        size = members.sum(axis=-1, keepdims=True)
        share = (members.astype(jnp.float32) / jnp.maximum(size, 1)).astype(inputs.dtype)
        contexts, runs = (
            jnp.einsum("BSL,BLD->BSD", share, states).reshape(-1, states.shape[-1])
            for states in (context, runs)
        )
        contexts, has_run = self.attributes.sp(contexts), size.reshape(-1) > 0
        # Sequences with a run come first; the wrong run of each is that of the one before.
        order, rank = jnp.argsort(~has_run, stable=True), jnp.arange(len(has_run))
        other_runs = order[(rank - 1) % jnp.maximum(has_run.sum(), 1)]
        right, wrong = (_products(contexts[order], runs[k]) for k in (order, other_runs))
        return (pair_loss(right, wrong) * (rank < has_run.sum())).sum(), has_run.sum()
