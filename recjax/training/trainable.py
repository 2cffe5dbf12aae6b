"""A system's part in training; the state, the steps and the placing are made from it here."""

import abc
import contextlib
import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar, Protocol, Self

import jax
import optax
from flax import nnx

from recjax.errors import InputError
from recjax.models.definition import ModelDef, define
from recjax.sharded import RULES, Axes, placing
from recjax.training import parallel
from recjax.training.freezing import FULL, Role, Rules, roles_of, with_frozen
from recjax.training.optim import OptimConfig, check_rules, frozen_by, make_optimizer
from recjax.training.state import TrainState, abstract_state_of, init_params, state_of
from recjax.training.step import make_steps
from recjax.typing import Array, Params


class RunBatches(Protocol):
    """Training batches by step."""

    @property
    def steps_per_epoch(self) -> int:
        """Steps in one pass over the data."""

    @property
    def per_step(self) -> int:
        """Sequences or documents per step."""


class Trainable(abc.ABC):
    """A model with its loss and its batches.

    Every system gives `build`, `axes`, `loss_fn` and `batches`. Some give more: `rules` and
    `frozen` where not all parameters are trained, `given` where parameters start from arrays,
    `data` where the loss reads more than its batch.
    """

    mesh: jax.sharding.Mesh  # the devices
    rules: Rules = FULL  # which parameters are trained; see `recjax.training.freezing`
    threaded: ClassVar[bool] = True  # `place` computes nothing on the devices: see `Loop`

    @property
    @abc.abstractmethod
    def seed(self) -> int:
        """Seed of the initial weights and of all that the steps draw."""

    @property
    @abc.abstractmethod
    def optim(self) -> OptimConfig:
        """The update rule."""

    @abc.abstractmethod
    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """The model, with parameters drawn from `rngs.params`."""

    @property
    @abc.abstractmethod
    def axes(self) -> parallel.AxisRules:
        """The logical axes of every parameter."""

    @abc.abstractmethod
    def loss_fn(self, params: Params, batch: Any, data: Any, key: Array) -> tuple[Array, Array]:
        """(sum, weight) of a batch's loss.

        Args:
            params: all of the model, by path.
            batch: one step's arrays.
            data: see `inputs`.
            key: of this step.
        """

    @property
    def updates_of_batch(self) -> int:
        """Updates of the parameters per step; if more than one, on the batch that `draw` gives."""
        return 1

    def draw(self, params: Params, batch: Any, data: Any, key: Array) -> Any:
        """The batch of the loss where a step has several updates; see `loss_fn`."""
        del params, data, key
        return batch

    @property
    @abc.abstractmethod
    def batches(self) -> Any:
        """The training batches: `RunBatches`; for `place` as it is here, also callable."""

    @property
    def logical_rules(self) -> Mapping[str, Axes]:
        """Mesh axes of logical axes; see `recjax.sharded.RULES`."""
        return RULES

    @property
    def parts_of_batch(self) -> int:
        """The number of parts of a batch that a step takes one after the other."""
        return 1

    @property
    def dtype(self) -> str:
        """The dtype of a step's computations."""
        return "float32"

    @property
    def placed_axes(self) -> parallel.AxisRules:
        """`axes`, by `logical_rules`."""
        return parallel.ruled(self.axes, self.logical_rules)

    def placing(self) -> contextlib.AbstractContextManager[None]:
        """While it is active, models that are traced know their devices."""
        return placing(self.mesh, self.logical_rules)

    @property
    def given(self) -> Params:
        """Arrays that parameters of the state start from, by path; the others are drawn."""
        return {}

    @property
    def frozen(self) -> Params:
        """The parameters whose role is "frozen", on the devices."""
        return {}

    @property
    def data(self) -> Any:
        """Arrays that the loss reads beside a batch, on the devices."""
        return None

    @functools.cached_property
    def model(self) -> ModelDef:
        """The model's definition (`model.merge(params)` is the module)."""
        return define(self.build)

    @functools.cached_property
    def roles(self) -> dict[str, Role]:
        """The role of every parameter: the system's, and what `config.optim.rules` freezes.

        Raises:
            InputError: a rule of `config.optim` that matches no trained parameter, or nothing is
                left to train.
        """
        roles = roles_of(self.model.shapes, self.rules)
        trained = {p: a for p, a in self.model.shapes.items() if roles[p] == "trained"}
        check_rules(self.optim, trained)
        roles |= dict.fromkeys(frozen_by(self.optim, trained), "kept")
        if "trained" not in roles.values():
            raise InputError("config.optim.rules: freeze every parameter; nothing is left to train")
        return roles

    @property
    def trained(self) -> frozenset[str]:
        """Paths of the trained parameters."""
        return frozenset(path for path, role in self.roles.items() if role == "trained")

    @property
    def cooldown(self) -> int:
        """Steps of the cool-down that ends training."""
        return 0

    @functools.cached_property
    def optimizer(self) -> optax.GradientTransformation:
        """The optimiser of `config.optim`, whose lengths are in steps and in epochs."""
        updates = self.updates_of_batch
        config = dataclasses.replace(self.optim, warmup_steps=self.optim.warmup_steps * updates)
        return make_optimizer(
            config, self.batches.steps_per_epoch * updates, self.cooldown * updates
        )

    def init_state(self) -> TrainState:
        """A fresh state, born sharded (a training step donates it)."""
        given = dict(self.given)
        own = [path for path, role in self.roles.items() if role != "frozen"]
        exclude = {*given, *(path for path in self.roles if path not in own)}
        if not exclude.issuperset(own):
            given |= init_params(self.build, self.seed, self.placed_axes, self.mesh, but=exclude)
        return state_of(
            {path: given[path] for path in own},
            self.optimizer,
            self.placed_axes,
            self.mesh,
            self.trained,
        )

    def abstract_state(self, trained: Collection[str] | None = None) -> TrainState:
        """The state's shapes and shardings; allocates nothing.

        Args:
            trained: paths of the parameters with optimiser state; by default those of the run.
        """
        own = {p: a for p, a in self.model.shapes.items() if self.roles[p] != "frozen"}
        trained = self.trained if trained is None else trained
        return abstract_state_of(own, self.optimizer, self.placed_axes, self.mesh, trained)

    def inputs(self, batch: Any) -> tuple[Any, Any]:
        """`(arrays, data)` of a placed batch: arrays have a leading axis of steps."""
        return batch, self.data

    def outline(self) -> Self:
        """This run with abstract arrays in place of what it reads from files, for plans."""
        return self

    def abstract_inputs(self) -> tuple[Any, Any]:
        """`inputs` of one step, as abstract arrays."""
        batch = parallel.abstract_batch(self.batches(0, 1), self.mesh, axis=1)
        whole = parallel.replicated(self.mesh)
        data = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=whole), self.data
        )
        return batch, data

    def undivided(self) -> list[str]:
        """A line for each kind of parameter that the mesh should split and cannot."""
        return parallel.undivided(self.model.shapes, self.placed_axes, self.mesh)

    @property
    def held_bytes(self) -> int:
        """Bytes on each device, in training, that no step reads."""
        return 0

    def jitted_steps(self) -> Any:
        """`steps(state, arrays, (frozen, data), key)`: see `recjax.training.step`."""

        def placed(function: Callable[..., Any]) -> Callable[..., Any]:
            def called(*args: Any) -> Any:
                with self.placing():
                    return with_frozen(function)(*args)

            return called

        updates = self.updates_of_batch
        return make_steps(
            placed(self.loss_fn), self.optimizer, self.trained, parts=self.parts_of_batch,
            dtype=self.dtype, drawn=placed(self.draw) if updates > 1 else None, updates=updates,
        )  # fmt: skip

    def make_steps(self) -> Callable[[TrainState, Any], tuple[TrainState, dict[str, Array]]]:
        """`(state, batch of place) -> (state, metrics)`: see `recjax.training.step`."""
        key, frozen, steps = jax.random.key(self.seed), self.frozen, self.jitted_steps()

        def taken(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, Array]]:
            arrays, data = self.inputs(batch)
            return steps(state, arrays, (frozen, data), key)

        return taken

    def place(self, step: int, count: int) -> Any:
        """Training batches step .. step + count - 1 on the devices."""
        return parallel.shard_batch(self.batches(step, count), self.mesh, axis=1)
