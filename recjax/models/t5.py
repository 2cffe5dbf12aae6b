"""T5 (Raffel et al. 2020), v1.0 and v1.1: an encoder and a decoder with relative positions.

Encoder: h += out(attention(norm h)); h += down(relu(wide(norm h))). Decoder: the same, causal, with
attention to the encoder's states between. Norms are RMSNorm; scores are not scaled, and each head
adds a number for the bucket of the distance between two tokens, the same in all layers. v1.0 ties
the head to the embedding, over states scaled by 1 / sqrt(E); v1.1 has a head of its own and a gated
network. T0 and P5 are T5s; P5 adds to each of the encoder's tokens a vector of the word that it is
of (`whole_words`).

    logits, _ = model(decoder_tokens, encoder=tokens, encoder_mask=real)
    h, cache = model.hidden(start, encoder=tokens, cache=model.empty_cache(rows, slots))
    logits, cache = model(next_tokens, cache=cache)    # the encoder is read once

Without an encoder the decoder stands alone, as a causal model. Deviation: the dropout of
pre-training is left out.
"""

import dataclasses
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from flax import nnx

from recjax.models.language import LanguageConfig
from recjax.models.stacked import StackedModel, recomputed
from recjax.models.t5_layers import Layers, dropout_keys, relative_bias
from recjax.nn.cache import KVCache, empty_cache
from recjax.nn.lora import Linear, lora_axes
from recjax.nn.masks import make_mask
from recjax.nn.norms import RMSNorm
from recjax.nn.places import rows_at
from recjax.ranges import Count, Few, FieldError, Positive, Range, Share
from recjax.typing import Array


@dataclasses.dataclass(frozen=True)
class Config(LanguageConfig):
    """Sizes of a T5. `layers` are the decoder's; `max_length` warns alone."""

    encoder_layers: Few = 4
    max_length: Annotated[int, Range(1, 2**24)] = 512
    norm_eps: Share = 1e-6
    gated: bool = False  # the feed-forward network: v1.1's, with tanh GELU; else one ReLU
    buckets: Annotated[int, Range(4, 2**16)] = 32  # of distances
    max_distance: Annotated[int, Range(2, 2**20)] = 128  # from here on they share a bucket
    tied: bool = True
    init_std: Positive = 1.0  # a factor of T5's own scales
    whole_words: Count = 0  # words that P5's table has; 0 = no table
    grouped = False

    def __post_init__(self):
        super().__post_init__()
        if self.buckets % 4 or self.max_distance <= self.buckets // 2:
            raise FieldError(
                "buckets", f"{self.buckets}: expected a multiple of 4, below twice max_distance"
            )


def _sizes(dim: int, mlp_dim: int, layers: int, heads: int, head_dim: int, **more: Any) -> Config:
    return Config(
        vocab_size=32128, dim=dim, mlp_dim=mlp_dim, layers=layers, encoder_layers=layers,
        heads=heads, kv_heads=heads, head_dim=head_dim, **more,
    )  # fmt: skip


