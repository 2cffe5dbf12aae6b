"""Softmax cross-entropy over a whole table, in chunks, and on each device only for its positions.

All [T I] logits never exist. A table whose rows are split over devices stays so: each device
computes the logits of its rows, for the positions of the devices that share the table with it, and
the sums are put together. Else no position's state leaves its device.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from recjax.nn.backend import platform
from recjax.sharded import BATCH, Split, rows_of, table_axes
from recjax.training.cross_entropy_cpu import block_count, skip_weightless
from recjax.training.parallel import data_size
from recjax.typing import Array, check_shapes

SumWeight = tuple[Array, Array]
_CHUNK_ELEMENTS = 1 << 23  # logits held at a time: 32 MiB in float32


class _Static(NamedTuple):
    """The static arguments of `softmax_cross_entropy`."""

    chunk: int | None
    padded: bool
    budget: int | None
    mesh: Mesh | None
    rows: int  # of the table; those behind are no candidates
    split: Split | None


def softmax_cross_entropy(
    h: Array,
    table: Array,
    targets: Array,
    weights: Array,
    chunk: int | None = None,
    padded: bool = True,
    *,
    budget: int | None = None,
    mesh: Mesh | None = None,
    rows: int | None = None,
    name: str = "items",
    seen: tuple[Array, Array] | None = None,
) -> SumWeight:
    """Cross-entropy over the full catalogue, never holding all [T I] logits.

    Positions are taken `chunk` at a time; the gradient of a chunk is made in the forward pass,
    while its logits are at hand, so nothing is recomputed: three matrix products, as without
    chunks, and memory of chunk x I. A table that is not differentiated costs no gradient: two.

    The gradient is written by hand: `jax.grad` and what is made of it (a Hessian times a vector)
    are exact, `jax.jvp` of the loss itself is not possible.

    Args:
        h: [T D], split over the mesh's batch axes as rows of a batch are.
        table: [I D].
        targets: [T] rows of the table.
        weights: [T], 0 = the position does not count. Constants: they get no gradient.
        chunk: positions at a time on a device, at most; None picks up to about 32 MiB of logits.
        padded: row 0 of the table is padding, and no candidate.
        budget: positions that count, at most (static): only so many are computed. On n devices,
            each has 1/n of it. The sum is nan if there are more: none is left out silently.
        mesh: its devices compute the positions that they hold; None = one device.
        rows: of the table; those behind them are padding, and no candidates. By default all.
        name: the logical axis of the table's rows (`recjax.sharded`).
        seen: `(ids [T C], bias [])`: what the logits of these rows get, each id once a position;
            0 = none. Not for a table whose rows are split.
    """
    check_shapes("TD, ID, T, T", h=h, table=table, targets=targets, weights=weights)
    weights = jnp.asarray(weights, jnp.float32)
    seen = None if seen is None else (seen[0], jnp.asarray(seen[1], jnp.float32))
    shards = 1 if mesh is None else data_size(mesh)
    rest = -len(h) % shards
    if rest:  # positions that weigh nothing
        h, targets, weights, *ids = (
            jnp.pad(a, ((0, rest),) + ((0, 0),) * (a.ndim - 1))
            for a in (h, targets, weights, *(() if seen is None else seen[:1]))
        )
        seen = None if seen is None else (ids[0], seen[1])
    if budget is not None:
        budget = -(-budget // shards)
        budget = budget if budget < len(h) // shards else None
    axes = () if mesh is None else table_axes(len(table), name, mesh)
    split = Split(mesh, axes) if mesh is not None and axes else None
    if split is not None and seen is not None:
        raise ValueError("seen: expected a table that every device has whole")
    many = mesh is not None and (shards > 1 or split is not None)
    rows = len(table) if rows is None else rows
    static = _Static(chunk, padded, budget, mesh if many else None, rows, split)
    total, weight, left_out = _cross_entropy(h, jnp.asarray(table), targets, weights, seen, static)
    # A factor, so that the gradients are nan too.
    return total * jnp.where(left_out > 0, jnp.nan, 1.0), weight


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _cross_entropy(
    h: Array,
    table: Array,
    targets: Array,
    weights: Array,
    seen: tuple[Array, Array] | None,
    static: _Static,
) -> tuple[Array, Array, Array]:
    """(sum, weight, number of positions over the budget)."""
    return _on_devices(h, table, targets, weights, seen, static)[0]


def _fwd(h, table, targets, weights, seen, static):
    grads = h.perturbed, table.perturbed, seen is not None and seen[1].perturbed
    h, table, targets, weights = (a.value for a in (h, table, targets, weights))
    seen = None if seen is None else tuple(a.value for a in seen)
    return _on_devices(h, table, targets, weights, seen, static, grads)


def _bwd(static, residuals, cotangent):
    del static
    d_h, d_table, d_bias = (
        None if d is None else d * cotangent[0].astype(d.dtype) for d in residuals
    )
    return d_h, d_table, None, None, None if d_bias is None else (None, d_bias)


_cross_entropy.defvjp(_fwd, _bwd, symbolic_zeros=True)


def _on_devices(h, table, targets, weights, seen, static, grads=(False, False, False)):
    """`(sums, (d_h, d_table, d_bias))`: the gradients of `h`, of `table` and of the bias of `seen`
    where `grads` asks for them."""
    on_one = functools.partial(_on_one_device, static=static, grads=grads)
    d_bias = None
    if static.mesh is None:
        sums, d_h, d_table, d_bias = on_one(h, table, targets, weights, seen)
    elif static.split is not None:
        split, rows, of_table = static.split, PartitionSpec(BATCH), PartitionSpec(static.split.axes)

        def on_split(h, table, targets, weights):
            sums, d_h, d_table, _ = on_one(h, table, targets, weights, None)
            if d_table is not None and split.rest:
                d_table = jax.lax.psum(d_table, split.rest)
            return jax.lax.psum(sums, BATCH), d_table, d_h

        specs = (rows, of_table, rows, rows), (PartitionSpec(), of_table, rows)
        sums, d_table, d_h = jax.jit(split.map(on_split, *specs))(h, table, targets, weights)
    else:
        axes, tensor = BATCH, static.mesh.shape["tensor"]
        divides = tensor > 1 and len(table) % tensor == 0

        def on_shard(h, table, targets, weights, seen):
            if divides:  # the products, too: by rows of the table
                table = jax.lax.with_sharding_constraint(table, PartitionSpec("tensor"))
            sums, d_h, d_table, d_bias = on_one(h, table, targets, weights, seen)
            return *jax.lax.psum((sums, d_table, d_bias), axes), d_h

        rows, replicated = PartitionSpec(axes), PartitionSpec()
        over_mesh = jax.shard_map(
            on_shard,
            mesh=static.mesh,
            in_specs=(rows, replicated, rows, rows, None if seen is None else (rows, replicated)),
            out_specs=(replicated, replicated, replicated, rows),
            axis_names=set(axes),
            check_vma=False,  # nothing is differentiated through it
        )
        # Without `jit` JAX refuses an axis that it is to split by itself.
        sums, d_table, d_bias, d_h = jax.jit(over_mesh)(h, table, targets, weights, seen)
    d_table = None if d_table is None else d_table.astype(table.dtype)
    return sums, (d_h, d_table, d_bias)


def _on_one_device(h, table, targets, weights, seen, static, grads):
    """The sums, d_h, d_table (float32) and d_bias of the positions that count."""
    positions, left_out = len(h), jnp.int32(0)
    sparse = platform(h) == "cpu" and static.split is None
    budget = positions if static.budget is None and sparse else static.budget
    if budget is not None:
        # Places past the last one are out of range: they read as 0, and nothing is written there.
        counts = weights != 0
        left_out = jnp.maximum(jnp.sum(counts) - budget, 0)
        places = jnp.nonzero(counts, size=budget, fill_value=positions)[0]
        h, targets, weights = (
            jnp.asarray(a).at[places].get(mode="fill", fill_value=0) for a in (h, targets, weights)
        )
        if seen is not None:
            seen = seen[0].at[places].get(mode="fill", fill_value=0), seen[1]
    total, d_h, d_table, d_bias = _in_chunks(
        h, table, targets, weights, seen, static, grads, sparse
    )
    if budget is not None and d_h is not None:
        d_h = jnp.zeros((positions, h.shape[1]), h.dtype).at[places].set(d_h, mode="drop")
    return (total, jnp.sum(weights), left_out), d_h, d_table, d_bias


def _in_chunks(h, table, targets, weights, seen, static, grads, sparse):
    """The sum, d_h, d_table (float32) and d_bias, `static.chunk` positions at a time; where
    `sparse`, those that count come first, and blocks of others are left out."""
    positions, split = h.shape[0], static.split
    sharing = 1 if split is None else split.together
    chunk = static.chunk or max(1, _CHUNK_ELEMENTS // (len(table) * sharing))
    first = 0 if split is None else split.first(table)
    ids = first + jnp.arange(len(table))
    excluded = (ids >= static.rows) | (static.padded & (ids == 0))

    def gathered(x):
        return x if split is None else split.gather(x)

    def over_parts(x, reduce=jax.lax.psum):
        return x if split is None else reduce(x, split.axes)

    def own(x):
        return x if split is None else split.own(x)

    blocks = max(1, -(-positions // chunk))
    blocks = block_count(positions, blocks) if sparse else blocks
    # All alike: the last one would be padded to the others' size.
    chunk = max(1, -(-positions // blocks))
    pad = blocks * chunk - positions

    def in_blocks(x):
        x = jnp.pad(x, ((0, pad),) + ((0, 0),) * (x.ndim - 1))
        return x.reshape(blocks, chunk, *x.shape[1:])

    def body(carry, block):
        total, d_table, d_bias = carry
        h_c, target_c, weight_c = map(gathered, block[:3])
        logits = jnp.einsum("TD,ID->TI", h_c, table, preferred_element_type=jnp.float32)
        if seen is not None:
            (seen_c,) = block[3:]
            bias = jnp.where(seen_c > 0, seen[1], 0.0)
            logits = logits.at[jnp.arange(len(h_c))[:, None], seen_c].add(bias)
        logits = jnp.where(excluded, -jnp.inf, logits)
        top = over_parts(logits.max(axis=-1, keepdims=True), jax.lax.pmax)
        exp = jnp.exp(logits - top)
        norm = over_parts(exp.sum(axis=-1, keepdims=True))
        column = target_c - first
        is_local = (column >= 0) & (column < len(table))
        column = jnp.where(is_local, column, 0)
        target_logits = jnp.take_along_axis(logits, column[:, None], axis=-1)
        target_logits = over_parts(jnp.where(is_local[:, None], target_logits, 0.0))
        losses = (jnp.log(norm) + top - target_logits)[:, 0]
        losses = jnp.where(weight_c != 0, losses * weight_c, 0.0)
        # Gathered positions are summed on each of the devices that share them.
        total = total + jnp.sum(losses) / sharing
        if not any(grads):
            return (total, d_table, d_bias), None
        # d loss / d logits = weight * (softmax - one_hot(target)). The softmax is divided after its
        # products, where there is less to divide; the one-hot part is a gather and a scatter,
        # cheaper than a second pass over the logits.
        p, scale, d_h = exp.astype(h.dtype), weight_c[:, None] / norm, None
        wide = {"preferred_element_type": jnp.float32}
        if grads[0]:
            d_h = jnp.einsum("TI,ID->TD", p, table, **wide) * scale
            target_rows = jnp.where(is_local[:, None], table[column], 0)
            d_h = own(d_h - weight_c[:, None] * target_rows).astype(h.dtype)
        if grads[1]:
            scaled = (h_c * scale).astype(h.dtype)
            d_table = d_table + jnp.einsum("TI,TD->ID", p, scaled, **wide)
            row = jnp.where(is_local, column, len(table))
            d_table = d_table.at[row].add(-weight_c[:, None] * h_c, mode="drop")
        if grads[2]:
            shares = jnp.where(seen_c > 0, jnp.take_along_axis(exp, seen_c, axis=-1), 0.0)
            share = shares.sum(axis=-1) / norm[:, 0]
            has_target = ((seen_c == target_c[:, None]) & (seen_c > 0)).any(axis=-1)
            d_bias += jnp.sum(jnp.where(weight_c != 0, weight_c * (share - has_target), 0.0))
        return (total, d_table, d_bias), d_h

    empty = jnp.zeros(table.shape, jnp.float32) if grads[1] else None
    zero = jnp.zeros((), jnp.float32)
    start = (zero, empty, zero if grads[2] else None)
    blocked = (h, targets, weights, *(() if seen is None else seen[:1]))
    body = skip_weightless(body) if sparse and blocks > 1 else body
    (total, d_table, d_bias), d_h = jax.lax.scan(body, start, tuple(map(in_blocks, blocked)))
    if d_h is not None:
        d_h = d_h.reshape(blocks * chunk, -1)[:positions]
    return total, d_h, d_table, d_bias


def above_mean(
    h: Array, table: Array, targets: Array, n_items: int, seen: tuple[Array, Array] | None = None
) -> Array:
    """[T], by how much a target's logit is above the mean of all items'.

    Times e, and added to the cross-entropy, this is label smoothing by e:
    -(1 - e) log p_target - e mean_i log p_i = -log p_target + e (s_target - mean_i s_i).

    Args:
        h: [T D].
        table: [I D], and rows that are no items' behind them.
        targets: [T].
        n_items: I.
        seen: of a model with `repeats` (`recjax.models.recommender.Learned`).
    """
    mean = jnp.mean(table[1:n_items], axis=0)
    over = jnp.einsum(
        "TD,TD->T",
        h,
        rows_of(table, targets, "items") - mean[None],
        preferred_element_type=jnp.float32,
    )
    if seen is not None:
        ids, bias = seen
        share = (ids > 0).sum(axis=-1) / (n_items - 1)
        over += bias * ((ids == targets[:, None]).any(axis=-1) - share)
    return over
