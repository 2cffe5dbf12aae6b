"""Qwen3 (Yang et al. 2025), the dense sizes: LLaMA whose queries and keys are normed in each head.

Before they are rotated, queries and keys pass an RMSNorm over the head's width, with one scale for
all heads. The head's width is free of E / N. The maps of attention may have biases
(`attention_bias`; no published size has them). The rest is `recjax.models.llama`.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import nnx

from recjax.models import llama, llama_layers
from recjax.nn.lora import lora_axes
from recjax.ranges import Positive, Share


@dataclasses.dataclass(frozen=True)
class Config(llama.Config):
    """Sizes of a Qwen3; defaults are those of the published models where they share them."""

    norm_eps: Share = 1e-6
    rope_theta: Positive = 1e6
    attention_bias: bool = False  # of all four maps of attention


def _sizes(dim: int, mlp_dim: int, layers: int, heads: int, tied: bool) -> Config:
    return Config(
        vocab_size=151936, dim=dim, mlp_dim=mlp_dim, layers=layers, heads=heads, kv_heads=8,
        head_dim=128, max_length=40960, tied=tied,
    )  # fmt: skip


# Sizes of the published models: config.json of Qwen/Qwen3-0.6B, -1.7B, -4B, -8B, -14B and -32B.
PRESETS = {
    "qwen3-0.6b": _sizes(1024, 3072, 28, 16, True),
    "qwen3-1.7b": _sizes(2048, 6144, 28, 16, True),
    "qwen3-4b": _sizes(2560, 9728, 36, 32, True),
    "qwen3-8b": _sizes(4096, 12288, 36, 32, False),
    "qwen3-14b": _sizes(5120, 17408, 40, 40, False),
    "qwen3-32b": _sizes(5120, 25600, 64, 64, False),
}
PARAM_AXES = lora_axes((*llama.LAYER_AXES, *llama.BIAS_AXES))


class Attention(llama_layers.Attention):
    """The projections of self-attention, and the norms of queries and keys."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs, dtype: Any):
        bias = config.attention_bias
        super().__init__(config, rngs=rngs, dtype=dtype, bias=bias, out_bias=bias)
        self.query_norm = llama_layers.layer_norms(config, config.head_dim, dtype)
        self.key_norm = llama_layers.layer_norms(config, config.head_dim, dtype)


class Layers(llama_layers.Layers):
    """All layers."""

    attention_of = Attention


class Qwen3(llama.Llama):
    """A decoder-only language model; see `LanguageModule`."""

    layers_of = Layers

    def __init__(self, config: Config, *, rngs: nnx.Rngs, dtype: Any = jnp.float32):
        super().__init__(config, rngs=rngs, dtype=dtype)
