"""Ranks, top lists and the metrics made of them.

Ranking is streamed over the catalogue: [B, chunk] scores exist at a time, never [users, items].

Letters: B examples, C items of a chunk, k length of the lists, P seen pairs.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from recjax.data.ragged import row_numbers, row_positions
from recjax.data.splits import Spans
from recjax.sharded import Split, rows_of
from recjax.typing import Array, check_shapes

# Two sums of the same products in another order differ by about this share of their size; scores
# closer than that are ties.
_ROUNDING = 1e-6
# Of products that scores are made of: GPUs and TPUs round the factors else (to TF32, bfloat16), and
# a target's own score, which is summed apart, would differ from those of its equals.
EXACT = jax.lax.Precision.HIGHEST


def wide(x: Array) -> Array:
    """Vectors in float32 at least: sums in 16 bits make ties, and break them."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def least_tie(products: Array) -> Array:
    """The least score [B] that is a tie with the sum of a target's products [B D]."""
    own = products.sum(-1)
    return jnp.where(jnp.isinf(own), own, own - _ROUNDING * jnp.abs(products).sum(-1))


def ranks_of(scores: Array, targets: Array, least: Array | None = None) -> Array:
    """Pessimistic ranks from explicit scores.

    rank = 1 + the number of other candidates that score at least as high as the target; a score
    that is NaN counts as higher.

    Args:
        scores: [B C].
        targets: [B] column of each target.
        least: [B] scores from which on others count (`least_tie`); None = the targets' own.

    Returns:
        [B] int32, 1 is best.
    """
    check_shapes("BC, B", scores=scores, targets=targets)
    if least is None:
        least = jnp.take_along_axis(scores, targets[:, None], axis=-1)[:, 0]
    others = jnp.arange(scores.shape[-1])[None] != targets[:, None]
    return 1 + jnp.sum(~(scores < least[:, None]) & others, axis=-1, dtype=jnp.int32)


def seen_pairs(items: np.ndarray, spans: Spans, parts: int) -> np.ndarray:
    """Pairs [2 P] int32 of an example and an item of its whole history, for `rank_catalogue`.

    P is a power of two in each part, so that few shapes are compiled; pairs of item 0 fill up.

    Args:
        items: flat item ids.
        spans: histories `items[start:stop]`.
        parts: equal parts of the examples, which are numbered within each.
    """
    lengths = (spans.stops - spans.starts).reshape(parts, -1)
    starts, largest = spans.starts.reshape(parts, -1), int(lengths.sum(axis=1).max())
    pairs = np.zeros((2, parts, 1 << (largest - 1).bit_length()), np.int32)
    for part, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        places = np.repeat(start, length) + row_positions(length)
        pairs[:, part, : len(places)] = row_numbers(length), items[places]
    return pairs.reshape(2, -1)


