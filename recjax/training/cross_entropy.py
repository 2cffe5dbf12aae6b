"""Softmax cross-entropy over a whole table, in chunks, and on each device only for its positions.

All [T I] logits never exist, and no position's state leaves its device.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from recjax.training.parallel import RULES, data_size
from recjax.typing import Array

SumWeight = tuple[Array, Array]
_CHUNK_ELEMENTS = 1 << 23  # logits held at a time: 32 MiB in float32


class _How(NamedTuple):
    """The static arguments of `softmax_cross_entropy`."""

    chunk: int | None
    padded: bool
    budget: int | None
    mesh: Mesh | None


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
) -> SumWeight:
    """Cross-entropy over the full catalogue, never holding all [T I] logits.

    Positions are taken `chunk` at a time; the gradient of a chunk is made in the forward pass,
    while its logits are at hand, so nothing is recomputed: three matrix products, as without
    chunks, and memory of chunk x I. A table that is not differentiated costs no gradient: two.

    Args:
        h: [T D], split over the mesh's batch axes as rows of a batch are.
        table: [I D].
        targets: [T] rows of the table.
        weights: [T], 0 = the position does not count.
        chunk: positions at a time on a device, at most; None picks up to about 32 MiB of logits.
        padded: row 0 of the table is padding, and no candidate.
        budget: positions that count, at most (static): only so many are computed. On n devices,
            each has 1/n of it. The sum is nan if there are more: none is left out silently.
        mesh: its devices compute the positions that they hold; None = one device.
    """
    shards = 1 if mesh is None else data_size(mesh)
    rest = -len(h) % shards
    if rest:  # positions that weigh nothing
        h, targets, weights = (
            jnp.pad(a, ((0, rest),) + ((0, 0),) * (a.ndim - 1)) for a in (h, targets, weights)
        )
    if budget is not None:
        budget = -(-budget // shards)
        budget = budget if budget < len(h) // shards else None
    how = _How(chunk, padded, budget, None if shards == 1 else mesh)
    total, weight, left_out = _cross_entropy(h, jnp.asarray(table), targets, weights, how)
    # A factor, so that the gradients are nan too.
    return total * jnp.where(left_out > 0, jnp.nan, 1.0), weight


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _cross_entropy(
    h: Array, table: Array, targets: Array, weights: Array, how: _How
) -> tuple[Array, Array, Array]:
    """(sum, weight, number of positions over the budget)."""
    return _on_devices(h, table, targets, weights, how)[0]


def _fwd(h, table, targets, weights, how):
    asked = h.perturbed, table.perturbed
    h, table, targets, weights = (a.value for a in (h, table, targets, weights))
    return _on_devices(h, table, targets, weights, how, asked)


def _bwd(how, residuals, cotangent):
    del how
    d_h, d_table = (None if d is None else d * cotangent[0].astype(d.dtype) for d in residuals)
    return d_h, d_table, None, None


_cross_entropy.defvjp(_fwd, _bwd, symbolic_zeros=True)


def _on_devices(h, table, targets, weights, how, grads=(False, False)):
    """The sums, and the gradients of `h` and of `table` where `grads` asks for them."""
    one = functools.partial(_on_one_device, how=how, grads=grads)
    if how.mesh is None:
        sums, d_h, d_table = one(h, table, targets, weights)
    else:
        axes, tensor = RULES["batch"], how.mesh.shape["tensor"]
        split = tensor > 1 and len(table) % tensor == 0

        def shard(h, table, targets, weights):
            if split:  # the products, too: by rows of the table
                table = jax.lax.with_sharding_constraint(table, PartitionSpec("tensor"))
            sums, d_h, d_table = one(h, table, targets, weights)
            return *jax.lax.psum((sums, d_table), axes), d_h

        rows, whole = PartitionSpec(axes), PartitionSpec()
        over_mesh = jax.shard_map(
            shard,
            mesh=how.mesh,
            in_specs=(rows, whole, rows, rows),
            out_specs=(whole, whole, rows),
            axis_names=set(axes),
            check_vma=False,  # nothing is differentiated through it
        )
        # Without `jit` JAX refuses an axis that it is to split by itself.
        sums, d_table, d_h = jax.jit(over_mesh)(h, table, targets, weights)
    return sums, (d_h, None if d_table is None else d_table.astype(table.dtype))


def _on_one_device(h, table, targets, weights, how, grads):
    """The sums, d_h and d_table (float32) of the positions that count."""
    positions, left_out = len(h), jnp.int32(0)
    if how.budget is not None:
        # Places past the last one are out of range: they read as 0, and nothing is written there.
        counts = weights > 0
        left_out = jnp.maximum(jnp.sum(counts) - how.budget, 0)
        places = jnp.nonzero(counts, size=how.budget, fill_value=positions)[0]
        h, targets, weights = (
            a.at[places].get(mode="fill", fill_value=0) for a in (h, targets, weights)
        )
    total, d_h, d_table = _in_chunks(h, table, targets, weights, how, grads)
    if how.budget is not None and d_h is not None:
        d_h = jnp.zeros((positions, h.shape[1]), h.dtype).at[places].set(d_h, mode="drop")
    return (total, jnp.sum(weights), left_out), d_h, d_table


def _in_chunks(h, table, targets, weights, how, grads):
    """The sum, d_h and d_table (float32), `how.chunk` positions at a time."""
    positions, n_items = h.shape[0], table.shape[0]
    chunk = how.chunk or max(1, _CHUNK_ELEMENTS // n_items)
    blocks = -(-positions // chunk)
    chunk = -(-positions // blocks)  # all alike: the last one would be padded to the others' size
    pad = blocks * chunk - positions

    def split(x):
        x = jnp.pad(x, ((0, pad),) + ((0, 0),) * (x.ndim - 1))
        return x.reshape(blocks, chunk, *x.shape[1:])

    def body(carry, block):
        total, d_table = carry
        h_c, target_c, weight_c = block
        logits = jnp.einsum("TD,ID->TI", h_c, table, preferred_element_type=jnp.float32)
        if how.padded:
            logits = logits.at[:, 0].set(-jnp.inf)
        top = jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True))
        exp = jnp.exp(logits - top)
        norm = exp.sum(axis=-1, keepdims=True)
        chosen = jnp.take_along_axis(logits, target_c[:, None], axis=-1)
        losses = (jnp.log(norm) + top - chosen)[:, 0]
        total = total + jnp.sum(jnp.where(weight_c > 0, losses * weight_c, 0.0))
        if not any(grads):
            return (total, d_table), None
        # d loss / d logits = weight * (softmax - one_hot(target)). The softmax is divided after its
        # products, where there is less to divide; the one-hot part is a gather and a scatter,
        # cheaper than a second pass over the logits.
        p, scale, d_h = exp.astype(h.dtype), weight_c[:, None] / norm, None
        wide = {"preferred_element_type": jnp.float32}
        if grads[0]:
            d_h = jnp.einsum("TI,ID->TD", p, table, **wide) * scale
            d_h = (d_h - weight_c[:, None] * table[target_c]).astype(h.dtype)
        if grads[1]:
            scaled = (h_c * scale).astype(h.dtype)
            d_table = d_table + jnp.einsum("TI,TD->ID", p, scaled, **wide)
            d_table = d_table.at[target_c].add(-weight_c[:, None] * h_c)
        return (total, d_table), d_h

    empty = jnp.zeros(table.shape, jnp.float32) if grads[1] else None
    start = (jnp.zeros((), jnp.float32), empty)
    (total, d_table), d_h = jax.lax.scan(body, start, (split(h), split(targets), split(weights)))
    if d_h is not None:
        d_h = d_h.reshape(blocks * chunk, -1)[:positions]
    return total, d_h, d_table
