"""The layers of T5's encoder and decoder, and its biases of distances (see `recjax.models.t5`)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from recjax.models.stacked import Pair, StackedLayers
from recjax.nn.cache import behind, written
from recjax.nn.lora import Linear
from recjax.nn.mlp import gelu
from recjax.nn.norms import RMSNorm
from recjax.typing import Array

if TYPE_CHECKING:
    from recjax.models import t5

_NEVER = -1e30  # a masked score: finite, so that a query without any key has a mean


def distance_buckets(config: t5.Config, *, both_ways: bool) -> np.ndarray:
    """The bucket of each distance from 0 to `max_distance`; with `both_ways`, of one direction."""
    number = config.buckets // 2 if both_ways else config.buckets
    exact = number // 2
    distance = np.arange(config.max_distance + 1)
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
    far = ratio / np.float32(math.log(config.max_distance / exact)) * np.float32(number - exact)
    return np.where(distance < exact, distance, np.minimum(exact + far.astype(int), number - 1))


def relative_bias(
    table: Array, queries: Array, keys: Array, config: t5.Config, both: bool
) -> Array:
    """Each head's term of the scores: [B N T M].

    Args:
        table: [buckets N].
        queries, keys: positions [B T] and [B M].
        config: the model's.
        both: keys may stand after their query (encoder).
    """
    apart = keys[:, None, :] - queries[:, :, None]
    distance = jnp.abs(apart) if both else jnp.maximum(-apart, 0)
    known = jnp.asarray(distance_buckets(config, both_ways=both))
    bucket = known[jnp.minimum(distance, config.max_distance)]
    bucket = bucket + (config.buckets // 2) * (apart > 0) if both else bucket
    return jnp.einsum("BTMN->BNTM", table[bucket])


def mix(q: Array, k: Array, v: Array, bias: Array | None, mask: Array | None) -> Array:
    """Attention without a scale: softmax(q k^T + bias) v, [B N T H], softmax in float32."""
    scores = jnp.einsum("BNTH,BNMH->BNTM", q, k, preferred_element_type=jnp.float32)
    scores = scores if bias is None else scores + bias.astype(jnp.float32)
    scores = scores if mask is None else jnp.where(mask[:, None], scores, _NEVER)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("BNTM,BNMH->BNTH", weights, v)


class Attention(nnx.Module):
    """The four projections of attention, stacked over layers."""

    def __init__(self, config: t5.Config, layers: int, *, rngs: nnx.Rngs, dtype: Any):
        dim, inner, std = config.dim, config.heads * config.head_dim, config.init_std
        self.heads = config.heads

        def linear(into: int, out: int, scale: float) -> Linear:
            init = nnx.initializers.normal(std * scale)
            return Linear(into, out, stack=(layers,), init=init, rngs=rngs, dtype=dtype)

        self.query = linear(dim, inner, (dim * config.head_dim) ** -0.5)
        self.key, self.value = linear(dim, inner, dim**-0.5), linear(dim, inner, dim**-0.5)
        self.out = linear(inner, dim, inner**-0.5)

    def split(self, x: Array) -> Array:
        """[B T N*H] -> [B N T H]."""
        return jnp.einsum("BTNH->BNTH", x.reshape(*x.shape[:2], self.heads, -1))

    def memory(self, x: Array, keys: list) -> Pair:
        """Keys and values [B N T H] of states [B T E]."""
        return self.split(self.key(x, keys[1])), self.split(self.value(x, keys[2]))

    def merge(self, mixed: Array, key: Array | None) -> Array:
        """[B N T H] of all heads -> [B T E]."""
        together = jnp.einsum("BNTH->BTNH", mixed)
        return self.out(together.reshape(*together.shape[:2], -1), key)


class Layers(StackedLayers):
    """All layers of the encoder, or of the decoder (`cross`)."""

    def __init__(self, config: t5.Config, layers: int, *, cross: bool, rngs: nnx.Rngs, dtype: Any):
        dim, mlp, std = config.dim, config.mlp_dim, config.init_std
        own = {"rngs": rngs, "dtype": dtype}

        def norm() -> RMSNorm:
            return RMSNorm(dim, config.norm_eps, stack=(layers,), dtype=dtype)

        def linear(into: int, out: int) -> Linear:
            init = nnx.initializers.normal(std * into**-0.5)
            return Linear(into, out, stack=(layers,), init=init, **own)

        self.gated = config.gated
        self.attention_norm, self.attention = norm(), Attention(config, layers, **own)
        if cross:
            self.cross_norm, self.cross = norm(), Attention(config, layers, **own)
        self.mlp_norm = norm()
        if config.gated:
            self.gate, self.up = linear(dim, mlp), linear(dim, mlp)
        else:
            self.wide = linear(dim, mlp)
        self.down = linear(mlp, dim)

    def read(
        self,
        x: Array,
        bias: Array,
        mask: Array,
        keys: list,
        prefix: Pair | None = None,
        cache: Pair | None = None,
        slot: Array | int = 0,
    ) -> tuple[Array, Pair | None]:
        """x [B T E] after self-attention, and its cache [B N M H] with these tokens in it."""
        normed = self.attention_norm(x)
        q = self.attention.split(self.attention.query(normed, keys[0]))
        k, v = self.attention.memory(normed, keys)
        if cache is not None:
            cache = k, v = written(cache, (k, v), slot)
        if prefix is not None:
            k, v, _ = behind(prefix, k, v, None)
        return x + self.attention.merge(mix(q, k, v, bias, mask), keys[3]), cache

    def ask(self, x: Array, memory: Pair, real: Array | None, keys: list) -> Array:
        """x [B T E] after attention to the encoder's keys and values, of which `real` [B M] count,
        or [B T M] for each place."""
        q = self.cross.split(self.cross.query(self.cross_norm(x), keys[4]))
        mask = real if real is None or real.ndim == 3 else real[:, None]
        return x + self.cross.merge(mix(q, *memory, None, mask), keys[7])

    def mlp(self, x: Array, keys: list) -> Array:
        """x [B T E] after the feed-forward network."""
        normed = self.mlp_norm(x)
        if self.gated:
            inner = gelu(self.gate(normed, keys[8])) * self.up(normed, keys[9])
        else:
            inner = jax.nn.relu(self.wide(normed, keys[8]))
        return x + self.down(inner, keys[10])


def dropout_keys(key: Array | None) -> list[Array | None]:
    """A dropout key for each linear map of a layer, or none."""
    return [None] * 11 if key is None else list(jax.random.split(key, 11))
