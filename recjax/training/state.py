"""Models as plain arrays: NNX builds and names the modules, the step sees a flat dict.

`nnx.jit` costs milliseconds a step on small models; a `jax.jit` over a dict of arrays costs a
tenth (ecosystem measurements), and checkpoints, shardings and conversions want paths anyway.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from recjax.training.parallel import AxisRules, param_shardings, replicated
from recjax.typing import Array, Params

M = TypeVar("M", bound=nnx.Module)


@dataclasses.dataclass(frozen=True, eq=False)
class ModelDef(Generic[M]):
    """What a model is without its arrays.

    Attributes:
        graphdef: NNX's static half.
        paths: parameter path -> NNX path.
        shapes: parameter path -> abstract array.
    """

    graphdef: Any
    paths: dict[str, tuple]
    shapes: dict[str, jax.ShapeDtypeStruct]

    def merge(self, params: Params) -> M:
        """The module over these arrays (under jit too)."""
        flat = [(path, params[name]) for name, path in self.paths.items()]
        return nnx.merge(self.graphdef, nnx.from_flat_state(flat))


def define(build: Callable[[nnx.Rngs], M]) -> ModelDef[M]:
    """The definition of the model that `build(rngs)` makes; allocates nothing."""
    graphdef, state = nnx.split(nnx.eval_shape(lambda: build(nnx.Rngs(0))))
    flat = {"/".join(map(str, path)): (path, leaf) for path, leaf in nnx.to_flat_state(state)}
    shapes = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, (_, v) in flat.items()}
    return ModelDef(graphdef, {k: path for k, (path, _) in flat.items()}, shapes)


def _params_of(model: nnx.Module) -> Params:
    state = nnx.to_flat_state(nnx.state(model))
    return {"/".join(map(str, path)): leaf[...] for path, leaf in state}


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


def abstract_state(
    build: Callable[[nnx.Rngs], nnx.Module], optimizer: optax.GradientTransformation, seed: int
) -> TrainState:
    """The state's shapes and dtypes; allocates nothing."""
    return jax.eval_shape(_maker(build, optimizer, seed))


def _maker(build, optimizer, seed) -> Callable[[], TrainState]:
    def make() -> TrainState:
        params = _params_of(build(nnx.Rngs(params=jax.random.key(seed))))
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
