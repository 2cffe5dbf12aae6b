"""The training step: one for everything that trains."""

import functools
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import optax

from recjax.training.state import TrainState, trained_of
from recjax.typing import Array, Params

# (params, batch, data, key) -> (sum, weight) of the loss.
LossFn = Callable[[Params, Any, Any, Array], tuple[Array, Array]]


def make_steps(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    trained: Collection[str] | None = None,
):
    """Many training steps in one call.

    Small models finish a step faster than the host can start one, so a call scans over K batches.
    The state is donated. Step s uses the key `fold_in(key, s)`: a resumed run draws what the
    uninterrupted one drew.

    Args:
        loss_fn: `(params, batch, data, key) -> (sum, weight)`.
        optimizer: the update rule.
        trained: paths of the trained parameters; None = all. The others stay, and cost no gradient.

    Returns:
        `steps(state, batches, data, key) -> (state, metrics)`, jitted: `batches` has a leading
        axis K, `data` is what every step reads (positives, ...), metrics are [K]: `loss`
        (weighted mean), `weight` and `grad_norm`.
    """

    def one(state: TrainState, batch: Any, data: Any, key: Array):
        key = jax.random.fold_in(key, state.step)

        def mean_loss(learning):
            total, weight = loss_fn({**state.params, **learning}, batch, data, key)
            return total / jnp.maximum(weight, 1e-9), weight

        learning = trained_of(state.params, trained)
        (loss, weight), grads = jax.value_and_grad(mean_loss, has_aux=True)(learning)
        updates, opt_state = optimizer.update(grads, state.opt_state, learning)
        params = {**state.params, **optax.apply_updates(learning, updates)}
        metrics = {"loss": loss, "weight": weight, "grad_norm": optax.tree.norm(grads)}
        return TrainState(state.step + 1, params, opt_state), metrics

    @functools.partial(jax.jit, donate_argnums=0)
    def steps(state: TrainState, batches: Any, data: Any, key: Array):
        return jax.lax.scan(lambda s, batch: one(s, batch, data, key), state, batches)

    return steps
