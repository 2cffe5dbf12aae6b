"""Frequency filters over a history: FMLP-Rec and BSARec.

FMLP-Rec (Zhou et al., WWW 2022): each layer multiplies the window's frequencies by learned gains,
one a channel, then a feed-forward network; both are `norm(x + dropout(g(x)))`, and a norm follows
the embeddings. BSARec (Shin et al., AAAI 2024): the filter keeps the lowest frequencies and scales
the others, `low + beta^2 (x - low)` with a learned beta a channel, and its result is blended with
that of self-attention, `alpha` to `1 - alpha`.

Deviations: GELU is its approximation by tanh (5e-4 off at most). The filters are causal. Upstream
each position's result has the whole window in it, also later items; here a position has the
filter's value for a window that ends there (see `recjax.nn.filters`), which at the newest item of
the first layer is the same number, and every position can be trained at once. Places before a
sequence began count as 0; upstream they hold the norm of their position's vector. To train as the
authors do, each prefix with its last target, set `train.prefixes`; upstream also has the empty
prefix, and of longer histories only those that end in the newest `max_length` items.
"""

import dataclasses
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from recjax.models.layered import LAYERED_AXES, LayeredConfig, LayeredRecommender, Rows
from recjax.nn.attention import MultiHeadAttention
from recjax.nn.dropout import dropout
from recjax.nn.filters import filtered, filtered_alike, kernel_of, low_pass
from recjax.ranges import FieldError, Range, Size
from recjax.typing import Array


@dataclasses.dataclass(frozen=True)
class Config(LayeredConfig):
    """Sizes and settings of FMLP-Rec and BSARec."""

    heads: Size = 1  # BSARec on Beauty
    mlp_dim: Size = 256  # F, 4 D upstream
    filter: Literal["learned", "low_pass"] = "low_pass"  # FMLP-Rec's, BSARec's
    filter_share: Annotated[float, Range(above=0, most=1)] = 0.7  # alpha; 1 = no attention
    cutoff: Size = 5  # c: of a low pass, c // 2 + 1 frequencies are kept

    def __post_init__(self):
        super().__post_init__()
        if self.filter == "low_pass" and self.cutoff // 2 > self.max_length // 2:
            raise FieldError(
                "cutoff", f"{self.cutoff}: a window of {self.max_length} has no such frequencies"
            )


PRESETS = {
    "fmlp": Config(filter="learned", filter_share=1.0),  # FMLP-Rec's code
    "bsarec-beauty": Config(),  # the authors' log of their best run: alpha 0.7, c 5
}

PARAM_AXES = LAYERED_AXES


class MixerLayer(nnx.Module):
    """A mixer of places, then a feed-forward network, each as `norm(x + dropout(g(x)))`.

    A subclass makes its own parts, calls this, and has `mixed`.
    """

    def __init__(self, config: Any, *, rngs: nnx.Rngs):
        init, dim = nnx.initializers.normal(config.init_std), config.dim
        self.config = config
        self.filter_norm = nnx.LayerNorm(dim, rngs=rngs)
        self.up = nnx.Linear(dim, config.mlp_dim, kernel_init=init, rngs=rngs)
        self.down = nnx.Linear(config.mlp_dim, dim, kernel_init=init, rngs=rngs)
        self.mlp_norm = nnx.LayerNorm(dim, rngs=rngs)

    def mixed(self, x: Array, rows: Rows, **mode: Any) -> Array:
        """The mixer with its norm, [B L D]."""
        raise NotImplementedError

    def __call__(self, x: Array, rows: Rows, *, deterministic: bool, rngs=None) -> Array:
        mode: dict[str, Any] = {"deterministic": deterministic, "rngs": rngs}
        mixed = self.mixed(x, rows, **mode)
        added = self.down(jax.nn.gelu(self.up(mixed)))
        return self.mlp_norm(mixed + dropout(added, self.config.dropout, **mode))


class Layer(MixerLayer):
    """One layer of FMLP-Rec or BSARec: [B L D] -> [B L D]."""

    config: Config

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        init = nnx.initializers.normal(config.init_std)
        dim = config.dim
        if config.filter == "learned":
            shape = (config.max_length // 2 + 1, dim, 2)
            self.gains = nnx.Param(init(rngs.params(), shape, jnp.float32))
        else:
            # As the authors' code.
            self.beta = nnx.Param(jax.random.normal(rngs.params(), (dim,), jnp.float32))
        self.attends = config.filter_share < 1
        if self.attends:
            self.attention = MultiHeadAttention(
                dim, config.heads, config.dropout, kernel_init=init, rngs=rngs
            )
            self.attention_norm = nnx.LayerNorm(dim, rngs=rngs)
        super().__init__(config, rngs=rngs)

    def _filter(self, x: Array, rows: Rows) -> Array:
        config = self.config
        if config.filter == "learned":
            return filtered(x, kernel_of(self.gains[...], config.max_length), rows.segments)
        kernel = low_pass(config.max_length, config.cutoff // 2 + 1)
        low = filtered_alike(x, kernel, rows.mask, rows.positions)
        return low + self.beta[...][None, None] ** 2 * (x - low)

    def mixed(self, x: Array, rows: Rows, **mode: Any) -> Array:
        """See `MixerLayer`."""
        config = self.config
        mixed = self.filter_norm(x + dropout(self._filter(x, rows), config.dropout, **mode))
        if not self.attends:
            return mixed
        attended = self.attention(x, x, rows.mask, **mode)
        attended = self.attention_norm(x + dropout(attended, config.dropout, **mode))
        return config.filter_share * mixed + (1 - config.filter_share) * attended


class Recommender(LayeredRecommender):
    """FMLP-Rec or BSARec under the recommender contract."""

    config: Config
    normed = "first"

    def layer(self, rngs: nnx.Rngs) -> Layer:
        """See `LayeredRecommender`."""
        return Layer(self.config, rngs=rngs)
