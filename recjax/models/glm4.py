"""GLM-4 (GLM team 2024), `glm` and `glm4` of transformers: relatives of LLaMA, causal.

Of each head the first half is rotated (`partial_rotary_factor`), in pairs of neighbours (2j, 2j+1);
the rest stays. Queries, keys and values have biases. Gate and up are halves of one map. With
`post_norms` (`glm4`, the models of April 2025), what attention and the feed-forward network add is
normed first. The rest is `recjax.models.llama`. GLM of 2022 is another model: `recjax.models.glm`.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import nnx

from recjax.models import llama, llama_layers
from recjax.nn.lora import Linear, lora_axes
from recjax.nn.mlp import gated_silu
from recjax.nn.positions import rotate_neighbours
from recjax.ranges import Share
from recjax.typing import Array


@dataclasses.dataclass(frozen=True)
class Config(llama.Config):
    """Sizes of a GLM-4."""

    norm_eps: Share = 1.5625e-7
    rotary_share: Share = 0.5  # of each head, from its first number
    attention_bias: bool = True  # of queries, keys and values
    post_norms: bool = False  # of what a sublayer adds

    @property
    def rotary_dim(self) -> int:
        """The number of rotated dimensions of a head."""
        return int(self.head_dim * self.rotary_share)


_NINE: dict[str, Any] = {
    "vocab_size": 151552, "dim": 4096, "mlp_dim": 13696, "layers": 40, "heads": 32, "kv_heads": 2,
    "head_dim": 128,
}  # fmt: skip
# Sizes of the published models: config.json of THUDM/glm-4-9b-hf, glm-4-9b-chat-hf,
# GLM-4-9B-0414 and GLM-4-32B-0414.
PRESETS = {
    "glm-4-9b": Config(**_NINE, max_length=8192),
    "glm-4-9b-chat": Config(**_NINE, max_length=131072),
    "glm-4-9b-0414": Config(**_NINE, max_length=32768, norm_eps=1e-5, post_norms=True),
    "glm-4-32b-0414": Config(
        vocab_size=151552, dim=6144, mlp_dim=23040, layers=61, heads=48, kv_heads=8, head_dim=128,
        max_length=32768, norm_eps=1e-5, attention_bias=False, post_norms=True,
    ),
}  # fmt: skip
PARAM_AXES = lora_axes(
    ((r"layers/gate_up/kernel", (None, "embed", "mlp")), *llama.LAYER_AXES, *llama.BIAS_AXES)
)


class Attention(llama_layers.Attention):
    """The projections of self-attention."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs, dtype: Any):
        super().__init__(config, rngs=rngs, dtype=dtype, bias=config.attention_bias)

    def rotate(self, x: Array, angles: tuple[Array, Array]) -> Array:
        """Heads [B N T H] of queries or keys; their first numbers are rotated."""
        return rotate_neighbours(x, angles)


class Layers(llama_layers.Layers):
    """All layers."""

    attention_of = Attention

    def __init__(self, config: Config, *, rngs: nnx.Rngs, dtype: Any):
        super().__init__(config, rngs=rngs, dtype=dtype)
        if config.post_norms:
            self.after_attention = llama_layers.layer_norms(config, config.dim, dtype)
            self.after_mlp = llama_layers.layer_norms(config, config.dim, dtype)

    def add_mlp(self, config: llama.Config, options: dict[str, Any]) -> None:
        """Makes the maps of the feed-forward network."""
        self.gate_up = Linear(config.dim, 2 * config.mlp_dim, **options)
        self.down = Linear(config.mlp_dim, config.dim, **options)

    def gated(self, normed: Array, keys: list) -> Array:
        """[B T E] -> [B T F], before the map `down`."""
        return gated_silu(*jnp.split(self.gate_up(normed, keys[4]), 2, axis=-1))


class GLM4(llama.Llama):
    """A decoder-only language model; see `LanguageModule`."""

    layers_of = Layers

    def __init__(self, config: Config, *, rngs: nnx.Rngs, dtype: Any = jnp.float32):
        super().__init__(config, rngs=rngs, dtype=dtype)
