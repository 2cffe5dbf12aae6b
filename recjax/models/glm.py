"""GLM (Du et al. 2022), base to 10B: blank infilling with two positions a token.

h = embedding + position + inner position; h += dense(attention(norm(h))); h += mlp(norm(h)); the
head, which is the embedding, reads norm(h). Norms are layer norms in float32; linear maps have a
bias; queries, keys and values are thirds of one map. Facts: `third_party/glm.md`.

A row is a prompt with blanks, read both ways, and then the texts of the blanks, each begun by <sop>
and causal. Positions are [B 2 T]. Row 0 counts the prompt; in a blank's text it stays at the blank.
Row 1 is 0 in the prompt and counts the tokens of a blank's text from 1.

    logits, _ = model(tokens, positions=positions, mask=mask)     # [B 2 T], [B T T]
    h, cache = model.hidden(prompts, cache=model.empty_cache(rows, slots))
    logits, cache = model(next_tokens, cache=cache)               # goes on in the first blank

Deviations: the dropout of pre-training (0.1) is left out; the cache holds keys and values where the
original keeps hidden states and maps them again.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

import jax
import jax.numpy as jnp
from flax import nnx

from recjax.models.language import LanguageConfig
from recjax.models.stacked import Pair, StackedLayers, StackedModel, recomputed
from recjax.nn.attention import attend
from recjax.nn.cache import KVCache, empty_cache, written
from recjax.nn.lora import Linear, lora_axes
from recjax.nn.masks import make_mask
from recjax.nn.mlp import gelu
from recjax.nn.norms import LayerNorm
from recjax.ranges import FieldError, Range, Share
from recjax.sharded import constrain
from recjax.typing import Array

TokenId = Annotated[int, Range(0, 2**24)]


@dataclasses.dataclass(frozen=True)
class TwoRowConfig(LanguageConfig):
    """Sizes of a model with two positions a token, and the ids that tell where they turn."""

    norm_eps: Share = 1e-5
    start_id: TokenId | None = None  # <sop>, with which the text of a blank begins
    blank_ids: tuple[TokenId, ...] = ()  # [MASK] and its kin
    grouped = False

    def __post_init__(self):
        super().__post_init__()
        if self.heads * self.head_dim != self.dim:
            raise FieldError(
                "head_dim", f"{self.head_dim}: expected dim / heads, {self.dim / self.heads:g}"
            )

    def with_ids(self, start: int, mask: int, document: int, sentence: int) -> Self:
        """These sizes with a vocabulary's <sop>, [MASK], [gMASK] and [sMASK]."""
        blanks = tuple(dict.fromkeys((mask, document, sentence)))
        return dataclasses.replace(self, start_id=start, blank_ids=blanks)

    def blank_of(self, prompt: Sequence[int]) -> int:
        """The place of the blank that is filled: the first; the last token where there is none."""
        places = (k for k, token in enumerate(prompt) if token in self.blank_ids)
        return next(places, len(prompt) - 1)


@dataclasses.dataclass(frozen=True)
class Config(TwoRowConfig):
    """Sizes of a GLM. `mlp_dim` is 4 E in all of them."""

    mlp_dim: Annotated[int, Range(1, 2**20)] = 1024
    max_length: Annotated[int, Range(1, 2**24)] = 512  # each table of positions has one row more
    tied: bool = True
    # The published models were trained with "tanh"; Hugging Face's code computes "erf".
    gelu: Literal["tanh", "erf"] = "tanh"

    def __post_init__(self):
        super().__post_init__()
        if not self.tied:
            raise FieldError("tied", "expected True: the head of GLM is its embedding")
        if self.mlp_dim != 4 * self.dim:
            raise FieldError("mlp_dim", f"{self.mlp_dim}: expected 4 dim, {4 * self.dim}")


def _sizes(layers: int, dim: int, heads: int, length: int, vocab: int, *ids: int) -> Config:
    return Config(
        vocab_size=vocab, dim=dim, mlp_dim=4 * dim, layers=layers, heads=heads, kv_heads=heads,
        head_dim=dim // heads, max_length=length, start_id=ids[0], blank_ids=ids[1:],
    )  # fmt: skip


