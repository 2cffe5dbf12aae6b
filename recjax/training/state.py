"""What a training step changes, born sharded."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from recjax.models.definition import params_of
from recjax.training.parallel import AxisRules, param_shardings, replicated
from recjax.typing import Array, Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything a step changes.

    Attributes:
        step: [] int32, steps done.
        params: trained arrays by path.
        opt_state: the optimiser's state.
    """

    step: Array
    params: Params
    opt_state: Any


def init_state(
    build: Callable[[nnx.Rngs], nnx.Module],
    optimizer: optax.GradientTransformation,
    seed: int,
    axes: AxisRules,
    mesh: jax.sharding.Mesh,
) -> TrainState:
    """A fresh state, born sharded: no device ever holds more than its part.

    Args:
        build: makes the module from `nnx.Rngs`.
        optimizer: its state follows the parameters' sharding.
        seed: of the initial weights.
        axes: the model's `PARAM_AXES`.
        mesh: of `recjax.training.parallel.make_mesh`.
    """

    make = _maker(build, optimizer, seed)
    return jax.jit(make, out_shardings=state_shardings(jax.eval_shape(make), axes, mesh))()


def state_of(
    params: Params,
    optimizer: optax.GradientTransformation,
    axes: AxisRules,
    mesh: jax.sharding.Mesh,
) -> TrainState:
    """A fresh state of parameters that exist already, e.g. of what is trained in a loaded model.

    Args:
        params: by path; they become the state's own, and are donated with it.
        optimizer, axes, mesh: see `init_state`.
    """

    shardings = state_shardings(abstract_state_of(params, optimizer), axes, mesh)
    params = jax.device_put(params, shardings.params)
    opt_state = jax.jit(optimizer.init, out_shardings=shardings.opt_state)(params)
    return TrainState(jax.device_put(jnp.int32(0), shardings.step), params, opt_state)


def abstract_state_of(
    params: Mapping[str, Any], optimizer: optax.GradientTransformation
) -> TrainState:
    """The shapes and dtypes of a fresh state of parameters, which may be abstract themselves."""

    def make(params: Params) -> TrainState:
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))

    return jax.eval_shape(make, dict(params))


def init_params(
    build: Callable[[nnx.Rngs], nnx.Module],
    seed: int,
    axes: AxisRules,
    mesh: jax.sharding.Mesh,
    *,
    but: Collection[str] = (),
) -> Params:
    """Initial parameters, born sharded, but for those that are there already (a loaded base's).

    Args:
        build, seed, axes, mesh: see `init_state`; each parameter is the one that it would make.
        but: paths to leave out; they are not made.
    """

    def make() -> Params:
        params = params_of(build(nnx.Rngs(params=jax.random.key(seed))))
        return {path: value for path, value in params.items() if path not in but}

    return jax.jit(make, out_shardings=param_shardings(jax.eval_shape(make), axes, mesh))()


def abstract_state(
    build: Callable[[nnx.Rngs], nnx.Module], optimizer: optax.GradientTransformation, seed: int
) -> TrainState:
    """The state's shapes and dtypes; allocates nothing."""
    return jax.eval_shape(_maker(build, optimizer, seed))


def _maker(build, optimizer, seed) -> Callable[[], TrainState]:
    def make() -> TrainState:
        params = params_of(build(nnx.Rngs(params=jax.random.key(seed))))
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))

    return make


def state_shardings(abstract: TrainState, axes: AxisRules, mesh: jax.sharding.Mesh) -> TrainState:
    """Shardings of a state: an optimiser leaf under a parameter's path is split like it."""
    shardings = param_shardings(abstract.params, axes, mesh)

    def find(path, leaf):
        for key in reversed(path):
            name = getattr(key, "key", None)
            if name in shardings and leaf.shape == abstract.params[name].shape:
                return shardings[name]
        return replicated(mesh)

    return jax.tree_util.tree_map_with_path(find, abstract)