def _stream(
    h: Array,
    table: Array | None,
    seen: tuple[Array, Array],
    k: int,
    chunk: int,
    allowed: Array | None = None,
    targets: Array | None = None,
    vectors: Array | None = None,
    items: int | None = None,
    origin: Array | int = 0,
) -> tuple[Array, Array, Array | None]:
    """The pass over the catalogue that `rank_catalogue` and `top_items` make.

    Args:
        h, table, seen, k, chunk, allowed: see `top_items`.
        targets: [B]; they take part in any case.
        vectors: [B D] of the targets.
        items: I of the whole catalogue.
        origin: number of the table's first row in the whole catalogue.

    Returns:
        `(ids [B k], scores [B k], counts [B])`: how many items score at least as high as the
        target, itself among them; None without targets.
    """
    batch, n_items = h.shape[0], h.shape[1] if table is None else table.shape[0]
    chunk = min(max(chunk, k), n_items)
    items = n_items if items is None else items
    h = h if table is None and jnp.issubdtype(h.dtype, jnp.floating) else wide(h)
    if targets is not None:
        products = h[jnp.arange(batch), targets][:, None] if vectors is None else h * vectors
        threshold = least_tie(products)
        targets = targets - origin
    rows = jnp.arange(batch)
    # Item 0 is seen by everybody.
    seen_rows = jnp.concatenate([rows, seen[0]])
    seen_items = jnp.concatenate([jnp.zeros(batch, jnp.int32), seen[1]]) - origin

    def body(carry, index):
        count, best, best_ids = carry
        # The last chunk is moved back inside the table; what was scored before does not count.
        start = jnp.minimum(index * chunk, n_items - chunk)
        first = index * chunk
        if table is None:
            scores = jax.lax.dynamic_slice_in_dim(h, start, chunk, axis=1)
        else:
            table_rows = jax.lax.dynamic_slice_in_dim(table, start, chunk)
            scores = jnp.einsum("BD,CD->BC", h, table_rows, precision=EXACT)
        ids = (start + jnp.arange(chunk, dtype=jnp.int32))[None]
        inside = (seen_items >= first) & (seen_items < start + chunk)
        column = jnp.where(inside, seen_items - start, chunk)  # a scatter drops column `chunk`
        excluded = jnp.zeros((batch, chunk), bool).at[seen_rows, column].set(True, mode="drop")
        excluded |= (ids < first) | (ids + origin >= items)
        if allowed is not None:
            excluded |= jnp.logical_not(jax.lax.dynamic_slice_in_dim(allowed, start, chunk))[None]
        if targets is None:
            scores = jnp.where(excluded, -jnp.inf, scores)
        else:
            is_target = (ids == targets[:, None]) & (ids >= first)
            scores = jnp.where(excluded & ~is_target, -jnp.inf, scores)
            # The target counts itself: that is the 1 of its rank. Where its score is no number,
            # all that was left out counts too.
            counts = ~(scores < threshold[:, None]) | is_target
            count += jnp.sum(counts, axis=-1, dtype=jnp.int32)
        values, places = jax.lax.top_k(scores, min(k, chunk))
        values = jnp.concatenate([best, values], axis=-1)
        candidates = jnp.concatenate([best_ids, start + places], axis=-1)
        best, order = jax.lax.top_k(values, k)
        return (count, best, jnp.take_along_axis(candidates, order, axis=-1)), None

    start_values = (
        None if targets is None else jnp.zeros(batch, jnp.int32),
        jnp.full((batch, k), -jnp.inf, h.dtype if table is None else jnp.result_type(h, table)),
        jnp.zeros((batch, k), jnp.int32),
    )
    chunks = jnp.arange(-(-n_items // chunk), dtype=jnp.int32)
    (count, best, best_ids), _ = jax.lax.scan(body, start_values, chunks)
    return jnp.where(best > -jnp.inf, best_ids + origin, 0), best, count


def _over_parts(
    h: Array,
    table: Any,
    seen: tuple[Array, Array],
    k: int,
    chunk: int,
    split: Split,
    **options: Any,
) -> tuple[Array, Array, Array | None]:
    """`_stream` inside `split.map`: each device gets the results of its own examples, over the
    parts of the table on all devices."""
    batch = len(h)
    number = jax.lax.axis_index(split.gathered) if split.gathered else 0
    # The devices that share the table work on each other's examples, which are numbered anew.
    seen = split.gather(seen[0] + number * batch), split.gather(seen[1])
    for name in ("targets", "vectors"):
        options[name] = None if options.get(name) is None else split.gather(options[name])
    top, scores, count = _stream(
        split.gather(h), table, seen, k, chunk, origin=split.first(table), **options
    )

    def all_parts(x: Array) -> Array:
        return jax.lax.all_gather(x, split.axes, axis=1, tiled=True)

    def own_rows(x: Array) -> Array:
        return jax.lax.dynamic_slice_in_dim(x, number * batch, batch)

    scores, order = jax.lax.top_k(all_parts(scores), k)
    top = jnp.take_along_axis(all_parts(top), order, axis=-1)
    top = jnp.where(scores > -jnp.inf, top, 0)
    if count is not None:
        count = own_rows(jax.lax.psum(count, split.axes))
    return own_rows(top), own_rows(scores), count


def _check_arrays(
    h: Array,
    table: Array | None,
    seen: tuple[Array, Array],
    targets: Array | None = None,
    allowed: Array | None = None,
) -> None:
    check_shapes(
        f"{'BI' if table is None else 'BD'}, ID, P, P, B, I",
        h=h,
        table=table,
        seen_rows=seen[0],
        seen_items=seen[1],
        targets=targets,
        allowed=allowed,
    )


def rank_catalogue(
    h: Array,
    table: Array | None,
    targets: Array,
    seen: tuple[Array, Array],
    k: int,
    chunk: int = 16384,
    *,
    items: int | None = None,
    split: Split | None = None,
    vectors: Array | None = None,
) -> tuple[Array, Array]:
    """Rank of each target in the full catalogue, and the k best items.

    Ties are counted pessimistically: rank = 1 + number of items scoring at least as high as the
    target, itself excluded, where scores within float rounding (1e-6 of the sum of the absolute
    products) are equal: a model that scores all items alike gets the last rank, not the first.
    Products are in float32 (or wider, as the arrays are) on every device.
    Item 0 (padding) takes no part.

    Args:
        h: [B D].
        table: [I D]; None = `h` are the scores [B I].
        targets: [B] item ids; one that is no item of the catalogue has the last rank.
        seen: (rows [P], items [P]), pairs of an example and an item that takes no part in its
            ranking; its target does in any case. Pairs with item 0 change nothing.
        k: length of the lists.
        chunk: items scored at a time.
        items: I, where rows stand behind the table's items; they take no part.
        split: inside of `split.map`, where the table is this device's part; then also `vectors`.
        vectors: [B D] of the targets; by default they are looked up.

    Returns:
        `(ranks [B] int32, top [B k] int32)`; `top` is sorted by score and holds 0 where fewer than
        k items take part.
    """
    _check_arrays(h, table, seen, targets=targets)
    items = (h.shape[1] if table is None else table.shape[0]) if items is None else items
    stream = _stream if split is None else functools.partial(_over_parts, split=split)
    if vectors is None and table is not None:
        vectors = table[targets]
    top, _, count = stream(h, table, seen, k, chunk, targets=targets, vectors=vectors, items=items)
    assert count is not None
    # Where the target's score is no number, all that was masked has counted too.
    known = (targets > 0) & (targets < items)
    return jnp.where(known, jnp.minimum(count, items - 1), items - 1), top


def top_items(
    h: Array,
    table: Array | None,
    seen: tuple[Array, Array],
    k: int,
    chunk: int = 16384,
    allowed: Array | None = None,
    *,
    items: int | None = None,
    split: Split | None = None,
) -> tuple[Array, Array]:
    """The k best items and their scores: the lists of `rank_catalogue`, where there is no target.

    Args:
        h: [B D].
        table: [I D]; None = `h` are the scores [B I].
        seen: (rows [P], items [P]), pairs that take no part; see `rank_catalogue`.
        k: length of the lists.
        chunk: items scored at a time.
        allowed: [I] bool, the items that take part; None = all. Item 0 never does.
        items, split: see `rank_catalogue`; `allowed` is split like the table.

    Returns:
        `(top [B k] int32, scores [B k])`, best first; 0 and -inf where fewer than k items take
        part. Of scores that are no numbers the items are 0.
    """
    _check_arrays(h, table, seen, allowed=allowed)
    stream = _stream if split is None else functools.partial(_over_parts, split=split)
    top, scores, _ = stream(h, table, seen, k, chunk, allowed=allowed, items=items)
    return top, scores


def marginal_relevance(
    h: Array, table: Array, top: Array, cutoffs: Sequence[int], balance: float = 0.5
) -> Array:
    """Maximal marginal relevance of lists (Carbonell and Goldstein, SIGIR 1998).

    The mean over the first k items i of `balance cos(h, e_i) - (1 - balance) max_j<i cos(e_i, e_j)`
    (the first item has no redundancy). Higher is more relevant and less redundant. A list of fewer
    items has the mean over those.

    Args:
        h: [B D].
        table: [I D].
        top: [B k] item ids, 0 = none, behind all others.
        cutoffs: lengths of the lists.
        balance: lambda.

    Returns:
        [B, len(cutoffs)].
    """
    check_shapes("BD, ID, Bk", h=h, table=table, top=top)
    items = _unit(rows_of(table, top, "items"))
    relevance = jnp.einsum("BD,BkD->Bk", _unit(h), items, precision=EXACT)
    alike = jnp.einsum("BiD,BjD->Bij", items, items, precision=EXACT)
    places = jnp.arange(alike.shape[-1])
    earlier = (places[None, :] < places[:, None])[None]
    redundancy = jnp.where(earlier, alike, -jnp.inf).max(-1).at[:, 0].set(0.0)
    gain = jnp.where(top > 0, balance * relevance - (1 - balance) * redundancy, 0.0)
    shown = [jnp.maximum((top[:, :k] > 0).sum(-1), 1) for k in cutoffs]
    means = [gain[:, :k].sum(-1) / n for k, n in zip(cutoffs, shown, strict=True)]
    return jnp.stack(means, axis=-1)


def _unit(x: Array) -> Array:
    x = wide(x)
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def rank_values(ranks: np.ndarray, cutoffs: Sequence[int]) -> dict[str, np.ndarray]:
    """Each example's HR, recall, NDCG and MRR at the cutoffs, and its MRR over the whole list.

    With one target an example, recall@k is HR@k, and the ideal DCG is 1. `mrr` is 1 / rank, however
    far down the target stands.

    Args:
        ranks: [n], 1 is best.
        cutoffs: the k.

    Returns:
        [n] float64 by name: `hr@1`, `recall@1`, `ndcg@1`, `mrr@1`, ..., `mrr`.
    """
    ranks = np.asarray(ranks, np.float64)
    out = {}
    for k in cutoffs:
        hit = (ranks <= k).astype(np.float64)
        out[f"hr@{k}"] = out[f"recall@{k}"] = hit
        out[f"ndcg@{k}"] = hit / np.log2(ranks + 1)
        out[f"mrr@{k}"] = hit / ranks
    out["mrr"] = 1 / ranks
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
        shown = np.unique(np.asarray(top)[:, :k])
        out[f"coverage@{k}"] = int(np.count_nonzero(shown)) / (n_items - 1)
    return out