_V11 = {"gated": True, "tied": False}
# Sizes of the published models: config.json of t5-small, -base, -large, google/t5-v1_1-*, and of
# bigscience/T0_3B.
PRESETS = {
    "t5-small": _sizes(512, 2048, 6, 8, 64),
    "t5-base": _sizes(768, 3072, 12, 12, 64),
    "t5-large": _sizes(1024, 4096, 24, 16, 64),
    "t5-v1.1-small": _sizes(512, 1024, 8, 6, 64, **_V11),
    "t5-v1.1-base": _sizes(768, 2048, 12, 12, 64, **_V11),
    "t0-3b": _sizes(2048, 5120, 24, 32, 64, **_V11),
}
PARAM_AXES = lora_axes(
    (
        (r"embedding", ("vocab", "embed")),
        (r"(encoder|decoder)_bias", (None, "heads")),
        (r"whole_word", (None, "embed")),
        (r"(encoder|layers)/(attention|cross)/(query|key|value)/kernel", (None, "embed", "heads")),
        (r"(encoder|layers)/(attention|cross)/out/kernel", (None, "heads", "embed")),
        (r"(encoder|layers)/(gate|up|wide)/kernel", (None, "embed", "mlp")),
        (r"(encoder|layers)/down/kernel", (None, "mlp", "embed")),
        (r"head/kernel", ("embed", "vocab")),
        (r".*/scale", (None,)),
    )
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache(KVCache):
    """The decoder's tokens, and the encoder's keys and values, which every step reads.

    Attributes:
        cross_keys, cross_values: a [B N S H] each layer, or none.
        cross_valid: [B S] bool, which of them are real.
    """

    cross_keys: tuple[Array, ...] = ()
    cross_values: tuple[Array, ...] = ()
    cross_valid: Array | None = None

    def take(self, rows: Array) -> "Cache":
        """See `KVCache.take`."""
        return _own(
            super().take(rows),
            tuple(a[rows] for a in self.cross_keys),
            tuple(a[rows] for a in self.cross_values),
            None if self.cross_valid is None else self.cross_valid[rows],
        )

    def start(self, rows: int, slots: int) -> "Cache":
        """See `KVCache.start`; the new rows have no encoder yet."""
        return _own(super().start(rows, slots))


def _own(
    cache: KVCache,
    keys: tuple[Array, ...] = (),
    values: tuple[Array, ...] = (),
    valid: Array | None = None,
) -> Cache:
    """The decoder's part of a cache, with the encoder's."""
    part = {field.name: getattr(cache, field.name) for field in dataclasses.fields(KVCache)}
    return Cache(**part, cross_keys=keys, cross_values=values, cross_valid=valid)


class T5(StackedModel):
    """An encoder-decoder language model; see `LanguageModule`."""

    shares_prefix = True  # of the decoder, where there is no encoder
    reads_encoder = True
    config: Config

    def __init__(self, config: Config, *, rngs: nnx.Rngs, dtype: Any = jnp.float32):
        self.config = config
        own: dict[str, Any] = {"rngs": rngs, "dtype": dtype}

        def table(rows: int, width: int, std: float) -> nnx.Param:
            init = nnx.initializers.normal(config.init_std * std)
            return nnx.Param(init(rngs.params(), (rows, width), dtype))

        self.embedding = table(config.vocab_size, config.dim, 1.0)
        self.encoder_bias = table(config.buckets, config.heads, config.dim**-0.5)
        self.decoder_bias = table(config.buckets, config.heads, config.dim**-0.5)
        self.encoder = Layers(config, config.encoder_layers, cross=False, **own)
        self.encoder_norm = RMSNorm(config.dim, config.norm_eps, dtype=dtype)
        self.layers = Layers(config, config.layers, cross=True, **own)
        self.final_norm = RMSNorm(config.dim, config.norm_eps, dtype=dtype)
        words = config.whole_words
        self.whole_word = table(words, config.dim, 1.0) if words else None
        head = {"init": nnx.initializers.normal(config.init_std), **own}
        self.head = None if config.tied else Linear(config.dim, config.vocab_size, **head)

    def empty_cache(self, rows: int, slots: int) -> Cache:
        """See `LanguageModule.empty_cache`."""
        c = self.config
        empty = empty_cache(c.layers, rows, slots, c.heads, c.head_dim, self.embedding.dtype)
        return _own(empty)

    def encode(
        self,
        inputs: Array,
        mask: Array | None = None,
        *,
        words: Array | None = None,
        key: Array | None = None,
    ) -> Array:
        """The encoder's states [B S E].

        Args:
            inputs: tokens [B S], or embeddings [B S E].
            mask: [B S] bool, real tokens; by default all. Or [B S S], query by key.
            words: [B S], the number of the word that each token is of, for a model with
                `whole_words`; 0 where there is none.
            key: of the adapters' dropout.
        """
        x = self.embed(inputs) if inputs.ndim == 2 else inputs
        if (words is None) != (self.whole_word is None):
            raise ValueError("words are expected by a model with whole_words, and by no other")
        if words is not None and self.whole_word is not None:
            added = jnp.take(self.whole_word[...], words, axis=0, mode="fill")
            x = x + added.astype(x.dtype)
        if mask is not None and mask.ndim == 3:
            positions, seen = jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape[:2]), mask
        else:
            real = jnp.ones(x.shape[:2], bool) if mask is None else mask.astype(bool)
            positions = jnp.maximum(jnp.cumsum(real, axis=-1) - 1, 0)
            seen = make_mask(real, 0)
        bias = relative_bias(self.encoder_bias[...], positions, positions, self.config, True)
        graph, stacked = nnx.split(self.encoder)

        def layer(x: Array, at: tuple) -> tuple[Array, None]:
            layers, keys = nnx.merge(graph, at[0]), dropout_keys(at[1])
            return layers.mlp(layers.read(x, bias, seen, keys)[0], keys), None

        keys = None if key is None else jax.random.split(key, self.config.encoder_layers)
        layer = recomputed(layer, self.config.remat)
        x, _ = jax.lax.scan(layer, x, (stacked, keys), unroll=self.config.unroll)
        return self.encoder_norm(x)

    def hidden(
        self,
        inputs: Array,
        *,
        positions: Array | None = None,
        mask: Array | None = None,
        cache: Any = None,
        prefix: Any = None,
        key: Array | None = None,
        places: Array | None = None,
        encoder: Array | None = None,
        encoder_mask: Array | None = None,
        words: Array | None = None,
        packed: tuple[Array, Array] | None = None,
    ) -> tuple[Array, Any]:
        """The decoder's final states [B T E], for the head; see the contract.

        Args:
            inputs: the decoder's tokens [B T], or embeddings [B T E].
            positions, mask, prefix, key, places: see `LanguageModule.hidden`.
            cache: of `empty_cache`, or of the call before, which knows what the encoder read.
            encoder: its tokens [B S] or embeddings [B S E]; with a cache, in its first call.
            encoder_mask: [B S] bool, which of them are real; by default all.
            words: see `encode`.
            packed: of rows that hold several texts the number of each token's text, from 1 on, 0 at
                padding: of the encoder's [B S] and of the decoder's [B T], without a cache; in
                place of the masks.
        """
        states = None
        if packed is not None:
            encoder_texts, decoder_texts = packed
            mask, encoder_mask = (
                make_mask(decoder_texts > 0, 1, decoder_texts),
                make_mask(encoder_texts > 0, 0, encoder_texts),
            )
            cross_mask = decoder_texts[:, :, None] == encoder_texts[:, None, :]
        decoder_key, encoder_key = (None, None) if key is None else jax.random.split(key)
        if encoder is not None:
            states = self.encode(encoder, encoder_mask, words=words, key=encoder_key)
            encoder_mask = None if encoder_mask is None else encoder_mask.astype(bool)
            encoder_mask = encoder_mask if packed is None else cross_mask
        x = self.embed(inputs) if inputs.ndim == 2 else inputs
        if cache is not None:
            x, cache = self._cached(x, positions, mask, cache, states, encoder_mask)
        else:
            x = self._scanned(x, positions, mask, prefix, decoder_key, states, encoder_mask)
        h = self.final_norm(rows_at(x, places))
        return (h * self.config.dim**-0.5 if self.config.tied else h), cache

    def _bias(self, positions: Array, keys: Array, ahead: int) -> Array:
        """The bias of queries at `positions` [B T] to `ahead` prefix tokens and to keys [B M]."""
        first = jnp.broadcast_to(jnp.arange(ahead), (len(keys), ahead))
        keys = jnp.concatenate([first, keys], axis=1)
        return relative_bias(self.decoder_bias[...], positions, keys, self.config, False)

    def _scanned(self, x, positions, mask, prefix, key, states, real) -> Array:
        ahead = 0 if prefix is None else prefix.prefix_length
        if positions is None:
            real_tokens = (
                mask if mask is not None and mask.ndim == 2 else jnp.ones(x.shape[:2], bool)
            )
            positions = jnp.maximum(jnp.cumsum(real_tokens, axis=-1) - 1, 0) + ahead
        if mask is None or mask.ndim == 2:
            mask = make_mask(jnp.ones(x.shape[:2], bool) if mask is None else mask)
        mask = jnp.pad(mask, ((0, 0), (0, 0), (ahead, 0)), constant_values=True)
        bias = self._bias(positions, positions, ahead)
        graph, stacked = nnx.split(self.layers)
        prefixes = None
        if ahead:
            prefixes = jnp.stack(prefix.prefix_keys), jnp.stack(prefix.prefix_values)

        def layer(x: Array, at: tuple) -> tuple[Array, None]:
            layers, keys = nnx.merge(graph, at[0]), dropout_keys(at[1])
            x, _ = layers.read(x, bias, mask, keys, at[2])
            if states is not None:
                x = layers.ask(x, layers.cross.memory(states, keys[4:]), real, keys)
            return layers.mlp(x, keys), None

        keys = None if key is None else jax.random.split(key, self.config.layers)
        layer = recomputed(layer, self.config.remat)
        return jax.lax.scan(layer, x, (stacked, keys, prefixes), unroll=self.config.unroll)[0]

    def _cached(self, x, positions, real, cache, states, encoder_mask) -> tuple[Array, Any]:
        rows, length, _ = x.shape
        real = jnp.ones((rows, length), bool) if real is None else real.astype(bool)
        if positions is None:
            positions = cache.position[:, None] + jnp.maximum(jnp.cumsum(real, axis=-1) - 1, 0)
        ahead, slot, after = cache.prefix_length, cache.length, cache.advance(real)
        layers, keys = self._apart or self.one_by_one(), dropout_keys(None)
        if states is not None:
            memory = [layer.cross.memory(states, keys) for layer in layers]
            valid = jnp.ones(states.shape[:2], bool) if encoder_mask is None else encoder_mask
            cross_keys, cross_values = zip(*memory, strict=True)
            after = _own(after, cross_keys, cross_values, valid)
        slots, own = jnp.arange(after.valid.shape[1]), slot + jnp.arange(length)
        seen = after.valid[:, None] & (slots[None, :] <= own[:, None])[None]
        mask = jnp.pad(seen, ((0, 0), (0, 0), (ahead, 0)), constant_values=True)
        slots = jnp.maximum(jnp.cumsum(after.valid, axis=-1) - 1, 0) + ahead
        bias = self._bias(positions, slots, ahead)
        caches = list(zip(after.keys, after.values, strict=True))
        for n, layer in enumerate(layers):
            prefix = (after.prefix_keys[n], after.prefix_values[n]) if ahead else None
            x, caches[n] = layer.read(x, bias, mask, keys, prefix, caches[n], slot)
            if after.cross_valid is not None:
                memory_n = after.cross_keys[n], after.cross_values[n]
                x = layer.ask(x, memory_n, after.cross_valid, keys)
            x = layer.mlp(x, keys)
        new_keys, new_values = zip(*caches, strict=True)
        return x, after.with_layers(new_keys, new_values)
