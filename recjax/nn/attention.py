"""Attention: multi-head of the recommenders, grouped-query of the language models."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from recjax.nn.dropout import dropout
from recjax.nn.masks import make_mask
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

    On a GPU in half precision more than one query at a time goes to cuDNN's flash attention.

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
        triangle = make_mask(jnp.ones((1, length), bool))
        mask = triangle if mask is None else mask & triangle
    if prefix is not None and length > 1:
        # One query reads what all rows share as one matrix, instead of a copy a row; of many
        # queries the products are what takes time, and one is faster than two.
        before, prefix = prefix, None
        k, v = (_behind(a, b) for a, b in zip(before, (k, v), strict=True))
        if mask is not None:
            mask = jnp.pad(mask, ((0, 0), (0, 0), (before[0].shape[1], 0)), constant_values=True)
    if prefix is None and _flash(q, k):
        q, k, v = (jnp.einsum("BNTH->BTNH", x) for x in (q, k, v))
        mask = None if mask is None else mask[:, None]
        mixed = jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="cudnn")
        return jnp.einsum("BTNH->BNTH", mixed)
    # The query heads of a group are more queries of its key head: plain batched products.
    q = q.reshape(rows, kv_heads, -1, dim)
    if prefix is None:
        mixed = _attend(q, k, v, _bias(mask))
    else:
        mixed = _attend_groups(q, [(*prefix, None), (k, v, _bias(mask))])
    return mixed.reshape(rows, heads, length, dim)


def _behind(first: Array, a: Array) -> Array:
    """[B K P+M H]: [B K M H] behind [K P H], which all rows have."""
    copies = jnp.broadcast_to(first, (len(a), *first.shape)).astype(a.dtype)
    return jnp.concatenate([copies, a], axis=2)


def _flash(q: Array, k: Array) -> bool:
    """Whether cuDNN's flash attention can, and is faster: its limits of shape and type."""
    even = q.shape[2] % 2 == 0 and k.shape[2] % 2 == 0
    fits = q.dtype in (jnp.bfloat16, jnp.float16) and q.shape[3] % 8 == 0 and q.shape[3] <= 128
    return jax.default_backend() == "gpu" and even and fits


def _bias(mask: Array | None) -> Array | None:
    """What a mask [B T M] adds to logits: float32. A sum is several times faster than a choice
    where it meets the maximum (XLA on a CPU); a row that is all masked has equal logits.
    """
    return None if mask is None else jnp.where(mask, 0.0, -1e30)


def _product(letters: str, a: Array, b: Array) -> Array:
    """An einsum in float32. A CPU's own half-precision products lack shapes (jax 0.12) or speed."""
    if jax.default_backend() == "cpu":
        a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    return jnp.einsum(letters, a, b, preferred_element_type=jnp.float32)


def _one_query(x: Array) -> bool:
    """Whether [B K 1 *] meets its matrices better in a sum: one row times a matrix takes as long as
    reading the matrix, and XLA on a CPU does that on all threads for a sum, on one for a product.
    """
    return x.shape[2] == 1 and jax.default_backend() == "cpu"


def _logits(q: Array, k: Array, bias: Array | None) -> Array:
    """[B K X M] in float32, of queries [B K X H] with X = (N / K) T and keys [B K M H], [K M H]."""
    scale = q.shape[-1] ** -0.5
    # Logits are more than queries, and XLA on a CPU would write the factor out for each of them. In
    # half precision the queries would be rounded once more.
    early = q.dtype == jnp.float32
    if early:
        q = q * scale
    if k.ndim == 3:
        logits = _product("BKXH,KMH->BKXM", q, k)
    elif _one_query(q) and jax.__version_info__ >= (0, 12):  # older: no vectors for such sums
        products = q.astype(jnp.float32) * k.astype(jnp.float32)
        # Behind a barrier, or it is computed again for each of its uses.
        logits = jax.lax.optimization_barrier(products.sum(axis=-1))[:, :, None]
    else:
        logits = _product("BKXH,BKMH->BKXM", q, k)
    if not early:
        logits = logits * scale
    if bias is None:
        return logits
    shape = logits.shape
    grouped = logits.reshape(*shape[:2], -1, *bias.shape[-2:])
    return (grouped + bias[:, None, None]).reshape(shape)


def _mix(weights: Array, v: Array) -> Array:
    """[B K X H] float32, of weights [B K X M] and values [B K M H] or [K M H]."""
    if v.ndim == 3:
        return _product("BKXM,KMH->BKXH", weights, v)
    if _one_query(weights):
        return (weights[:, :, 0, :, None] * v.astype(jnp.float32)).sum(axis=2)[:, :, None]
    return _product("BKXM,BKMH->BKXH", weights, v)


@jax.custom_vjp
def _attend(q: Array, k: Array, v: Array, bias: Array | None) -> Array:
    """Softmax attention of queries [B K X H], with its derivative by hand.

    The weights are divided by their sum after the product with the values, where there is less to
    divide; autodiff would make up for that in the backward pass with more passes over [B K X M].
    """
    return _attend_fwd(q, k, v, bias)[0]


def _attend_fwd(q, k, v, bias):
    logits = _logits(q, k, bias)
    weights = jnp.exp(logits - logits.max(axis=-1, keepdims=True))
    norm = 1 / weights.sum(axis=-1, keepdims=True)
    weights = weights.astype(v.dtype)
    mixed = (_mix(weights, v) * norm).astype(v.dtype)
    return mixed, (q, k, v, bias, weights, norm, mixed)


