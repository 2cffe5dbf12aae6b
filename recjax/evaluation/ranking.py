"""Ranks, top lists and the metrics made of them.

Ranking is streamed over the catalogue: [B, chunk] scores exist at a time, never [users, items].

Letters: B examples, C items of a chunk, k length of the lists, P seen pairs.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from recjax.typing import Array

# Two sums of the same products in another order differ by about this share of their size; scores
# closer than that are ties.
_ROUNDING = 1e-6


def ranks_of(scores: Array, targets: Array) -> Array:
    """Pessimistic ranks from explicit scores.

    rank = 1 + the number of other candidates that score at least as high as the target; a score
    that is NaN counts as higher.

    Args:
        scores: [B C].
        targets: [B] column of each target.

    Returns:
        [B] int32, 1 is best.
    """
    target = jnp.take_along_axis(scores, targets[:, None], axis=-1)
    others = jnp.arange(scores.shape[-1]) != targets[:, None]
    return 1 + jnp.sum(~(scores < target) & others, axis=-1, dtype=jnp.int32)


def rank_catalogue(
    h: Array,
    table: Array,
    targets: Array,
    seen: tuple[Array, Array],
    k: int,
    chunk: int = 16384,
) -> tuple[Array, Array]:
    """Rank of each target in the full catalogue, and the k best items.

    Ties are counted pessimistically: rank = 1 + number of items scoring at least as high as the
    target, itself excluded, where scores within float rounding (1e-6 of the sum of the absolute
    products) are equal: a model that scores all items alike gets the last rank, not the first.
    Item 0 (padding) takes no part.

    Args:
        h: [B D].
        table: [I D].
        targets: [B] item ids.
        seen: (rows [P], items [P]), pairs of an example and an item that takes no part in its
            ranking; its target does in any case. Pairs with item 0 change nothing.
        k: length of the lists.
        chunk: items scored at a time.

    Returns:
        `(ranks [B] int32, top [B k] int32)`; `top` is sorted by score and holds 0 where fewer than
        k items take part.
    """
    batch, n_items = h.shape[0], table.shape[0]
    chunk = min(max(chunk, k), n_items)
    products = h * table[targets]
    target_score = products.sum(-1)
    threshold = target_score - _ROUNDING * jnp.abs(products).sum(-1)
    rows = jnp.arange(batch)
    # Item 0 is seen by everybody.
    seen_rows = jnp.concatenate([rows, seen[0]])
    seen_items = jnp.concatenate([jnp.zeros(batch, jnp.int32), seen[1]])

    def body(carry, index):
        count, best, best_ids = carry
        # The last chunk is moved back inside the table; what was scored before does not count.
        start = jnp.minimum(index * chunk, n_items - chunk)
        first = index * chunk
        scores = jnp.einsum("BD,CD->BC", h, jax.lax.dynamic_slice_in_dim(table, start, chunk))
        ids = start + jnp.arange(chunk)
        inside = (seen_items >= first) & (seen_items < start + chunk)
        column = jnp.where(inside, seen_items - start, chunk)  # a scatter drops column `chunk`
        out = jnp.zeros((batch, chunk), bool).at[seen_rows, column].set(True, mode="drop")
        out |= ids < first
        scores = jnp.where(out, -jnp.inf, scores)
        is_target = (ids == targets[:, None]) & (ids >= first)
        scores = jnp.where(is_target, target_score[:, None], scores)
        # The target counts itself: that is the 1 of its rank.
        count += jnp.sum(~(scores < threshold[:, None]), axis=-1, dtype=jnp.int32)
        values, places = jax.lax.top_k(scores, min(k, chunk))
        values = jnp.concatenate([best, values], axis=-1)
        candidates = jnp.concatenate([best_ids, start + places], axis=-1)
        best, order = jax.lax.top_k(values, k)
        return (count, best, jnp.take_along_axis(candidates, order, axis=-1)), None

    nothing = (
        jnp.zeros(batch, jnp.int32),
        jnp.full((batch, k), -jnp.inf, h.dtype),
        jnp.zeros((batch, k), jnp.int32),
    )
    chunks = jnp.arange(-(-n_items // chunk))
    (count, best, best_ids), _ = jax.lax.scan(body, nothing, chunks)
    # Where the target's score is no number, all that was masked has counted too.
    return jnp.minimum(count, n_items - 1), jnp.where(best > -jnp.inf, best_ids, 0)


def marginal_relevance(
    h: Array, table: Array, top: Array, cutoffs: Sequence[int], balance: float = 0.5
) -> Array:
    """Maximal marginal relevance of lists (Carbonell and Goldstein, SIGIR 1998).

    The mean over the first k items i of `balance cos(h, e_i) - (1 - balance) max_j<i cos(e_i, e_j)`
    (the first item has no redundancy). Higher is more relevant and less redundant.

    Args:
        h: [B D].
        table: [I D].
        top: [B k].
        cutoffs: lengths of the lists.
        balance: lambda.

    Returns:
        [B, len(cutoffs)].
    """
    items = _unit(table[top])
    relevance = jnp.einsum("BD,BkD->Bk", _unit(h), items)
    alike = jnp.einsum("BiD,BjD->Bij", items, items)
    earlier = jnp.tril(jnp.ones(alike.shape[1:], bool), -1)
    redundancy = jnp.where(earlier, alike, -jnp.inf).max(-1).at[:, 0].set(0.0)
    gain = balance * relevance - (1 - balance) * redundancy
    return jnp.stack([gain[:, :k].mean(-1) for k in cutoffs], axis=-1)


def _unit(x: Array) -> Array:
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def rank_metrics(ranks: np.ndarray, cutoffs: Sequence[int]) -> dict[str, float]:
    """HR, NDCG and MRR at the cutoffs, for one target an example.

    With one target HR@k equals Recall@k, and the ideal DCG is 1.

    Args:
        ranks: [n], 1 is best.
        cutoffs: the k.
    """
    ranks = np.asarray(ranks, np.float64)
    out = {}
    for k in cutoffs:
        hit = ranks <= k
        out[f"hr@{k}"] = float(hit.mean())
        out[f"ndcg@{k}"] = float((hit / np.log2(ranks + 1)).mean())
        out[f"mrr@{k}"] = float((hit / ranks).mean())
    return out


def coverage(top: np.ndarray, n_items: int, cutoffs: Sequence[int]) -> dict[str, float]:
    """Share of the catalogue that appears in at least one list.

    Args:
        top: [n k] item ids, 0 = none.
        n_items: I, padding included.
        cutoffs: lengths of the lists.
    """
    out = {}
    for k in cutoffs:
        shown = np.unique(top[:, :k])
        out[f"coverage@{k}"] = int(np.count_nonzero(shown)) / (n_items - 1)
    return out
