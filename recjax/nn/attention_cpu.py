"""`recjax.nn.attention.attend` in the order that XLA is fast with on a CPU: the same numbers.

Softmax is divided by its sum last, its derivative is written by hand, one query is a sum instead of
a product, and where only some inputs are learned, the backward pass computes those alone.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from recjax.nn.cache import behind
from recjax.typing import Array


def attend(
    q: Array, k: Array, v: Array, mask: Array | None, prefix: tuple[Array, ...] | None = None
) -> Array:
    """See `recjax.nn.attention.attend`; a `prefix` is read as one matrix by all of its rows."""
    rows, heads, length, dim = q.shape
    # The query heads of a group are more queries of its key head: plain batched products.
    q = q.reshape(rows, k.shape[1], -1, dim)
    if prefix is None:
        mixed = _attend(q, k, v, _bias(mask))
    else:
        seen = _bias(prefix[2][:, None]) if len(prefix) == 3 else None
        mixed = _attend_groups(q, [(prefix[0], prefix[1], seen), (k, v, _bias(mask))])
    return mixed.reshape(rows, heads, length, dim)


def attend_learned(
    known: tuple[Array, Array, Array],
    own: tuple[Array, Array, Array],
    learned: Array,
    mask: Array | None,
    prefix: tuple[Array, Array] | None = None,
) -> Array:
    """`attend` where most inputs are known and only some have a gradient.

    No product is computed in the backward pass for the known ones: two of attention's six large
    products are left.

    Args:
        known: q [B N T H], k and v [B K T H] of all places; at the learned ones they do not count.
        own: q [B N S H], k and v [B K S H] of the learned places.
        learned: [B S], where those are.
        mask, prefix: of `recjax.nn.attention.attend`.

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
        k, v, mask = behind(prefix, k, v, mask)
    kv_heads = k.shape[1]
    groups = jnp.arange(heads // kv_heads)[:, None]
    queries = (groups * length + learned[:, None]).reshape(rows, -1)
    q, own_q = (a.reshape(rows, kv_heads, -1, dim) for a in (q, own[0]))
    mixed = _attend_learned((q, k, v, _bias(mask)), (own_q, *own[1:]), queries, learned + ahead)
    return mixed.reshape(rows, heads, length, dim)


def _bias(mask: Array | None) -> Array | None:
    """The mask [B T M] as a float32 term of the logits; a row that is all masked has equal logits.

    XLA fuses a sum into the maximum that follows, several times faster than a `where`.
    """
    return None if mask is None else jnp.where(mask, 0.0, -1e30)


def _product(letters: str, a: Array, b: Array) -> Array:
    """An einsum in float32. A CPU's own half-precision products lack shapes (jax 0.12) or speed."""
    return jnp.einsum(letters, a.astype(jnp.float32), b.astype(jnp.float32))


def _one_query(x: Array) -> bool:
    """Whether x [B K X *] is one query. Its products are then faster as sums: they take as long as
    reading the matrix, which XLA does on all threads for a sum, on one for a product."""
    return x.shape[2] == 1


def _logits(q: Array, k: Array, bias: Array | None) -> Array:
    """[B K X M] float32, from queries [B K X H], X = (N / K) T, and keys [B K M H] or [K M H]."""
    scale = q.shape[-1] ** -0.5
    # Logits are more than queries, and XLA would write the factor out for each of them. In
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
    """[B K X H] float32, from weights [B K X M] and values [B K M H] or [K M H]."""
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
    """[B K M H] float32, from weights [B K X M] and x [B K X H]."""
    # XLA has no fast product that sums over the rows of both: the smaller one is turned, behind
    # barriers, or XLA would turn it back.
    x = jax.lax.optimization_barrier(jnp.swapaxes(x, 2, 3))
    product = jax.lax.optimization_barrier(_product("BKHX,BKXM->BKHM", x, weights))
    return jnp.swapaxes(product, 2, 3)


_attend.defvjp(_attend_fwd, _attend_bwd)


@jax.custom_vjp
def _attend_learned(
    known: tuple[Array, Array, Array, Array],
    own: tuple[Array, Array, Array],
    queries: Array,
    keys: Array,
) -> Array:
    """`_attend` of the `known` arrays. Gradients are computed for the rows `queries` [B (N/K)S] of
    the queries and `keys` [B S] of keys and values alone, and go to `own`."""
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


def _together(x: Array, like: Array) -> Array:
    """Queries [B K X *] that share the matrices `like` ([B K M H], [G K M H] or [K M H]), joined:
    the B / G rows of a group become one row with more queries, [G K (B/G)X *]."""
    if like.ndim == 3 or len(like) == len(x):
        return x
    apart = x.reshape(len(like), -1, *x.shape[1:])
    return jnp.einsum("GBKXH->GKBXH", apart).reshape(*like.shape[:2], -1, x.shape[-1])


def _apart(x: Array, rows: int) -> Array:
    """Undoes `_together`: [G K (B/G)X *] -> [B K X *]."""
    if len(x) == rows:
        return x
    apart = x.reshape(*x.shape[:2], rows // len(x), -1, x.shape[-1])
    return jnp.einsum("GKBXH->GBKXH", apart).reshape(rows, x.shape[1], -1, x.shape[-1])


def _attend_groups(q: Array, groups: Sequence[tuple[Array, Array, Array | None]]) -> Array:
    """`_attend` to several groups of keys, values and biases; shared ones are one matrix."""
    rows = len(q)
    logits = [_apart(_logits(_together(q, k), k, bias), rows) for k, _, bias in groups]
    top = functools.reduce(jnp.maximum, [a.max(axis=-1, keepdims=True) for a in logits])
    weights = [jnp.exp(a - jax.lax.stop_gradient(top)) for a in logits]
    norm = functools.reduce(jnp.add, [w.sum(axis=-1, keepdims=True) for w in weights])
    values = [v for _, v, _ in groups]
    parts = [
        _apart(_mix(_together(w.astype(v.dtype), v), v), rows)
        for w, v in zip(weights, values, strict=True)
    ]
    return (functools.reduce(jnp.add, parts) / norm).astype(values[0].dtype)
