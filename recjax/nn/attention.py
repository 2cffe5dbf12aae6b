"""Multi-head attention of the recommenders (small, dense, no cache)."""

import jax
import jax.numpy as jnp
from flax import nnx

from recjax.nn.dropout import dropout
from recjax.typing import Array


class MultiHeadAttention(nnx.Module):
    """Scaled dot-product attention (Vaswani et al. 2017) over [B L D].

    Args:
        dim: D, a multiple of `heads`.
        heads: N.
        dropout_rate: on the attention weights.
        kernel_init: initialiser of the four projections.
        rngs: initialiser keys.
    """

    def __init__(self, dim: int, heads: int, dropout_rate: float, *, kernel_init, rngs: nnx.Rngs):
        self.heads = heads
        self.dropout_rate = dropout_rate

        def linear() -> nnx.Linear:
            return nnx.Linear(dim, dim, kernel_init=kernel_init, rngs=rngs)

        self.query, self.key, self.value, self.out = linear(), linear(), linear(), linear()

    def __call__(
        self,
        queries: Array,
        memory: Array,
        mask: Array,
        *,
        repeated: tuple[Array, Array] | None = None,
        deterministic: bool,
        rngs=None,
    ) -> Array:
        """Attends from `queries` [B L D] to `memory` [B M D] where `mask` [B L M] is True.

        Args:
            queries: [B L D].
            memory: [B M D], keys and values.
            mask: [B L M] bool.
            repeated: `(vector [D], count [B L])`: query t meets this vector count_t times more.
                Equal keys have equal logits, so n of them weigh as one with log(n) added to its
                logit: the same result as n rows of memory, in one.
            deterministic: no dropout.
            rngs: its `dropout` stream.
        """
        batch, length, dim = queries.shape
        if repeated is not None:
            vector, count = repeated
            memory = jnp.concatenate([memory, jnp.broadcast_to(vector, (batch, 1, dim))], axis=1)
            mask = jnp.concatenate([mask, (count > 0)[..., None]], axis=-1)
        split = (batch, -1, self.heads, dim // self.heads)
        q = self.query(queries).reshape(split)
        k = self.key(memory).reshape(split)
        v = self.value(memory).reshape(split)
        logits = jnp.einsum("BLNH,BMNH->BNLM", q, k) / jnp.sqrt(q.shape[-1]).astype(q.dtype)
        if repeated is not None:
            logits = logits.at[..., -1].add(jnp.log(jnp.maximum(count, 1))[:, None])
        logits = jnp.where(mask[:, None], logits, jnp.finfo(logits.dtype).min)
        weights = jax.nn.softmax(logits, axis=-1)
        weights = dropout(weights, self.dropout_rate, deterministic=deterministic, rngs=rngs)
        mixed = jnp.einsum("BNLM,BMNH->BLNH", weights, v)
        return self.out(mixed.reshape(batch, length, dim))


def attend(
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None,
    *,
    causal: bool = False,
    prefix: tuple[Array, Array] | None = None,
) -> Array:
    """Grouped-query attention of a language model, softmax in float32.

    Args:
        q: [B N T H].
        k, v: [B K M H]; query head n reads key head n // (N / K).
        mask: [B T M] bool, True = may attend; a query that may attend to nothing gets a mean.
        causal: query t may attend to keys up to t only (T = M).
        prefix: keys and values [K P H] that come before, for all rows and queries alike.

    Returns:
        [B N T H].
    """
    rows, heads, length, dim = q.shape
    kv_heads = k.shape[1]
    if causal:
        triangle = jnp.tril(jnp.ones((length, length), bool))
        mask = triangle[None] if mask is None else mask & triangle
    q = (q * dim**-0.5).reshape(rows, kv_heads, heads // kv_heads, length, dim)
    logits = jnp.einsum("BKGTH,BKMH->BKGTM", q, k, preferred_element_type=jnp.float32)
    if mask is not None:
        logits = jnp.where(mask[:, None, None], logits, jnp.finfo(jnp.float32).min)
    if prefix is not None:
        before = jnp.einsum("BKGTH,KPH->BKGTP", q, prefix[0], preferred_element_type=jnp.float32)
        logits = jnp.concatenate([before, logits], axis=-1)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    if prefix is None:
        mixed = jnp.einsum("BKGTM,BKMH->BKGTH", weights, v)
    else:
        count = prefix[0].shape[1]
        mixed = jnp.einsum("BKGTP,KPH->BKGTH", weights[..., :count], prefix[1])
        mixed += jnp.einsum("BKGTM,BKMH->BKGTH", weights[..., count:], v)
    return mixed.reshape(rows, heads, length, dim)
