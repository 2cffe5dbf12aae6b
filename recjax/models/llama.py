"""LLaMA 1, 2 and 3.x (Touvron et al. 2023; Dubey et al. 2024) for weights of Hugging Face.

h = embedding; h += out(attention(norm(h))); h += down(silu(gate(norm h)) * up(norm h)); the head
reads norm(h). Norms are RMSNorm in float32; queries and keys are rotated (RoPE, half-split);
query head n reads key/value head n // (N / K); attention is scaled by 1 / sqrt(H), with its softmax
in float32. Activations have the type of the embeddings, parameters that of their arrays.

    logits, _ = model(tokens)                                  # [B T] -> [B T V]
    h, cache = model.hidden(tokens, cache=model.empty_cache(rows, slots))
    logits, cache = model(next_tokens, cache=cache)            # cached == uncached

Layers are stacked on a leading axis and scanned; `StackedModel` says when cached calls are. A
cached call expects `positions` and `mask` of the new tokens only.
"""

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from recjax.models.known_inputs import LearnedInputs, first_layer
from recjax.models.language import LanguageConfig
from recjax.models.llama_layers import Call, Layers
from recjax.models.stacked import StackedModel, recomputed
from recjax.nn import backend
from recjax.nn.cache import KVCache, empty_cache
from recjax.nn.lora import Linear, lora_axes
from recjax.nn.masks import make_mask
from recjax.nn.norms import LayerNorm, RMSNorm
from recjax.nn.places import rows_at
from recjax.nn.positions import RopeScaling, rope_angles, rope_frequencies
from recjax.ranges import FieldError, Positive, Share
from recjax.sharded import constrain
from recjax.typing import Array


@dataclasses.dataclass(frozen=True)
class Config(LanguageConfig):
    """Sizes of a LLaMA; `mlp_dim` is 2/3 of 4 E, rounded up, in the published models."""

    norm_eps: Share = 1e-5  # 1e-6 in LLaMA 1
    rope_theta: Positive = 10000.0  # 500,000 in LLaMA 3
    rope_scaling: RopeScaling | None = None  # LLaMA 3.1 and later

    @property
    def rotary_dim(self) -> int:
        """The number of rotated dimensions of a head."""
        return self.head_dim

    def __post_init__(self):
        super().__post_init__()
        if self.rotary_dim % 2:
            raise FieldError("head_dim", f"{self.head_dim}: rotary embeddings need pairs")


_LLAMA_3: dict[str, Any] = {
    "rope_theta": 500000.0,
    "vocab_size": 128256,
    "tied": True,
    "max_length": 131072,
}
# Sizes of the published models, by Hugging Face's names, and small ones to train.
PRESETS = {
    "llama-7b": Config(
        dim=4096, mlp_dim=11008, layers=32, heads=32, kv_heads=32, head_dim=128, norm_eps=1e-6
    ),
    "llama-2-7b": Config(
        dim=4096, mlp_dim=11008, layers=32, heads=32, kv_heads=32, head_dim=128, max_length=4096
    ),
    "llama-3.2-1b": Config(
        dim=2048, mlp_dim=8192, layers=16, heads=32, kv_heads=8, head_dim=64,
        rope_scaling=RopeScaling(32.0, 1.0, 4.0, 8192), **_LLAMA_3,
    ),
    "llama-3.2-3b": Config(
        dim=3072, mlp_dim=8192, layers=28, heads=24, kv_heads=8, head_dim=128,
        rope_scaling=RopeScaling(32.0, 1.0, 4.0, 8192), **_LLAMA_3,
    ),
    # Of karpathy/llama2.c, whose vocabulary is LLaMA's.
    "stories-15m": Config(
        dim=288, mlp_dim=768, layers=6, heads=6, kv_heads=6, head_dim=48, max_length=256, tied=True
    ),
    "stories-110m": Config(
        dim=768, mlp_dim=2048, layers=12, heads=12, kv_heads=12, max_length=1024, tied=True
    ),
}  # fmt: skip

