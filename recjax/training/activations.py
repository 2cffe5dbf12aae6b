"""Memory of a step's activations, counted on traced functions."""

import math
import re
from collections import Counter
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import jaxpr_as_fun

from recjax.training.flops import inner, product_flops
from recjax.training.planned_step import PlannedStep
from recjax.training.token_loss import token_loss

_STACKED = re.compile("(layers|encoder)/")  # paths of parameters with a leading layer axis


def activation_bytes(
    step: PlannedStep, kept_all: PlannedStep, config: Any, rows: int, tensor: int
) -> int:
    """Bytes of a device's activations in training, at their largest: an estimate.

    The residuals, and what the backward pass works on at a time. That is a chunk of the loss's
    logits, or a layer: all that it would keep without recomputation and its parameters (XLA copies
    a layer's part of both out of those of all layers), and the result of its widest operation. A
    layer that is recomputed shares the terms of its activation with the derivative, so that they
    are written out: all that autodiff would keep of it.

    Args:
        step: of the model as it is.
        kept_all: of the same model without recomputation.
        config: the model's.
        rows: devices that split the rows.
        tensor: devices that split what is not of the model's width (heads, feed-forward).
    """
    residuals = _residual_bytes(step, config.dim, rows, tensor)
    layers = config.layers + getattr(config, "encoder_layers", 0)
    unrecomputed = (
        residuals if kept_all is step else _residual_bytes(kept_all, config.dim, rows, tensor)
    )
    stacked = sum(array_bytes(a) for path, a in step.params.items() if _STACKED.match(path))
    of_layer = math.ceil((unrecomputed + stacked / tensor) / layers)
    known = {(leaf.shape, leaf.dtype) for leaf in step.params.values()}

    def summed(*args: Any) -> Any:
        return step.hidden(*args).astype(jnp.float32).sum()

    inputs = (step.trained, step.frozen, *step.inputs)
    working = widest_bytes(jax.make_jaxpr(jax.grad(summed))(*inputs), known) / 2
    if kept_all is not step:
        working = max(working, _terms_bytes(jax.make_jaxpr(summed)(*inputs)))
    loss = _loss_bytes(step, rows, tensor, known)
    return residuals + max(loss, of_layer + math.ceil(working / (rows * tensor)))


def _terms_bytes(jaxpr: Any) -> int:
    """The most bytes that autodiff would keep of one activation with a derivative by hand.

    An activation is a function without products, whose inputs and result have one shape.
    """
    largest = 0
    for eqn in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        shapes = {v.aval.shape for v in (*eqn.invars, *eqn.outvars)}
        called = eqn.params.get("call_jaxpr")
        by_hand = eqn.primitive.name.startswith("custom_vjp_call")
        if by_hand and len(shapes) == 1 and not product_flops(called):
            function = jaxpr_as_fun(called)
            inputs = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in eqn.invars]
            kept = jax.eval_shape(lambda *a, function=function: jax.vjp(function, *a)[1], *inputs)
            largest = max(largest, sum(map(array_bytes, jax.tree.leaves(kept))))
        else:
            largest = max([largest, *(_terms_bytes(one) for one in inner(eqn))])
    return largest


def _loss_bytes(step: PlannedStep, rows: int, tensor: int, known: Collection[Any]) -> int:
    """Bytes of the widest operation in the loss of a device's rows; logits come in chunks."""
    states = jax.eval_shape(step.hidden, step.trained, step.frozen, *step.inputs)
    table = jax.eval_shape(lambda p: step.definition.merge(p).head_table(), step.params)
    shape = (states.shape[0] // rows, *states.shape[1:])
    part = (-(-table.shape[0] // tensor), table.shape[1])
    arrays = (
        jax.ShapeDtypeStruct(shape, states.dtype), jax.ShapeDtypeStruct(part, table.dtype),
        jax.ShapeDtypeStruct(shape[:2], jnp.int32),
    )  # fmt: skip
    gradient = jax.grad(lambda h, table, labels: token_loss(h, table, labels)[0])
    return widest_bytes(jax.make_jaxpr(gradient)(*arrays), {*known, (part, table.dtype)})


def _residual_bytes(step: PlannedStep, dim: int, rows: int, tensor: int) -> int:
    """Bytes of a device's residuals, without parameters: those are told by shape and dtype."""
    loss = step.loss()
    inputs = (step.trained, step.frozen, *step.inputs)
    residuals = jax.eval_shape(lambda t, *rest: jax.vjp(lambda p: loss(p, *rest), t)[1], *inputs)
    known = Counter((leaf.shape, jnp.dtype(leaf.dtype)) for leaf in step.params.values())
    total = 0
    for leaf in jax.tree.leaves(residuals):
        kind = (leaf.shape, jnp.dtype(leaf.dtype))
        if known[kind]:
            known[kind] -= 1
            continue
        wide = leaf.ndim > 1 and leaf.shape[-1] not in (dim, 1)
        total += math.ceil(array_bytes(leaf) / (rows * (tensor if wide else 1)))
    return total


def widest_bytes(jaxpr: Any, known: Collection[Any]) -> int:
    """Bytes of the widest operation of a traced function: its largest input and its result.

    XLA fuses what is done element by element, so a third array is seldom there.

    Args:
        jaxpr: of `jax.make_jaxpr`.
        known: (shape, dtype) of arrays that are counted elsewhere.
    """

    def largest(variables: Any) -> int:
        kinds = [v.aval for v in variables if hasattr(v.aval, "dtype")]
        counted = [
            a for a in kinds if (a.shape, a.dtype) not in known and a.dtype != jax.dtypes.float0
        ]
        return max(map(array_bytes, counted), default=0)

    widest = 0
    for eqn in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        jaxprs = list(inner(eqn))
        if jaxprs:
            widest = max(widest, *(widest_bytes(one, known) for one in jaxprs))
        else:
            widest = max(widest, largest(eqn.invars) + largest(eqn.outvars))
    return widest


def array_bytes(a: Any) -> int:
    """Bytes of an abstract array."""
    return math.prod(a.shape) * jnp.dtype(a.dtype).itemsize