def _attend_bwd(residuals, d_mixed):
    q, k, v, bias, weights, norm, mixed = residuals
    scaled = d_mixed * norm
    mean = (mixed * scaled).sum(axis=-1, keepdims=True)
    scaled = scaled.astype(v.dtype)
    d_v = _turned(weights, scaled)
    d_logits, scale = _d_logits(weights, scaled, v, mean).astype(q.dtype), q.shape[-1] ** -0.5
    d_q = _product("BKXM,BKMH->BKXH", d_logits, k) * scale
    d_k = _turned(d_logits, q) * scale
    d_bias = None if bias is None else jnp.zeros_like(bias)
    return d_q.astype(q.dtype), d_k.astype(k.dtype), d_v.astype(v.dtype), d_bias


def _d_logits(weights: Array, scaled: Array, v: Array, mean: Array) -> Array:
    """weights * (d_weights - their mean) [B K X M], the weights not divided by their sum yet."""
    return weights * (_product("BKXH,BKMH->BKXM", scaled, v) - mean)


def _turned(weights: Array, x: Array) -> Array:
    """[B K M H] in float32, of weights [B K X M] and x [B K X H]."""
    if jax.default_backend() != "cpu":
        return _product("BKXM,BKXH->BKMH", weights, x)
    # XLA on a CPU has no fast product that sums over the rows of both: the smaller one is turned,
    # behind barriers, or XLA would turn it back.
    x = jax.lax.optimization_barrier(jnp.swapaxes(x, 2, 3))
    product = jax.lax.optimization_barrier(_product("BKHX,BKXM->BKHM", x, weights))
    return jnp.swapaxes(product, 2, 3)


_attend.defvjp(_attend_fwd, _attend_bwd)


def attend_learned(
    known: tuple[Array, Array, Array],
    own: tuple[Array, Array, Array],
    learned: Array,
    mask: Array,
    prefix: tuple[Array, Array] | None = None,
) -> Array:
    """`attend` where most inputs are known and only some have a gradient.

    No product is computed in the backward pass for the known ones: two of attention's six large
    products are left.

    Args:
        known: q [B N T H], k and v [B K T H] of all places; at the learned ones they do not count.
        own: q [B N S H], k and v [B K S H] of the learned places.
        learned: [B S], where those are.
        mask, prefix: of `attend`.

    Returns:
        [B N T H].
    """
    at = jnp.arange(len(learned))[:, None]
    q, k, v = (
        a.at[at, :, learned].set(jnp.einsum("BNSH->BSNH", jax.lax.stop_gradient(b)))
        for a, b in zip(known, own, strict=True)
    )
    rows, heads, length, dim = q.shape
    ahead = 0 if prefix is None else prefix[0].shape[1]
    if prefix is not None:
        k, v = (_behind(a, b) for a, b in zip(prefix, (k, v), strict=True))
        mask = jnp.pad(mask, ((0, 0), (0, 0), (ahead, 0)), constant_values=True)
    kv_heads = k.shape[1]
    groups = jnp.arange(heads // kv_heads)[:, None]
    queries = (groups * length + learned[:, None]).reshape(rows, -1)
    q, own_q = (a.reshape(rows, kv_heads, -1, dim) for a in (q, own[0]))
    mixed = _attend_learned((q, k, v, _bias(mask)), (own_q, *own[1:]), queries, learned + ahead)
    return mixed.reshape(rows, heads, length, dim)


@jax.custom_vjp
def _attend_learned(
    known: tuple[Array, Array, Array, Array],
    own: tuple[Array, Array, Array],
    queries: Array,
    keys: Array,
) -> Array:
    """`_attend` to what is known; the gradients are those of its rows `queries` [B (N/K)S] of
    queries and `keys` [B S] of keys and values, and go to `own`."""
    return _attend_fwd(*known)[0]


def _attend_learned_fwd(known, own, queries, keys):
    mixed, residuals = _attend_fwd(*known)
    return mixed, (residuals, queries, keys)


def _attend_learned_bwd(residuals, d_mixed):
    (q, k, v, _, weights, norm, mixed), queries, keys = residuals
    scale = q.shape[-1] ** -0.5
    scaled = d_mixed * norm
    mean = (mixed * scaled).sum(axis=-1, keepdims=True)
    scaled = scaled.astype(v.dtype)
    columns = jax.vmap(lambda row, at: row[..., at])(weights, keys)
    d_v = _turned(columns, scaled)
    d_k = _turned(_d_logits(columns, scaled, _rows(v, keys), mean).astype(q.dtype), q) * scale
    weights, scaled, mean = (_rows(a, queries) for a in (weights, scaled, mean))
    d_logits = _d_logits(weights, scaled, v, mean).astype(q.dtype)
    d_q = _product("BKXM,BKMH->BKXH", d_logits, k) * scale
    return None, (d_q.astype(q.dtype), d_k.astype(k.dtype), d_v.astype(v.dtype)), None, None


def _rows(x: Array, places: Array) -> Array:
    """[B K S *] of x [B K X *] at places [B S]."""
    return jax.vmap(lambda row, at: row[:, at])(x, places)


_attend_learned.defvjp(_attend_learned_fwd, _attend_learned_bwd)


def _attend_groups(q: Array, groups: Sequence[tuple[Array, Array, Array | None]]) -> Array:
    """`_attend` to groups of keys, values and biases; all rows read [K M H] as one matrix."""
    logits = [_logits(q, k, bias) for k, _, bias in groups]
    top = functools.reduce(jnp.maximum, [a.max(axis=-1, keepdims=True) for a in logits])
    weights = [jnp.exp(a - jax.lax.stop_gradient(top)) for a in logits]
    norm = functools.reduce(jnp.add, [w.sum(axis=-1, keepdims=True) for w in weights])
    values = [v for _, v, _ in groups]
    parts = [_mix(w.astype(v.dtype), v) for w, v in zip(weights, values, strict=True)]
    return (functools.reduce(jnp.add, parts) / norm).astype(values[0].dtype)
