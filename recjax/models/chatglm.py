"""ChatGLM-6B, the first version: GLM with rotary positions in two halves of each head.

a = norm(h); h = alpha a + dense(attention(a)); b = norm(h); h = alpha b + mlp(b). The residual
carries the *normed* states; alpha is sqrt(2 * 28) whatever the depth. The first half of each head
is rotated by the first row of positions and the second half by the second, with frequencies rounded
to half precision. Queries, keys and values lie side by side in each head. The head is a map of its
own. A prompt with [gMASK] is filled there, even behind a [MASK]. Facts: `third_party/glm.md`.

    logits, _ = model(tokens)                       # the prompt ends before the first <sop>
    logits, _ = model(tokens, mask=real)            # [B T], padding on the left
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Annotated, Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from recjax.models import glm
from recjax.nn.lora import Linear, lora_axes
from recjax.nn.norms import LayerNorm
from recjax.nn.positions import rope_angles, rope_frequencies, rotate
from recjax.ranges import FieldError, Range
from recjax.typing import Array


@dataclasses.dataclass(frozen=True)
class Config(glm.TwoRowConfig):
    """Sizes of a ChatGLM. `blank_ids` are [gMASK] and [MASK], in this order."""

    mlp_dim: Annotated[int, Range(1, 2**20)] = 1024

    def __post_init__(self):
        super().__post_init__()
        if self.head_dim % 4:
            raise FieldError("head_dim", f"{self.head_dim}: expected a multiple of 4")
        if len(self.blank_ids) > 2:
            raise FieldError("blank_ids", f"{self.blank_ids}: expected [gMASK] and [MASK]")

    def with_ids(self, start: int, mask: int, document: int, sentence: int) -> Self:
        """See `TwoRowConfig`."""
        del sentence
        return dataclasses.replace(self, start_id=start, blank_ids=(document, mask))

    def blank_of(self, prompt: Sequence[int]) -> int:
        """See `TwoRowConfig`; [gMASK] goes before [MASK]."""
        prompt = list(prompt)
        places = (prompt.index(blank) for blank in self.blank_ids if blank in prompt)
        return next(places, len(prompt) - 1)


def _sizes(vocab: int, first: int) -> Config:
    return Config(
        vocab_size=vocab, dim=4096, mlp_dim=16384, layers=28, heads=32, kv_heads=32, head_dim=128,
        start_id=first + 4, blank_ids=(first + 1, first),
    )  # fmt: skip


RESIDUAL = math.sqrt(2 * 28)  # alpha; the original never takes it from the depth

# The second has the vocabulary of the first weeks, with 20,000 images' tokens in front.
PRESETS = {
    "chatglm-6b": _sizes(130528, 130000),
    "chatglm-6b-150528": _sizes(150528, 150000),
    "chatglm-tiny": Config(
        vocab_size=130528, dim=128, mlp_dim=512, layers=2, head_dim=32, start_id=130004,
        blank_ids=(130001, 130000),
    ),
}  # fmt: skip
PARAM_AXES = lora_axes((*glm.LAYER_AXES, (r"head/kernel", ("embed", "vocab"))))


class Layers(glm.Layers):
    """All layers."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs, dtype: Any):
        super().__init__(config, gelu="tanh", rngs=rngs, dtype=dtype)

    def project(self, x: Array, angles: Any, key: Array | None) -> tuple[Array, Array, Array]:
        """Rotated queries and keys, and values [B N T H]; they lie side by side in each head."""
        fused = self.query_key_value(x, key).reshape(*x.shape[:2], self.heads, -1)
        q, k, v = (jnp.einsum("BTNH->BNTH", a) for a in jnp.split(fused, 3, axis=-1))
        return _turned(q, angles), _turned(k, angles), v

    def add(self, before: Array, normed: Array, new: Array) -> Array:
        """The residual carries the norm."""
        del before
        return normed * RESIDUAL + new


def _turned(x: Array, angles: Any) -> Array:
    """[B N T H], each half rotated by its row of positions."""
    halves = zip(jnp.split(x, 2, axis=-1), angles, strict=True)
    return jnp.concatenate([rotate(half, angle) for half, angle in halves], axis=-1)


class ChatGLM(glm.TwoRowModel):
    """A chat model; see `LanguageModule`."""

    config: Config

    def __init__(self, config: Config, *, rngs: nnx.Rngs, dtype: Any = jnp.float32):
        self.config = config
        init = nnx.initializers.normal(config.init_std)
        self.embedding = nnx.Param(init(rngs.params(), (config.vocab_size, config.dim), dtype))
        self.layers = Layers(config, rngs=rngs, dtype=dtype)
        self.final_norm = LayerNorm(config.dim, config.norm_eps, dtype=dtype)
        head = {"init": init, "rngs": rngs, "dtype": dtype}
        self.head = None if config.tied else Linear(config.dim, config.vocab_size, **head)

    def begin(self, x: Array, positions: Array) -> tuple[Array, Any]:
        """x as it is, and the angles of both rows."""
        exact = rope_frequencies(self.config.head_dim // 2, 10000.0)
        frequencies = exact.astype(np.float16).astype(np.float32)
        angles = [rope_angles(positions[:, row], frequencies) for row in range(2)]
        return x, jax.lax.optimization_barrier(angles)

    def blanks(self, tokens: Array, prompt: Array) -> Array:
        """The places of [gMASK], or of [MASK] in a prompt without [gMASK]."""
        chosen = jnp.zeros(tokens.shape, bool)
        for blank in reversed(self.config.blank_ids):
            is_blank = (tokens == blank) & prompt
            chosen = jnp.where(is_blank.any(axis=1, keepdims=True), is_blank, chosen)
        return chosen
