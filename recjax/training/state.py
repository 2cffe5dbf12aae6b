"""The state that a training step changes, born sharded."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from recjax.models.definition import initial_keys, params_of
from recjax.training.parallel import AxisRules, param_shardings, replicated
from recjax.typing import Array, Params

T = TypeVar("T")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything a step changes.

    Attributes:
        step: [] int32, steps done.
        params: arrays by path; all but the frozen ones.
        opt_state: the optimiser's state, of the trained ones alone.
    """

    step: Array
    params: Params
    opt_state: Any


def state_of(
    params: Mapping[str, Any],
    optimizer: optax.GradientTransformation,
    axes: AxisRules,
    mesh: jax.sharding.Mesh,
    trained: Collection[str] | None = None,
) -> TrainState:
    """A fresh state of parameters.

    Args:
        params: by path; they become the state's own, and are donated with it.
        optimizer: its state follows the parameters' sharding.
        axes: the model's `PARAM_AXES`.
        mesh: of `recjax.training.parallel.make_mesh`.
        trained: paths of those that are trained; None = all.
    """
    abstract = abstract_state_of(params, optimizer, axes, mesh, trained)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    placed = jax.device_put(dict(params), shardings.params)
    start = jax.jit(optimizer.init, out_shardings=shardings.opt_state)
    opt_state = start(trained_of(placed, trained))
    return TrainState(jax.device_put(jnp.int32(0), shardings.step), placed, opt_state)


def abstract_state_of(
    params: Mapping[str, Any],
    optimizer: optax.GradientTransformation,
    axes: AxisRules,
    mesh: jax.sharding.Mesh,
    trained: Collection[str] | None = None,
) -> TrainState:
    """Shapes, dtypes and shardings of a fresh state; allocates nothing.

    Args:
        params: by path; abstract ones, too.
        optimizer, axes, mesh, trained: see `state_of`.
    """

    def make(params: Params) -> TrainState:
        opt_state = optimizer.init(trained_of(params, trained))
        return TrainState(jnp.zeros((), jnp.int32), params, opt_state)

    abstract = jax.eval_shape(make, dict(params))
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract,
        _shardings(abstract, axes, mesh),
    )


def trained_of(params: Mapping[str, T], trained: Collection[str] | None) -> dict[str, T]:
    """The trained parameters; None = all."""
    return {path: a for path, a in params.items() if trained is None or path in trained}


def init_params(
    build: Callable[[nnx.Rngs], nnx.Module],
    seed: int,
    axes: AxisRules,
    mesh: jax.sharding.Mesh,
    *,
    but: Collection[str] = (),
) -> Params:
    """Initial parameters, born sharded: no device ever holds more than its part.

    Args:
        build: makes the module from `nnx.Rngs`.
        seed: of the weights.
        axes, mesh: see `state_of`.
        but: paths to leave out, e.g. those of a loaded base; they are not made.
    """

    def make() -> Params:
        params = params_of(build(initial_keys(seed)))
        return {path: value for path, value in params.items() if path not in but}

    return jax.jit(make, out_shardings=param_shardings(jax.eval_shape(make), axes, mesh))()


def _shardings(abstract: TrainState, axes: AxisRules, mesh: jax.sharding.Mesh) -> TrainState:
    """Shardings of a state: an optimiser leaf under a parameter's path is split like it."""
    shardings = param_shardings(abstract.params, axes, mesh)

    def find(path, leaf):
        for key in reversed(path):
            name = getattr(key, "key", None)
            if name in shardings and leaf.shape == abstract.params[name].shape:
                return shardings[name]
        return replicated(mesh)

    return jax.tree_util.tree_map_with_path(find, abstract)