_GPT2 = (50304, 50257, 50260, 50263, 50264)  # vocabulary, <sop>, [MASK], [gMASK], [sMASK]
_BERT = (30592, 30522, 103)
# Sizes of the published models; the last is for tests and first steps.
PRESETS = {
    "glm-base": _sizes(12, 768, 12, 512, *_BERT),
    "glm-large": _sizes(24, 1024, 16, 512, *_BERT),
    "glm-515m": _sizes(30, 1152, 18, 512, *_BERT),
    "glm-roberta": _sizes(24, 1024, 16, 512, 50304, 50265, 50264),
    "glm-large-chinese": _sizes(24, 1024, 16, 1024, 50048, 50006, 50003, 50009, 50008),
    "glm-2b": _sizes(36, 2048, 32, 1024, *_GPT2),
    "glm-10b": _sizes(48, 4096, 64, 1024, *_GPT2),
    "glm-10b-chinese": _sizes(48, 4096, 64, 1024, 50048, 50006, 50003, 50007, 50008),
    "glm-tiny": _sizes(2, 128, 4, 256, *_GPT2),
}

LAYER_AXES = (
    (r"embedding", ("vocab", "embed")),
    (r"layers/query_key_value/kernel", (None, "embed", "heads")),
    (r"layers/query_key_value/bias", (None, "heads")),
    (r"layers/dense/kernel", (None, "heads", "embed")),
    (r"layers/dense_h_to_4h/kernel", (None, "embed", "mlp")),
    (r"layers/dense_h_to_4h/bias", (None, "mlp")),
    (r"layers/dense_4h_to_h/kernel", (None, "mlp", "embed")),
    (r".*/(scale|bias)", (None,)),
)
PARAM_AXES = lora_axes((*LAYER_AXES, (r"(block_)?position", (None, "embed"))))


class Layers(StackedLayers):
    """All layers."""

    def __init__(self, config: TwoRowConfig, *, gelu: str, rngs: nnx.Rngs, dtype: Any):
        stack, dim, std = (config.layers,), config.dim, config.init_std
        self.heads, self.gelu = config.heads, gelu
        last = std / math.sqrt(2 * config.layers)  # of the maps that add to the states

        def linear(into: int, out: int, std: float) -> Linear:
            init = nnx.initializers.normal(std)
            return Linear(into, out, stack=stack, init=init, rngs=rngs, dtype=dtype, bias=True)

        self.attention_norm = LayerNorm(dim, config.norm_eps, stack=stack, dtype=dtype)
        self.query_key_value = linear(dim, 3 * dim, std)
        self.dense = linear(dim, dim, last)
        self.mlp_norm = LayerNorm(dim, config.norm_eps, stack=stack, dtype=dtype)
        self.dense_h_to_4h = linear(dim, config.mlp_dim, std)
        self.dense_4h_to_h = linear(config.mlp_dim, dim, last)

    def __call__(
        self,
        x: Array,
        angles: Any,
        mask: Array,
        key: Array | None = None,
        cache: Pair | None = None,
        slot: Array | int = 0,
        prefix: tuple[Array, ...] | None = None,
    ) -> tuple[Array, Pair | None]:
        """One layer, [B T E] -> [B T E].

        Args:
            x: [B T E].
            angles: of `TwoRowModel.begin`.
            mask: [B T M] bool, query by key.
            key: of the adapters' dropout.
            kept: the layer's cache [B N M H]; it is returned with these tokens in it.
            slot: the first slot that they take.
            prefix: what groups of rows have read before (`KVCache.spread`).
        """
        keys = [None] * 4 if key is None else list(jax.random.split(key, 4))
        normed = self.attention_norm(x)
        q, k, v = self.project(normed, angles, keys[0])
        if cache is not None:
            cache = k, v = written(cache, (k, v), slot)
        mixed = attend(q, k, v, mask, prefix=prefix)
        return self.mlp(self.attended(x, normed, mixed, keys[1]), keys), cache

    def project(self, x: Array, angles: Any, key: Array | None) -> tuple[Array, Array, Array]:
        """Queries, keys and values [B N T H] of normed states [B T E]."""
        del angles
        q, k, v = (
            jnp.einsum("BTNH->BNTH", third.reshape(*x.shape[:2], self.heads, -1))
            for third in jnp.split(self.query_key_value(x, key), 3, axis=-1)
        )
        return q, k, v

    def add(self, before: Array, normed: Array, new: Array) -> Array:
        """The states after a sublayer, from those before it, their norm, and its result."""
        del normed
        return before + new

    def attended(self, x: Array, normed: Array, mixed: Array, key: Array | None) -> Array:
        """x [B T E] after attention, given its heads [B N T H]."""
        together = jnp.einsum("BNTH->BTNH", mixed).reshape(x.shape)
        return self.add(x, normed, self.dense(together, key))

    def mlp(self, x: Array, keys: list) -> Array:
        """x [B T E] after the feed-forward network."""
        normed = self.mlp_norm(x)
        wide = gelu(self.dense_h_to_4h(normed, keys[2]), self.gelu == "tanh")
        return self.add(x, normed, self.dense_4h_to_h(wide, keys[3]))


