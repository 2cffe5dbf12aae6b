"""GPT-2 (Radford et al. 2019): learned positions, layer norms before each sublayer, a tied head.

h = embedding + position; h += out(attention(norm(h))); h += down(gelu(up(norm h))); the head, which
is the embedding, reads norm(h). Queries, keys and values are thirds of one map, and every map has a
bias. A position beyond the table is NaN. The rest is `recjax.models.llama`.

Deviation: the dropout of pre-training (0.1) is left out.
"""

import dataclasses
import math
from typing import Annotated, Any, Literal

import jax.numpy as jnp
from flax import nnx

from recjax.models import llama, llama_layers
from recjax.models.language import LanguageConfig
from recjax.nn.lora import Linear, lora_axes
from recjax.nn.mlp import gelu
from recjax.nn.norms import LayerNorm
from recjax.nn.places import rows_at
from recjax.ranges import FieldError, Range, Share
from recjax.sharded import constrain
from recjax.typing import Array


@dataclasses.dataclass(frozen=True)
class Config(LanguageConfig):
    """Sizes of a GPT-2. `mlp_dim` is 4 E in all published models."""

    max_length: Annotated[int, Range(1, 2**24)] = 1024  # rows of the table of positions
    tied: bool = True
    norm_eps: Share = 1e-5
    gelu: Literal["tanh", "erf"] = "tanh"
    grouped = False

    def __post_init__(self):
        super().__post_init__()
        if self.heads * self.head_dim != self.dim:
            raise FieldError(
                "head_dim", f"{self.head_dim}: expected dim / heads, {self.dim / self.heads:g}"
            )


def _sizes(dim: int, layers: int, heads: int) -> Config:
    return Config(
        vocab_size=50257, dim=dim, mlp_dim=4 * dim, layers=layers, heads=heads, kv_heads=heads,
        head_dim=dim // heads,
    )  # fmt: skip


# Sizes of the published models: config.json of gpt2, gpt2-medium, -large, -xl and distilgpt2.
PRESETS = {
    "gpt2": _sizes(768, 12, 12),
    "gpt2-medium": _sizes(1024, 24, 16),
    "gpt2-large": _sizes(1280, 36, 20),
    "gpt2-xl": _sizes(1600, 48, 25),
    "distilgpt2": _sizes(768, 6, 12),
}
PARAM_AXES = lora_axes(
    (
        (r"embedding", ("vocab", "embed")),
        (r"position", (None, "embed")),
        (r"layers/attention/query_key_value/kernel", (None, "embed", "heads")),
        (r"layers/attention/query_key_value/bias", (None, "heads")),
        (r"layers/attention/out/kernel", (None, "heads", "embed")),
        (r"layers/up/kernel", (None, "embed", "mlp")),
        (r"layers/up/bias", (None, "mlp")),
        (r"layers/down/kernel", (None, "mlp", "embed")),
        (r"head/kernel", ("embed", "vocab")),
        (r".*/(scale|bias)", (None,)),
    )
)


class Attention(llama_layers.Attention):
    """The projections of self-attention, stacked over layers."""

    def __init__(self, config: Any, *, rngs: nnx.Rngs, dtype: Any):
        options = {**llama_layers.map_options(config, rngs, dtype), "bias": True}
        self.heads, self.kv_heads, self.head_dim = config.heads, config.heads, config.head_dim
        self.query_key_value = Linear(config.dim, 3 * config.dim, **options)
        options["init"] = nnx.initializers.normal(config.init_std / math.sqrt(2 * config.layers))
        self.out = Linear(config.dim, config.dim, **options)

    def maps(self, x: Array, keys: list, places: Array | None = None) -> tuple[Array, Array, Array]:
        """x [B T E] (its `places` [B Q] for the queries, where they are given) through the map."""
        q, k, v = jnp.split(self.query_key_value(x, keys[0]), 3, axis=-1)
        return rows_at(q, places), k, v

    def rotate(self, x: Array, angles: tuple[Array, Array]) -> Array:
        """Heads [B N T H] as they are."""
        return x


class Layers(llama_layers.Layers):
    """All layers."""

    attention_of = Attention
    places_inside = False

    def __init__(self, config: Any, *, rngs: nnx.Rngs, dtype: Any):
        options = {**llama_layers.map_options(config, rngs, dtype), "bias": True}
        stack = {"stack": (config.layers,), "dtype": dtype}
        self.gelu = config.gelu
        self.attention_norm = LayerNorm(config.dim, config.norm_eps, **stack)
        self.attention = Attention(config, rngs=rngs, dtype=dtype)
        self.mlp_norm = LayerNorm(config.dim, config.norm_eps, **stack)
        self.up = Linear(config.dim, config.mlp_dim, **options)
        options["init"] = nnx.initializers.normal(config.init_std / math.sqrt(2 * config.layers))
        self.down = Linear(config.mlp_dim, config.dim, **options)

    def gated(self, normed: Array, keys: list) -> Array:
        """[B T E] -> [B T F], before the map `down`."""
        return gelu(self.up(normed, keys[5]), self.gelu == "tanh")


class GPT2(llama.Llama):
    """A decoder-only language model; see `LanguageModule`."""

    layers_of = Layers
    position_table = True

    def __init__(self, config: Any, *, rngs: nnx.Rngs, dtype: Any = jnp.float32):
        super().__init__(config, rngs=rngs, dtype=dtype)
        init = nnx.initializers.normal(config.init_std)
        self.position = nnx.Param(init(rngs.params(), (config.max_length, config.dim), dtype))
        self.final_norm = LayerNorm(config.dim, config.norm_eps, dtype=dtype)

    def begin(self, x: Array, positions: Array) -> tuple[Array, tuple[Array, Array]]:
        """x [B T E] and the positions' embeddings; NaN where the table ends."""
        # The table is gathered: it is smaller than the rows that are looked up.
        table = constrain(self.position[...], None, None)
        added = jnp.take(table, positions, axis=0, mode="fill")
        nothing = jnp.zeros((*positions.shape, 0), x.dtype)
        return x + added.astype(x.dtype), (nothing, nothing)
