"""The training step: one for everything that trains."""

import functools
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import optax

from recjax.training.state import TrainState, trained_of
from recjax.typing import Array, Params

# (params, batch, data, key) -> (sum, weight) of the loss; arrays of several losses' [N] each, of
# which a step adds the means.
LossFn = Callable[[Params, Any, Any, Array], tuple[Array, Array]]
# (params, batch, data, key) -> the batch that all updates of a step learn from.
DrawFn = Callable[[Params, Any, Any, Array], Any]


def make_steps(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    trained: Collection[str] | None = None,
    *,
    parts: int = 1,
    dtype: str = "float32",
    drawn: DrawFn | None = None,
    updates: int = 1,
):
    """Many training steps in one call.

    Small models finish a step faster than the host can start one, so a call scans over K batches.
    The state is donated. Step s uses the key `fold_in(key, s)`: a resumed run draws what the
    uninterrupted one drew.

    Args:
        loss_fn: `(params, batch, data, key) -> (sum, weight)`, or [N] sums and weights, of which
            the means are added.
        optimizer: the update rule.
        trained: paths of the trained parameters; None = all. The others stay, and cost no gradient.
        parts: of a batch's rows, which a step takes one after the other; it adds their gradients.
            They divide the rows, and each has every `parts`-th row.
        dtype: that the loss is computed in: of the float32 parameters it gets copies of that type.
            Gradients, updates and the state stay as they are.
        drawn: what a step draws from its first parameters, without a gradient. None: the batch.
        updates: of the parameters in a step, one after the other, of the same draws.

    Returns:
        `steps(state, batches, data, key) -> (state, metrics)`, jitted: `batches` has a leading
        axis K, `data` is what every step reads (positives, ...), metrics are [K]: `loss`
        (weighted mean), `weight` (of the first mean) and `grad_norm`, each the mean over a step's
        updates.
    """

    def one(state: TrainState, batch: Any, data: Any, key: Array):
        key, rest = jax.random.fold_in(key, state.step), as_dtype(data, dtype)
        if parts > 1:
            batch = jax.tree.map(lambda a: _dealt(a, parts), batch)
        if drawn is not None:
            given = as_dtype(state.params, dtype)
            if parts == 1:
                batch = drawn(given, batch, rest, key)
            else:
                batch = jax.lax.map(
                    lambda at: drawn(given, at[0], rest, jax.random.fold_in(key, at[1])),
                    (batch, jnp.arange(parts)),
                )

        def summed(learning: Params, batch: Any, key: Array) -> tuple[Array, Array]:
            return loss_fn(as_dtype({**state.params, **learning}, dtype), batch, rest, key)

        def update(carry: tuple[Params, Any], _: None) -> tuple[tuple[Params, Any], dict]:
            learning, opt_state = carry
            (loss, weight), grads = _mean_gradient(summed, learning, batch, key, parts)
            changes, opt_state = optimizer.update(grads, opt_state, learning)
            metrics = {
                "loss": loss, "weight": weight.reshape(-1)[0], "grad_norm": optax.tree.norm(grads)
            }  # fmt: skip
            return (optax.apply_updates(learning, changes), opt_state), metrics

        carry = (trained_of(state.params, trained), state.opt_state)
        if updates == 1:
            (learning, opt_state), metrics = update(carry, None)
        else:
            (learning, opt_state), metrics = jax.lax.scan(update, carry, length=updates)
            metrics = {name: values.mean() for name, values in metrics.items()}
        params = {**state.params, **learning}
        return TrainState(state.step + 1, params, opt_state), metrics

    @functools.partial(jax.jit, donate_argnums=0)
    def steps(state: TrainState, batches: Any, data: Any, key: Array):
        return jax.lax.scan(lambda s, batch: one(s, batch, data, key), state, batches)

    return steps


def _mean_gradient(
    loss_fn: Callable[[Params, Any, Array], tuple[Array, Array]],
    params: Params,
    batch: Any,
    key: Array,
    parts: int,
) -> tuple[tuple[Array, Array], Params]:
    """`((mean, weight), gradient of the mean)` of a loss `(sum, weight)`, or of several, whose
    means are added; of several parts of a batch, one after the other."""

    def mean_loss(
        params: Params, batch: Any, key: Array, total_weight: Array | None = None
    ) -> tuple[Array, Array]:
        total, weight = loss_fn(params, batch, key)
        return jnp.sum(
            total / jnp.maximum(weight if total_weight is None else total_weight, 1e-9)
        ), weight

    gradient = jax.value_and_grad(mean_loss, has_aux=True)
    if parts == 1:
        return gradient(params, batch, key)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(parts))
    # XLA leaves out of this what the weights do not need.
    weights = jax.lax.map(lambda at: loss_fn(params, *at)[1], (batch, keys)).sum(0)

    def add(carry: Any, at: tuple[Any, Array]) -> tuple[Any, None]:
        (mean, _), grads = gradient(params, *at, weights)
        return jax.tree.map(jnp.add, carry, (mean, grads)), None

    start = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
    (mean, grads), _ = jax.lax.scan(add, start, (batch, keys))
    return (mean, weights), grads


def _dealt(a: Array, parts: int) -> Array:
    """[R ...] -> [parts R/parts ...]: every device deals the rows that it holds."""
    if len(a) % parts:
        raise ValueError(f"{len(a)} rows are no multiple of {parts} parts")
    return jnp.swapaxes(a.reshape(-1, parts, *a.shape[1:]), 0, 1)


def as_dtype(tree: Any, dtype: str) -> Any:
    """Float32 arrays in another type."""
    if dtype == "float32":
        return tree

    def cast(a: Any) -> Any:
        single = hasattr(a, "dtype") and a.dtype == jnp.float32
        return a.astype(dtype) if single else a

    return jax.tree.map(cast, tree)