class TwoRowModel(StackedModel):
    """Prompts are read both ways; every token has two positions.

    Where inputs are tokens, `start_id` tells where the prompt ends and `blank_ids` which blank is
    filled. Otherwise all inputs of the first call are of the prompt, and what is written after them
    has the position of its last token.
    """

    position_rows = 2
    config: TwoRowConfig
    embedding: nnx.Param
    head: Linear | None = None
    layers: Layers
    final_norm: LayerNorm

    def begin(self, x: Array, positions: Array) -> tuple[Array, Any]:
        """The first layer's input, and the arrays that every layer reads of positions [B 2 T]."""
        raise NotImplementedError

    def empty_cache(self, rows: int, slots: int) -> KVCache:
        """See `LanguageModule`."""
        c = self.config
        empty = empty_cache(c.layers, rows, slots, c.heads, c.head_dim, self.embedding.dtype)
        return dataclasses.replace(empty, position=jnp.zeros((rows, 2), jnp.int32))

    def reading(
        self, segments: Array, written: Array | None = None, within: Array | None = None
    ) -> dict[str, Array]:
        """See `LanguageModule`; positions are [B 2 T]."""
        real = segments > 0
        if within is None:
            within = jnp.maximum(jnp.cumsum(real, axis=-1) - 1, 0)
        is_written = (
            jnp.zeros(segments.shape, bool) if written is None else written.astype(bool) & real
        )
        count = jnp.cumsum(is_written, axis=-1)
        count_before = jax.lax.cummax(jnp.where(within == 0, count - is_written, 0), axis=1)
        count = jnp.where(is_written, count - count_before, 0)
        mask = make_mask(real, is_written, segments)
        return {"positions": jnp.stack([within - count, count], axis=1), "mask": mask}

    def hidden(
        self,
        inputs: Array,
        *,
        positions: Array | None = None,
        mask: Array | None = None,
        cache: KVCache | None = None,
        prefix: Any = None,
        key: Array | None = None,
        places: Array | None = None,
    ) -> tuple[Array, KVCache | None]:
        """Final hidden states [B T E]; see the contract.

        Args:
            inputs: tokens [B T], or embeddings [B T E].
            positions: [B 2 T].
            mask: [B T] bool, real tokens; or [B T T] or [B 1 T T] bool, query by key, True = may
                attend. With a cache it says who of these tokens sees whom; each sees all that was
                read before, and later calls see the tokens that the last of these sees.
            cache: what came before.
            prefix: none; prompts are read both ways.
            key: of the adapters' dropout.
            places: [B Q], where states are wanted.
        """
        if prefix is not None:
            raise ValueError("no beginning of a prompt that is read both ways can be shared")
        x = self.embed(inputs) if inputs.ndim == 2 else inputs
        if positions is not None and positions.shape != (len(x), 2, x.shape[1]):
            raise ValueError(f"positions of shape {positions.shape}; expected [B 2 T]")
        mask = None if mask is None else mask.astype(bool)
        mask = mask[:, 0] if mask is not None and mask.ndim == 4 else mask
        square = mask is not None and mask.ndim == 3
        real = jnp.ones(x.shape[:2], bool) if mask is None else mask[:, -1] if square else mask
        written, blank = self._blank_text(inputs, real)
        reading = self.reading(real, written)
        default_positions, default_mask = reading["positions"], reading["mask"]
        # In a blank's text row 0 stays at the blank.
        default_positions = default_positions.at[:, 0].set(
            jnp.where(written, blank[:, None], default_positions[:, 0])
        )
        if cache is not None:
            first, offsets = _is_first(cache), jnp.maximum(jnp.cumsum(real, axis=-1) - 1, 0)
            later = jnp.stack([jnp.zeros_like(offsets), offsets], axis=1)
            default_positions = jnp.where(
                first, default_positions, cache.position[..., None] + later
            )
            default_mask = jnp.where(first, default_mask, make_mask(real))
        positions = default_positions if positions is None else positions
        attended = default_mask if mask is None or not square else mask
        x, angles = self.begin(x, positions)
        after = None
        if cache is None:
            x = self._scanned(x, angles, attended, key)
        else:
            after = cache.advance(real, _next(cache, positions, real, blank))
            x, after = self._cached(x, angles, attended, cache, after)
        h = self.final_norm(x)
        return h if places is None else jnp.take_along_axis(h, places[..., None], axis=1), after

    def _blank_text(self, inputs: Array, real: Array) -> tuple[Array, Array]:
        """`(written [B T], blank [B])`: the tokens after the prompt, and the blank's position."""
        if inputs.ndim == 3:
            return jnp.zeros(real.shape, bool), jnp.maximum(real.sum(axis=-1) - 1, 0)
        written = jnp.cumsum((inputs == self.config.start_id) & real, axis=-1) > 0
        prompt = real & ~written
        blanks = self.blanks(inputs, prompt)
        place = jnp.cumsum(real, axis=-1) - 1
        first_blank = jnp.take_along_axis(place, blanks.argmax(axis=-1)[:, None], axis=1)[:, 0]
        last = jnp.maximum(prompt.sum(axis=-1) - 1, 0)
        return written, jnp.where(blanks.any(axis=-1), first_blank, last)

    def blanks(self, tokens: Array, prompt: Array) -> Array:
        """[B T] bool, blanks among the tokens of the prompts [B T]; the first of them is filled."""
        return jnp.isin(tokens, jnp.array(self.config.blank_ids, jnp.int32)) & prompt

    def _scanned(self, x: Array, angles: Any, mask: Array, key: Array | None) -> Array:
        graph, stacked = nnx.split(self.layers)

        def layer(x: Array, at: tuple[Any, Array | None]) -> tuple[Array, None]:
            x = constrain(x, "batch", "length", None)
            return nnx.merge(graph, at[0])(x, angles, mask, at[1])[0], None

        layer = recomputed(layer, self.config.remat)
        keys = None if key is None else jax.random.split(key, self.config.layers)
        return jax.lax.scan(layer, x, (stacked, keys), unroll=self.config.unroll)[0]

    def _cached(
        self, x: Array, angles: Any, mask: Array, cache: KVCache, after: KVCache
    ) -> tuple[Array, KVCache]:
        read = cache.valid & (jnp.arange(cache.valid.shape[1]) < cache.length)[None]
        attended = jnp.broadcast_to(read[:, None], (*x.shape[:2], read.shape[1]))
        mask = jax.lax.dynamic_update_slice_in_dim(attended, mask, cache.length, axis=2)

        def layer(layers: Layers, x: Array, prefix: Any, layer_cache: Pair, places: Any) -> Any:
            return layers(x, angles, mask, None, layer_cache, cache.length, prefix)

        return self.cached_layers(layer, x, after)


