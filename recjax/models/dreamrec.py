"""DreamRec: sequential recommendation by guided diffusion (Yang et al., NeurIPS 2023).

A causal Transformer reads the history; its state guides a diffusion model over item embeddings
that generates the "oracle item", the embedding a user would like best (section 3.2). The denoiser
guesses the clean embedding x_0; in training the guidance is dropped with probability `null_share`
for a learned null, and sampling moves away from the unguided guess by `guidance` (3.3.2):
`(1 + w) f(x_t, c, t) - w f(x_t, null, t)`. Items are ranked by their distance to the oracle item.

Item vectors have the fixed length sqrt(D). Under the paper's loss alone nothing holds free vectors
apart: they shrink until all are easy to guess (on Beauty the loss falls to 0.05 of the start's
variance, and HR@20 with it). It also makes nearest and largest inner product the same.

The first layer of the denoiser is one product of [x_t, c, embedding of t]; it is kept as three, so
that sampling computes those of c and t once, and that of x_t once for both guesses.

Deviations: all positions of a sequence train, each towards its next item, in place of one. The
encoder's blocks are SASRec's (the authors' code: one block of the same parts, its residual from the
normed query, and one more norm inside its feed-forward network). Positions start at a deviation of
0.02, theirs at 1, and the last one is the newest item's, where theirs count from the oldest. GELU
is its approximation by tanh. The paper's item vectors have free lengths. `ddim` sampling (Song et
al. 2021) is ours.
"""

import dataclasses
import functools
import math
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from recjax.models import sasrec
from recjax.models.recommender import Learned, SequentialRecommender
from recjax.nn import diffusion
from recjax.nn.dropout import dropout
from recjax.nn.masks import make_mask
from recjax.nn.places import flat_rows
from recjax.nn.table import Embedding, Table
from recjax.ranges import (
    Amount,
    Checked,
    Count,
    Dropout,
    Few,
    FieldError,
    Positive,
    Range,
    Size,
    check_multiple,
)
from recjax.typing import Array


@dataclasses.dataclass(frozen=True)
class Config(Checked):
    """Sizes and settings of DreamRec."""

    dim: Size = 64  # D (section 4.1)
    layers: Few = 1  # of the encoder; the authors' code has one
    heads: Size = 1
    mlp_dim: Size = 64
    max_length: Size = 50  # L
    dropout: Dropout = 0.1  # the authors' default
    init_std: Positive = 1.0  # of the embeddings
    # T of the diffusion; the paper searches 500, 1000, 2000.
    steps: Annotated[int, Range(1, 100_000)] = 1000
    schedule: diffusion.ScheduleName = "linear"
    beta_min: Positive | None = None  # of linear and exp; None = the authors' (`diffusion.BETAS`)
    beta_max: Positive | None = None
    # Width of its hidden layer; 0 = a linear map (the authors' mlp1).
    denoiser_dim: Annotated[int, Range(0, 2**20)] = 0
    # P: how often training drops the guidance.
    null_share: Annotated[float, Range(0, below=1)] = 0.1
    guidance: Amount = 2.0  # w; the paper searches 0 to 10
    sampler: Literal["ancestral", "ddim"] = "ancestral"
    sampler_steps: Count = 0  # 0 = all T

    def __post_init__(self):
        super().__post_init__()
        check_multiple(self, "dim", of="heads")
        if self.dim % 2:
            raise FieldError("dim", f"{self.dim} is odd: half of the step's embedding is sines")
        if self.sampler_steps > self.steps:
            raise FieldError("sampler_steps", f"{self.sampler_steps}; expected 0 to {self.steps}")
        for name in ("beta_min", "beta_max"):
            if getattr(self, name) is not None and self.schedule not in diffusion.BETAS:
                raise FieldError(name, f"'{self.schedule}' has none; expected None")
        low, high = diffusion.BETAS.get(self.schedule, (0.0, 0.0))
        low, high = self.beta_min or low, self.beta_max or high
        if low > high:
            raise FieldError("beta_max", f"{high:g}; expected at least beta_min {low:g}")
        if self.schedule == "linear" and high >= 1:
            raise FieldError("beta_max", f"{high:g}; expected less than 1 of 'linear'")
        left = self.alphas_bar[-1]
        if not 0 < left < 0.5:
            raise FieldError(
                "schedule",
                f"'{self.schedule}' leaves {left:.0%} of the signal after {self.steps} steps; "
                "expected under 50 %: sampling starts from noise alone",
            )

    @property
    def alphas_bar(self) -> np.ndarray:
        """[T] of `recjax.nn.diffusion.schedule`."""
        return diffusion.schedule(self.schedule, self.steps, self.beta_min, self.beta_max)


