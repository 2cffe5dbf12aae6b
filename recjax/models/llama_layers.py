"""The layers of LLaMA, with parameters stacked over layers (see `recjax.models.llama`).

Relatives of LLaMA override the parts in which they differ: `recjax.models.qwen3`, `.glm4`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from recjax.models.stacked import Pair, StackedLayers
from recjax.nn.attention import attend
from recjax.nn.cache import written
from recjax.nn.lora import Linear
from recjax.nn.mlp import gated_silu
from recjax.nn.norms import LayerNorm, RMSNorm
from recjax.nn.places import rows_at
from recjax.nn.positions import rotate
from recjax.typing import Array

if TYPE_CHECKING:
    from recjax.models import llama

Projected = tuple[Array, Array, Array]  # queries, keys and values


class Call(NamedTuple):
    """Arguments of a forward pass that all layers share.

    Attributes:
        angles: of the positions, [B T H/2] twice (fewer pairs where heads are rotated in part).
        mask: [B T M] bool, or None: causal, without padding.
        slot: the first slot that a cached call writes.
    """

    angles: tuple[Array, Array]
    mask: Array | None
    slot: Array | int = 0


class Attention(nnx.Module):
    """The projections of self-attention, stacked over layers.

    Args:
        config: sizes.
        rngs: initialiser keys (`params`).
        dtype: of the parameters.
        bias: of queries, keys and values.
        out_bias: of the map that joins the heads.

    Attributes:
        query_norm, key_norm: of each head [H], in families that have them.
    """

    query_norm: RMSNorm | None = None
    key_norm: RMSNorm | None = None

    def __init__(
        self,
        config: llama.Config,
        *,
        rngs: nnx.Rngs,
        dtype: Any,
        bias: bool = False,
        out_bias: bool = False,
    ):
        options = map_options(config, rngs, dtype)
        mapped = {**options, "bias": bias}
        self.heads, self.kv_heads, self.head_dim = config.heads, config.kv_heads, config.head_dim
        self.query = Linear(config.dim, config.heads * config.head_dim, **mapped)
        self.key = Linear(config.dim, config.kv_heads * config.head_dim, **mapped)
        self.value = Linear(config.dim, config.kv_heads * config.head_dim, **mapped)
        joined = config.heads * config.head_dim
        self.out = Linear(joined, config.dim, **options, bias=out_bias)

    def maps(self, x: Array, keys: list, places: Array | None = None) -> Projected:
        """x [B T E] (its `places` [B Q] for the queries, where they are given) through the maps."""
        return (
            self.query(rows_at(x, places), keys[0]),
            self.key(x, keys[1]),
            self.value(x, keys[2]),
        )

    def split(
        self, mapped: Projected, angles: tuple[Array, Array], places: Array | None = None
    ) -> Projected:
        """Queries [B N T H] (or [B N Q H], of places) and keys and values [B K T H] of `maps`."""
        heads = self.heads, self.kv_heads, self.kv_heads
        q, k, v = (
            jnp.einsum("BTNH->BNTH", y.reshape(*y.shape[:2], n, self.head_dim))
            for y, n in zip(mapped, heads, strict=True)
        )
        query_angles = rows_at(angles[0], places), rows_at(angles[1], places)
        q = q if self.query_norm is None else self.query_norm(q)
        k = k if self.key_norm is None else self.key_norm(k)
        return self.rotate(q, query_angles), self.rotate(k, angles), v

    def rotate(self, x: Array, angles: tuple[Array, Array]) -> Array:
        """Heads [B N T H] of queries or keys, rotated."""
        return rotate(x, angles)

    def merge(self, mixed: Array, key: Array | None) -> Array:
        """[B N T H] of all heads -> [B T E]."""
        together = jnp.einsum("BNTH->BTNH", mixed)
        return self.out(together.reshape(*together.shape[:2], -1), key)


class Layers(StackedLayers):
    """All layers.

    Attributes:
        places_inside: positions count in attention alone, so that the maps of the first layer's
            inputs are those of their tokens.
        after_attention, after_mlp: norms of what a sublayer adds, in families that have them.
    """

    attention_of: ClassVar[type[Attention]] = Attention
    places_inside: ClassVar[bool] = True
    after_attention: RMSNorm | None = None
    after_mlp: RMSNorm | None = None

    def __init__(self, config: llama.Config, *, rngs: nnx.Rngs, dtype: Any):
        options = map_options(config, rngs, dtype)
        self.attention_norm: RMSNorm | LayerNorm = layer_norms(config, config.dim, dtype)
        self.attention = self.attention_of(config, rngs=rngs, dtype=dtype)
        self.mlp_norm: RMSNorm | LayerNorm = layer_norms(config, config.dim, dtype)
        self.add_mlp(config, options)

    def add_mlp(self, config: llama.Config, options: dict[str, Any]) -> None:
        """Makes the maps of the feed-forward network."""
        self.gate = Linear(config.dim, config.mlp_dim, **options)
        self.up = Linear(config.dim, config.mlp_dim, **options)
        self.down = Linear(config.mlp_dim, config.dim, **options)

    def __call__(
        self,
        x: Array,
        call: Call,
        key: Array | None,
        prefix: Pair | None,
        cache: Pair | None,
        places: Array | None = None,
    ) -> tuple[Array, Pair | None]:
        """One layer, [B T E] -> [B T E] (of `places` [B Q] alone: [B Q E]).

        Args:
            x: [B T E].
            call: see `Call`.
            key: of the adapters' dropout.
            prefix: keys and values [K P H] that all rows read first.
            kept: the layer's cache [B K M H]; it is returned with these tokens in it.
            places: where the result is wanted; by default everywhere.
        """
        attention, keys = self.attention, dropout_keys(key)
        mapped = attention.maps(self.attention_norm(x), keys, places)
        q, k, v = attention.split(mapped, call.angles, places)
        if cache is not None:
            cache = k, v = written(cache, (k, v), call.slot)
        seen = None if call.mask is None else rows_at(call.mask, places)
        mixed = attend(q, k, v, seen, causal=call.mask is None, prefix=prefix)
        return self.finish(rows_at(x, places), mixed, keys), cache

    def finish(self, x: Array, mixed: Array, keys: list) -> Array:
        """x [B T E] after attention, given its heads [B N T H], and the feed-forward network."""
        new = self.attention.merge(mixed, keys[3])
        return self.mlp(
            x + (new if self.after_attention is None else self.after_attention(new)), keys
        )

    def mlp(self, x: Array, keys: list) -> Array:
        """x [B T E] plus the gated feed-forward network of its norm."""
        new = self.down(self.gated(self.mlp_norm(x), keys), keys[6])
        return x + (new if self.after_mlp is None else self.after_mlp(new))

    def gated(self, normed: Array, keys: list) -> Array:
        """[B T E] -> [B T F], before the map `down`."""
        return gated_silu(self.gate(normed, keys[4]), self.up(normed, keys[5]))


def map_options(config: llama.Config, rngs: nnx.Rngs, dtype: Any) -> dict[str, Any]:
    """Arguments of every linear map of the layers."""
    init = nnx.initializers.normal(config.init_std)
    return {"stack": (config.layers,), "init": init, "rngs": rngs, "dtype": dtype}


def layer_norms(config: llama.Config, dim: int, dtype: Any) -> RMSNorm:
    """One norm per layer, for vectors of size `dim`."""
    return RMSNorm(dim, config.norm_eps, stack=(config.layers,), dtype=dtype)


def dropout_keys(key: Array | None) -> list[Array | None]:
    """A dropout key for each linear map of a layer, or none."""
    return [None] * 7 if key is None else list(jax.random.split(key, 7))