def _is_first(cache: KVCache) -> Array:
    """[] bool, nothing was read yet."""
    return (cache.length == 0) & (not cache.prefix_keys)


def _next(cache: KVCache, positions: Array, real: Array, blank: Array) -> Array:
    """Positions [B 2] of the token after these at `positions` [B 2 T]."""
    last = real.shape[1] - 1 - real[:, ::-1].argmax(axis=-1)
    newest = jnp.take_along_axis(positions, last[:, None, None], axis=2)[..., 0]
    # After a prompt alone, the first token of its blank comes.
    outer = jnp.where(_is_first(cache) & (newest[:, 1] == 0), blank, newest[:, 0])
    after = jnp.stack([outer, newest[:, 1] + 1], axis=-1)
    return jnp.where(real.any(axis=-1)[:, None], after, cache.position).astype(jnp.int32)


class GLM(TwoRowModel):
    """A model of blank infilling; see `LanguageModule`."""

    position_table = True

    def __init__(self, config: Config, *, rngs: nnx.Rngs, dtype: Any = jnp.float32):
        self.config = config
        init = nnx.initializers.normal(config.init_std)

        def table(rows: int) -> nnx.Param:
            return nnx.Param(init(rngs.params(), (rows, config.dim), dtype))

        self.embedding = table(config.vocab_size)
        self.position, self.block_position = (table(config.max_length + 1) for _ in range(2))
        self.layers = Layers(config, gelu=config.gelu, rngs=rngs, dtype=dtype)
        self.final_norm = LayerNorm(config.dim, config.norm_eps, dtype=dtype)

    def begin(self, x: Array, positions: Array) -> tuple[Array, Any]:
        """x [B T E] and both positions' embeddings; NaN where a table ends."""
        for row, table in enumerate((self.position, self.block_position)):
            # The table is gathered: it is smaller than the rows that are looked up.
            rows = constrain(table[...], None, None)
            x = x + jnp.take(rows, positions[:, row], axis=0, mode="fill").astype(x.dtype)
        return x, None