PRESETS = {
    "paper-yoochoose": Config(steps=500, schedule="exp", guidance=2.0),
    "paper-kuairec": Config(steps=2000, schedule="cosine", guidance=2.0),
    "paper-zhihu": Config(steps=500, schedule="linear", guidance=4.0),
}

PARAM_AXES = sasrec.PARAM_AXES


class Denoiser(nnx.Module):
    """Guesses the clean vector: (x_t, guidance, t) -> x_0."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        dim = config.dim
        hidden = config.denoiser_dim or dim
        self.half = dim // 2
        self.step_up = nnx.Linear(dim, 2 * dim, rngs=rngs)
        self.step_down = nnx.Linear(2 * dim, dim, rngs=rngs)
        # A row of a [3 D, hidden] kernel sees 3 D inputs: its variance is 1 / 3 D.
        init = nnx.initializers.variance_scaling(1 / 3, "fan_in", "truncated_normal")
        linear = functools.partial(nnx.Linear, dim, hidden, kernel_init=init, rngs=rngs)
        self.of_x, self.of_guidance = linear(use_bias=False), linear(use_bias=False)
        self.of_step = linear()
        self.out = nnx.Linear(hidden, dim, rngs=rngs) if config.denoiser_dim else None

    def step_term(self, t: Array) -> Array:
        """The part of the first layer that comes from the step: [n] -> [n hidden]."""
        waves = jnp.exp(
            -math.log(10000) / max(1, self.half - 1) * jnp.arange(self.half, dtype=jnp.float32)
        )
        angles = t[:, None].astype(jnp.float32) * waves[None]
        embedded = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
        embedded = embedded.astype(self.step_up.kernel.dtype)
        return self.of_step(self.step_down(jax.nn.gelu(self.step_up(embedded))))

    def finish(self, first: Array) -> Array:
        """From the first layer's sum [n hidden] to x_0 [n D]."""
        return first if self.out is None else self.out(jax.nn.gelu(first))

    def __call__(self, x: Array, guidance: Array, t: Array, steps: int) -> Array:
        """x_0 [n D] from x_t [n D], guidance [n D] and t [n] < steps.

        There are fewer steps than vectors in a batch: each step's term is made once.
        """
        terms = self.step_term(jnp.arange(steps))[t]
        return self.finish(self.of_x(x) + self.of_guidance(guidance) + terms)


