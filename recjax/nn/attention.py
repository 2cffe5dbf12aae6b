"""Attention: multi-head of the recommenders, grouped-query of the language models."""

import jax
import jax.numpy as jnp
from flax import nnx

from recjax.nn import attention_cpu
from recjax.nn.backend import Backend, attention_backend
from recjax.nn.cache import behind
from recjax.nn.dropout import dropout
from recjax.nn.masks import make_mask
from recjax.typing import Array, check_shapes

_NEVER = -1e30  # a masked logit: finite, so that a row without any other is a mean


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
        bias: Array | None = None,
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
            bias: [B N L M], added to the logits.
            deterministic: no dropout.
            rngs: its `dropout` stream.
        """
        batch, length, dim = queries.shape
        if repeated is not None:
            vector, count = repeated
            memory = jnp.concatenate([memory, jnp.broadcast_to(vector, (batch, 1, dim))], axis=1)
            mask = jnp.concatenate([mask, (count > 0)[..., None]], axis=-1)

        def split(x: Array) -> Array:
            return x.reshape(*x.shape[:2], self.heads, dim // self.heads)

        q, k, v = split(self.query(queries)), split(self.key(memory)), split(self.value(memory))
        # The softmax is in float32, whatever is multiplied.
        logits = jnp.einsum("BLNH,BMNH->BNLM", q, k, preferred_element_type=jnp.float32)
        logits /= jnp.sqrt(q.shape[-1]).astype(logits.dtype)
        if bias is not None:
            logits += bias
        if repeated is not None:
            logits = logits.at[..., -1].add(
                jnp.log(jnp.maximum(count, 1).astype(logits.dtype))[:, None]
            )
        logits = jnp.where(mask[:, None], logits, jnp.finfo(logits.dtype).min)
        weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
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
    prefix: tuple[Array, ...] | None = None,
    backend: Backend | None = None,
) -> Array:
    """Grouped-query attention of a language model, softmax in float32.

    Args:
        q: [B N T H].
        k, v: [B K M H]; query head n reads key head n // (N / K).
        mask: [B T M] bool, True = may attend; a query that may attend to nothing gets a mean.
        causal: query t may attend to keys up to t only (T = M).
        prefix: keys and values [K P H] that come before, for all rows and queries alike; or [G K P
            H] for G groups of rows, one after the other, with [G P] bool, True = may attend.
        backend: "reference", the plain formula; "cpu", the same in the order that XLA is fast with
            on a CPU; "cudnn" or "tpu", flash attention of a GPU or a TPU, which takes some shapes
            only. By default what suits the arrays and their device.

    Returns:
        [B N T H].
    """
    check_shapes("BNTH, BKMH, BKMH", q=q, k=k, v=v)
    if q.shape[1] % k.shape[1]:
        raise ValueError(f"{q.shape[1]} query heads are no multiple of {k.shape[1]} key heads")
    length = q.shape[2]
    if causal and (mask is not None or prefix is not None):
        triangle = make_mask(jnp.ones((1, length), bool))
        mask, causal = triangle if mask is None else mask & triangle, False
    if prefix is not None and (length > 1 or backend in ("cudnn", "tpu")):
        # One query reads what rows share as one matrix, instead of a copy a row; of many
        # queries the products are what takes time, and one is faster than two.
        k, v, mask = behind(prefix, k, v, mask)
        prefix = None
    backend = backend or attention_backend(q, k, prefix)
    if backend == "cudnn":
        return _cudnn(q, k, v, mask, causal)
    if backend == "tpu":
        return _tpu(q, k, v, mask, causal)
    if causal:
        mask = make_mask(jnp.ones((1, length), bool))
    return (attention_cpu.attend if backend == "cpu" else _reference)(q, k, v, mask, prefix)


def _reference(
    q: Array, k: Array, v: Array, mask: Array | None, prefix: tuple[Array, ...] | None
) -> Array:
    """softmax(q k^T / sqrt(H)) v, with products in float32."""
    shape, ahead = q.shape, 0 if prefix is None else prefix[0].shape[-2]
    groups = len(prefix[0]) if prefix is not None and prefix[0].ndim == 4 else 0
    wide = {"preferred_element_type": jnp.float32}
    q = q.reshape(len(q), k.shape[1], -1, *shape[2:])
    logits = jnp.einsum("BKGTH,BKMH->BKGTM", q, k, **wide)
    if mask is not None:
        logits = jnp.where(mask[:, None, None], logits, _NEVER)
    if prefix is not None:
        if groups:
            before = jnp.einsum(
                "ABKGTH,AKPH->ABKGTP", q.reshape(groups, -1, *q.shape[1:]), prefix[0], **wide
            )
            before = jnp.where(prefix[2][:, None, None, None, None], before, _NEVER)
            before = before.reshape(len(q), *before.shape[2:])
        else:
            before = jnp.einsum("BKGTH,KPH->BKGTP", q, prefix[0], **wide)
        logits = jnp.concatenate([before, logits], axis=-1)
    weights = jax.nn.softmax(logits * shape[-1] ** -0.5, axis=-1).astype(v.dtype)
    mixed = jnp.einsum("BKGTM,BKMH->BKGTH", weights[..., ahead:], v, **wide)
    if groups and prefix is not None:
        first = weights[..., :ahead].reshape(groups, -1, *weights.shape[1:-1], ahead)
        more = jnp.einsum("ABKGTP,AKPH->ABKGTH", first, prefix[1], **wide)
        mixed += more.reshape(mixed.shape)
    elif prefix is not None:
        mixed += jnp.einsum("BKGTP,KPH->BKGTH", weights[..., :ahead], prefix[1], **wide)
    return mixed.astype(v.dtype).reshape(shape)


def _cudnn(q: Array, k: Array, v: Array, mask: Array | None, causal: bool) -> Array:
    q, k, v = (jnp.einsum("BNTH->BTNH", x) for x in (q, k, v))
    mask = None if mask is None else mask[:, None]
    mixed = jax.nn.dot_product_attention(
        q, k, v, mask=mask, is_causal=causal, implementation="cudnn"
    )
    return jnp.einsum("BTNH->BNTH", mixed)


def _tpu(q: Array, k: Array, v: Array, mask: Array | None, causal: bool) -> Array:
    """Pallas' kernel; it has no grouped heads and takes a mask as something to add."""
    from jax.experimental.pallas.ops.tpu.flash_attention import flash_attention

    rows, heads, length, dim = q.shape
    k, v = (jnp.repeat(x, heads // x.shape[1], axis=1) for x in (k, v))
    bias = None
    if mask is not None:
        shape = (rows, heads, length, k.shape[2])
        bias = jnp.broadcast_to(jnp.where(mask, 0.0, _NEVER)[:, None], shape)
    return flash_attention(q, k, v, bias, causal=causal, sm_scale=dim**-0.5)