LAYER_AXES = (
    (r"embedding", ("vocab", "embed")),
    (r"layers/attention/query/kernel", (None, "embed", "heads")),
    (r"layers/attention/(key|value)/kernel", (None, "embed", "kv_heads")),
    (r"layers/attention/out/kernel", (None, "heads", "embed")),
    (r"layers/(gate|up)/kernel", (None, "embed", "mlp")),
    (r"layers/down/kernel", (None, "mlp", "embed")),
    (r"head/kernel", ("embed", "vocab")),
    (r".*/scale", (None,)),
)
# Of relatives whose attention has biases.
BIAS_AXES = (
    (r"layers/attention/query/bias", (None, "heads")),
    (r"layers/attention/(key|value)/bias", (None, "kv_heads")),
    (r"layers/attention/out/bias", (None, "embed")),
)
PARAM_AXES = lora_axes(LAYER_AXES)


class Llama(StackedModel):
    """A decoder-only language model, and the base of its relatives; see `LanguageModule`."""

    shares_prefix = True
    layers_of: ClassVar[type[Layers]] = Layers

    def __init__(self, config: Config, *, rngs: nnx.Rngs, dtype: Any = jnp.float32):
        self.config = config
        init = nnx.initializers.normal(config.init_std)
        shape = (config.vocab_size, config.dim)
        self.embedding = nnx.Param(init(rngs.params(), shape, dtype))
        self.layers = self.layers_of(config, rngs=rngs, dtype=dtype)
        self.final_norm: RMSNorm | LayerNorm = RMSNorm(config.dim, config.norm_eps, dtype=dtype)
        head = {"init": init, "rngs": rngs, "dtype": dtype}
        self.head = None if config.tied else Linear(config.dim, config.vocab_size, **head)

    def empty_cache(self, rows: int, slots: int) -> KVCache:
        """See `LanguageModule.empty_cache`."""
        config = self.config
        return empty_cache(
            config.layers, rows, slots, config.kv_heads, config.head_dim, self.embedding.dtype
        )

    def hidden(
        self,
        inputs: Array,
        *,
        positions: Array | None = None,
        mask: Array | None = None,
        cache: KVCache | None = None,
        prefix: KVCache | None = None,
        key: Array | None = None,
        places: Array | None = None,
        learned: LearnedInputs | None = None,
    ) -> tuple[Array, KVCache | None]:
        """Final hidden states [B T E], after the last norm.

        Args:
            inputs: tokens [B T], or embeddings [B T E], e.g. with soft tokens among them.
            positions: [B T]; by default the number of real tokens before each.
            mask: [B T] bool, real tokens (causal attention to real tokens only); or [B T T] bool,
                query by key, True = may attend. By default all are real. With a cache it says who
                of these tokens sees whom; each sees all that was read before, and later calls see
                the tokens that the last of these sees.
            cache: what came before.
            prefix: where there is no cache: of `KVCache.as_prefix`, what all rows have read before.
                It is not written to, so training may read it.
            key: of the adapters' dropout; none outside training.
            places: [B Q], where states are wanted: [B Q E]. What the last layer would compute of
                other places, but their keys and values, is left out. By default of all.
            learned: where there is no cache and the parameters are frozen: the few inputs whose
                gradients are asked for. Those of all others are not computed in the first layer.

        Returns:
            The states, and the cache with these tokens in it (None where there was none).

        Raises:
            InputError: `learned` for a model with LoRA.
        """
        x = self.embed(inputs) if inputs.ndim == 2 else inputs
        if cache is not None:
            return self._cached(x, positions, mask, cache, places)
        if positions is None:
            real = mask if mask is not None and mask.ndim == 2 else jnp.ones(x.shape[:2], bool)
            positions = jnp.maximum(jnp.cumsum(real, axis=-1) - 1, 0)
            positions += 0 if prefix is None else prefix.prefix_length
        if mask is not None and mask.ndim == 2:
            mask = make_mask(mask)
        elif mask is None and (learned is not None or self._last_apart(places)):
            mask = make_mask(jnp.ones(x.shape[:2], bool))
        keys = None if key is None else jax.random.split(key, self.config.layers)
        prefix_layers = None
        if prefix is not None and prefix.prefix_keys:
            prefix_layers = (jnp.stack(prefix.prefix_keys), jnp.stack(prefix.prefix_values))
        x, angles = self.begin(x, positions)
        call = Call(angles, mask)
        x = self._scanned(x, call, keys, prefix_layers, places, learned)
        return self.final_norm(x), None

    def _last_apart(self, places: Array | None) -> bool:
        """Whether the last layer is computed at some places only. That copies the other layers: a
        large model on a GPU has no memory for it, and would save one layer of dozens."""
        return places is not None and backend.platform(self.embedding[...]) == "cpu"

    def begin(self, x: Array, positions: Array) -> tuple[Array, tuple[Array, Array]]:
        """The first layer's input, and the angles of positions [B T] for every layer."""
        config = self.config
        frequencies = rope_frequencies(config.rotary_dim, config.rope_theta, config.rope_scaling)
        # Behind a barrier, or XLA computes the sines again in every layer, and for every head.
        return x, jax.lax.optimization_barrier(rope_angles(positions, frequencies))

    def _scanned(self, x, call: Call, keys, prefixes, places, learned) -> Array:
        """All layers, by a scan over their stack; keys and prefixes are stacked, too."""
        graph, stacked = nnx.split(self.layers)

        def layer(places: Array | None, x: Array, inputs: tuple) -> tuple[Array, None]:
            x = constrain(x, "batch", "length", None)
            params, key, prefix = inputs
            return nnx.merge(graph, params)(x, call, key, prefix, None, places)[0], None

        layer = recomputed(layer, self.config.remat)
        layers, last_apart = (stacked, keys, prefixes), self._last_apart(places)
        begin, end = int(learned is not None), self.config.layers - last_apart

        def part(layer_numbers: int | slice) -> Any:
            return jax.tree.map(lambda a: a[layer_numbers], layers)

        if learned is not None:
            one, _, first = part(0)
            x = first_layer(nnx.merge(graph, one), x, call, first, learned)
        middle = layers if (begin, end) == (0, self.config.layers) else part(slice(begin, end))
        every = functools.partial(layer, None)
        x, _ = jax.lax.scan(every, x, middle, unroll=self.config.unroll)
        return layer(places, x, part(-1))[0] if last_apart else rows_at(x, places)

    def _cached(self, x, positions, mask, cache: KVCache, places) -> tuple[Array, KVCache]:
        rows, length, _ = x.shape
        mask = jnp.ones((rows, length), bool) if mask is None else mask.astype(bool)
        real = mask[:, -1] if mask.ndim == 3 else mask
        if positions is None:
            positions = cache.position[:, None] + jnp.maximum(jnp.cumsum(real, axis=-1) - 1, 0)
        after = cache.advance(real)
        slots, own = jnp.arange(after.valid.shape[1]), cache.length + jnp.arange(length)
        seen = after.valid[:, None] & (slots[None, :] <= own[:, None])[None]
        if mask.ndim == 3:
            seen = jax.lax.dynamic_update_slice_in_dim(seen, mask, cache.length, axis=2)
        x, angles = self.begin(x, positions)
        call = Call(angles, seen, cache.length)

        def layer(
            layers: Layers, x: Array, prefix: Any, layer_cache: Any, places: Array | None
        ) -> Any:
            return layers(x, call, None, prefix, layer_cache, places)

        x, after = self.cached_layers(layer, x, after, places)
        return self.final_norm(x), after