class Recommender(SequentialRecommender):
    """DreamRec under the recommender contract."""

    generative = True

    def __init__(self, config: Config, n_items: int, *, rngs: nnx.Rngs):
        self.config = config
        init = nnx.initializers.normal(config.init_std)
        small = nnx.initializers.normal(0.02)
        self.items = Table(n_items, config.dim, embedding_init=init, rngs=rngs)
        self.positions = Embedding(config.max_length, config.dim, embedding_init=small, rngs=rngs)
        self.blocks = sasrec.pre_norm_blocks(config, 0.02, rngs=rngs)
        self.final_norm = nnx.LayerNorm(config.dim, rngs=rngs)
        self.null = nnx.Param(init(rngs.params(), (config.dim,), jnp.float32))
        self.denoiser = Denoiser(config, rngs=rngs)

    def encode(
        self,
        ids: Array,
        *,
        positions: Array | None = None,
        segments: Array | None = None,
        deterministic: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> Array:
        """Guidance [B L D] of item ids [B L]; h_t has seen items up to t only."""
        positions, segments = self.layout(ids, positions, segments)
        return self.encode_vectors(
            self.vectors(ids), positions, segments, deterministic=deterministic, rngs=rngs
        )

    def encode_vectors(
        self,
        vectors: Array,
        positions: Array,
        segments: Array,
        *,
        deterministic: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> Array:
        """Guidance [B L D] of item vectors [B L D], which may be generated ones."""
        x = vectors + self.positions(positions)
        x = dropout(x, self.config.dropout, deterministic=deterministic, rngs=rngs)
        mask = make_mask(segments > 0, 1, segments)
        for block in self.blocks:
            x = block(x, mask, deterministic=deterministic, rngs=rngs)
        return self.final_norm(x)

    def item_table(self) -> Array:
        """The item vectors [I D], of length sqrt(D)."""
        return _of_length_sqrt_dim(self.items.embedding[...])

    def vectors(self, ids: Array) -> Array:
        """`item_table()[ids]`, without making the whole table."""
        return _of_length_sqrt_dim(self.items(ids))

    def learn(self, batch: dict[str, Array], rngs: nnx.Rngs) -> Learned:
        """Guesses of the targets' vectors from noised ones (Algorithm 1)."""
        h, targets, sequences, *_ = super().learn(batch, rngs)
        drop, when, noise = (rngs.noise() for _ in range(3))
        unguided = jax.random.bernoulli(drop, self.config.null_share, targets.shape)
        guidance = jnp.where(unguided[:, None], self.null[...], h)
        t = jax.random.randint(when, targets.shape, 0, self.config.steps)
        clean = self.vectors(targets)
        noised = diffusion.add_noise(
            clean, jax.random.normal(noise, clean.shape, clean.dtype), t, self.config.alphas_bar
        )
        # As states they are of length 1 at first, as if scores were divided by sqrt(D).
        states = h / math.sqrt(h.shape[-1])
        return Learned(
            self.denoiser(noised, guidance, t, self.config.steps), targets, sequences, states
        )

    def generate(self, guidance: Array, key: Array) -> Array:
        """Oracle items e* [B D] from guidance [B D] (Algorithm 2), in one scan.

        Args:
            guidance: of `encode`.
            key: of the noise, or [B], one a row.
        """
        config, model = self.config, self.denoiser
        steps = config.sampler_steps or config.steps
        guided, unguided = model.of_guidance(guidance), model.of_guidance(self.null[...][None])
        w = config.guidance

        def denoise(x: Array, term: Array) -> Array:
            shared = model.of_x(x) + term[None]
            guess = model.finish(shared + guided)
            return (1 + w) * guess - w * model.finish(shared + unguided) if w else guess

        start, way = (
            jnp.moveaxis(jax.vmap(jax.random.split)(key), 1, 0)
            if key.ndim
            else (jax.random.split(key))
        )
        return diffusion.sample(
            denoise,
            diffusion.noise_of(start, guidance.shape, guidance.dtype),
            way,
            config.alphas_bar,
            steps,
            eta=1.0 if config.sampler == "ancestral" else 0.0,
            embed=model.step_term,
        )

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
        """Oracle items [B D]; see `SequentialRecommender.predict`.

        A history has noise of its own, whatever stands beside it in a batch.

        Args:
            rngs: its `noise` stream; without it the noise is that of key 0.
        """
        guidance = super().predict(ids, positions=positions, segments=segments, last=last)
        key = jax.random.key(0) if rngs is None else rngs.noise()
        numbers = _numbers(ids, *self.layout(ids, positions, segments), last)
        return self.generate(guidance, jax.vmap(jax.random.fold_in, (None, 0))(key, numbers))

    def oracle(self, ids: Array, key: Array) -> Array:
        """The oracle item e* [B D] of each history [B L]."""
        return self.predict(ids, rngs=nnx.Rngs(noise=key))

    def encode_ending(self, ids: Array, newest: Array) -> Array:
        """See `SequentialRecommender`; before it is encoded, `newest` gets an item's length."""
        size = jnp.sqrt(jnp.mean(newest**2, axis=-1, keepdims=True) + 1e-12)
        vectors = self.vectors(ids).at[:, -1].set(newest / size)
        return self.encode_vectors(vectors, *self.layout(ids, None, None))


def _of_length_sqrt_dim(x: Array) -> Array:
    return x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-12)


def _numbers(ids: Array, positions: Array, segments: Array, last: Array | None) -> Array:
    """A number [B] of each history [B L], or of each one that ends at `last` in packed rows.

    A sum of mixed 32 bits a place: it tells histories apart, and the same history has the same
    number in every row and column.
    """
    rows, length = ids.shape
    mixed = ids.astype(jnp.uint32) * jnp.uint32(0x9E3779B1) + positions.astype(
        jnp.uint32
    ) * jnp.uint32(0x85EBCA77)
    mixed = (mixed ^ (mixed >> 16)) * jnp.uint32(0x7FEB352D)
    mixed ^= mixed >> 15
    if last is None:
        return jnp.where(segments > 0, mixed, 0).sum(-1, dtype=jnp.uint32)
    groups = jnp.arange(rows)[:, None] * (length + 1) + segments
    sums = jax.ops.segment_sum(mixed.reshape(-1), groups.reshape(-1), rows * (length + 1))
    return sums[flat_rows(groups, last)]
