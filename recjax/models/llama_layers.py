"""The layers of LLaMA, with parameters stacked over layers (see `recjax.models.llama`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from recjax.models.stacked import Pair, StackedLayers
from recjax.nn.attention import attend
from recjax.nn.cache import written
from recjax.nn.lora import Linear
from recjax.nn.mlp import gated_silu
from recjax.nn.norms import RMSNorm
from recjax.nn.places import rows_at
from recjax.nn.positions import rotate
from recjax.typing import Array

if TYPE_CHECKING:
    from recjax.models import llama

Projected = tuple[Array, Array, Array]  # queries, keys and values


class Call(NamedTuple):
    """Arguments of a forward pass that all layers share.

    Attributes:
        angles: of the positions, [B T H/2] twice.
        mask: [B T M] bool, or None: causal, without padding.
        slot: the first slot that a cached call writes.
    """

    angles: tuple[Array, Array]
    mask: Array | None
    slot: Array | int = 0


class Attention(nnx.Module):
    """The projections of self-attention, of all layers."""

    def __init__(self, config: llama.Config, *, rngs: nnx.Rngs, dtype: Any):
        options = _options(config, rngs, dtype)
        self.heads, self.kv_heads, self.head_dim = config.heads, config.kv_heads, config.head_dim
        self.query = Linear(config.dim, config.heads * config.head_dim, **options)
        self.key = Linear(config.dim, config.kv_heads * config.head_dim, **options)
        self.value = Linear(config.dim, config.kv_heads * config.head_dim, **options)
        self.out = Linear(config.heads * config.head_dim, config.dim, **options)

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
        there = rows_at(angles[0], places), rows_at(angles[1], places)
        return rotate(q, there), rotate(k, angles), v

    def merge(self, mixed: Array, key: Array | None) -> Array:
        """[B N T H] of all heads -> [B T E]."""
        together = jnp.einsum("BNTH->BTNH", mixed)
        return self.out(together.reshape(*together.shape[:2], -1), key)


class Layers(StackedLayers):
    """All layers."""

    def __init__(self, config: llama.Config, *, rngs: nnx.Rngs, dtype: Any):
        options, stack = _options(config, rngs, dtype), (config.layers,)
        self.attention_norm = RMSNorm(config.dim, config.norm_eps, stack=stack, dtype=dtype)
        self.attention = Attention(config, rngs=rngs, dtype=dtype)
        self.mlp_norm = RMSNorm(config.dim, config.norm_eps, stack=stack, dtype=dtype)
        self.gate = Linear(config.dim, config.mlp_dim, **options)
        self.up = Linear(config.dim, config.mlp_dim, **options)
        self.down = Linear(config.mlp_dim, config.dim, **options)

    def __call__(
        self,
        x: Array,
        call: Call,
        key: Array | None,
        prefix: Pair | None,
        kept: Pair | None,
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
        if kept is not None:
            kept = k, v = written(kept, (k, v), call.slot)
        seen = None if call.mask is None else rows_at(call.mask, places)
        mixed = attend(q, k, v, seen, causal=call.mask is None, prefix=prefix)
        return self.mlp(rows_at(x, places) + attention.merge(mixed, keys[3]), keys), kept

    def mlp(self, x: Array, keys: list) -> Array:
        """x [B T E] plus the gated feed-forward network of its norm."""
        normed = self.mlp_norm(x)
        gated = gated_silu(self.gate(normed, keys[4]), self.up(normed, keys[5]))
        return x + self.down(gated, keys[6])


def _options(config: llama.Config, rngs: nnx.Rngs, dtype: Any) -> dict[str, Any]:
    init = nnx.initializers.normal(config.init_std)
    return {"stack": (config.layers,), "init": init, "rngs": rngs, "dtype": dtype}


def dropout_keys(key: Array | None) -> list[Array | None]:
    """A dropout key for each linear map of a layer, or none."""
    return [None] * 7 if key is None else list(jax.random.split(key, 7))
