"""The cost of training a language model, or of reading with it, before anything is allocated.

    plan = make_plan(find_config("PRESET"), mesh="1,8,1", batch=64, length=512, train="lora")
    print(plan.table())

Everything is counted on abstract arrays. Parameters, gradients, optimiser and cache are exact.
Activations are an estimate (`activation_bytes`): what differentiation keeps from the forward pass
for the backward pass, and what the loss or a layer works on at a time; without training, the widest
operation.
FLOPs are those of all matrix products that are traced, two a multiplication and addition; a program
that leaves out the masked half of causal attention does less.
"""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType

from recjax.config import nearest
from recjax.convert.forms import read_config, with_fields
from recjax.errors import InputError
from recjax.models.language import presets
from recjax.nn.lora import LoRAConfig
from recjax.sharded import MESH_AXES
from recjax.training.activations import activation_bytes, array_bytes, widest_bytes
from recjax.training.compiled import Step, step_of
from recjax.training.devices import Device
from recjax.training.flops import product_flops
from recjax.training.optim import OptimConfig
from recjax.training.parallel import make_mesh, mesh_sizes, param_shardings, undivided
from recjax.training.placing import Placed, placed, table
from recjax.training.planned_step import MOST, READ, PlannedStep, planned_step
from recjax.training.state import abstract_state_of
from recjax.training.system import load_system

_PARTS = (
    "frozen_bytes", "trained_bytes", "gradient_bytes", "optimizer_bytes", "activation_bytes",
    "cache_bytes",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Plan:
    """The cost of a training step; bytes are those of one device.

    Attributes:
        parameters: of the model, with those of an adapter.
        trained: how many of them are trained.
        devices: of the mesh.
        tokens: of a step, on all devices.
        frozen_bytes, trained_bytes: of the parameters.
        gradient_bytes: of the trained parameters.
        optimizer_bytes: Adam's moments.
        activation_bytes: of training, or of the widest operation of a forward pass; an estimate.
        flops_per_token: forward and backward; or forward alone.
        input_bytes: of a step's tokens, on all devices.
        cache_bytes: of generation and scoring, keys and values of all tokens; 0 in training.
        compiled: what XLA makes of the step (`step_of`), where it was asked.
        placing: where each parameter lies.
    """

    parameters: int
    trained: int
    devices: int
    tokens: int
    frozen_bytes: int
    trained_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    activation_bytes: int
    flops_per_token: float
    input_bytes: int
    cache_bytes: int = 0
    compiled: Step | None = None
    placing: tuple[Placed, ...] = ()

    @property
    def total_bytes(self) -> int:
        """Bytes of one device in training: the sum of the parts, or what XLA assigns."""
        if self.compiled is not None:
            return self.compiled.peak_bytes
        return sum(getattr(self, name) for name in _PARTS)

    def as_dict(self) -> dict[str, Any]:
        """The numbers by name."""
        return {**dataclasses.asdict(self), "total_bytes": self.total_bytes}

    def table(self, device: Device | None = None) -> str:
        """The numbers as text, beside the rates of a device."""
        lines = [
            f"{self.parameters:,} parameters, {self.trained:,} trained; {self.tokens:,} tokens a "
            f"step on {self.devices} device(s)",
            f"{self.flops_per_token:.3g} FLOPs a token, "
            f"{self.flops_per_token / self.parameters:.2f} a parameter",
            "GB on each device:",
        ]
        parts = {
            "frozen parameters": self.frozen_bytes,
            "trained parameters": self.trained_bytes,
            "gradients": self.gradient_bytes,
            "optimiser": self.optimizer_bytes,
            "cache of the tokens": self.cache_bytes,
            "activations (estimate)": self.activation_bytes,
            "together": sum(getattr(self, name) for name in _PARTS),
        }
        lines += [f"  {name:<24}{size / 1e9:9.3f}" for name, size in parts.items()]
        lines += [
            f"{self.input_bytes / 1e6:.3f} MB of tokens a step",
            *table(self.placing),
            *([] if self.compiled is None else self.compiled.lines(device)),
        ]
        return "\n".join(lines)


def find_config(
    preset: str | None = None, folder: str | None = None, *, remat: str | None = None
) -> Any:
    """A model's config from one of two places.

    Args:
        preset: a name in the `PRESETS` of a family (`recjax.models.language.presets`).
        folder: with a `config.json`.
        remat: what the backward pass recomputes; see the model's `Config`. By default nothing.

    Raises:
        InputError: no such preset, folder, or policy.
    """
    if preset is not None:
        known = presets()
        if preset not in known:
            raise InputError(f"preset '{preset}': unknown; {nearest(preset, known)}")
        config: Any = known[preset]
    else:
        config = read_config(Path(folder or "."))[1]
    return recomputing(config, "none" if remat is None else remat)


def recomputing(config: Any, remat: str | None) -> Any:
    """A model's config with another `remat`; None leaves it."""
    return config if remat is None else with_fields(config, {"remat": remat})


def planned(run: Any, mesh: str = "1,1,1", *, remat: str | None = None) -> dict[str, Any]:
    """The arguments of `make_plan` for a run's config.

    Args:
        run: a run's config; pairs are read to see how many rows a step has.
        mesh: see `make_plan`.
        remat: by default that of the run.

    Raises:
        InputError: a run that trains no language model; what is wrong with its data or adapters.
    """
    plan = load_system(run.system).plan
    if plan is None:
        raise InputError(
            f"config.system: '{run.system}'; expected one that trains a language model"
        )
    data, fsdp, _ = mesh_sizes(mesh, rest=False)
    arguments = plan(run, data * fsdp)
    return arguments | {"config": recomputing(arguments["config"], remat)}


def make_plan(
    config: Any,
    *,
    mesh: str = "1,1,1",
    batch: int = 8,
    length: int = 512,
    train: str = "full",
    dtype: str = "float32",
    rank: int = 8,
    lora: LoRAConfig | None = None,
    compiled: bool = False,
    quant: str | None = None,
    optim: OptimConfig | None = None,
    accumulate: int = 1,
) -> Plan:
    """Plans the training of a language model; allocates nothing.

    Args:
        config: the model's, e.g. of `find_config`.
        mesh: sizes of the axes data,fsdp,tensor; no such devices need to be there.
        batch: rows of a step, on all devices.
        length: T, tokens of a row.
        train: "adapter": one linear map from a recommender's width of 64 to soft tokens, into the
            frozen model; "lora"; "full". Or "none": a forward pass of the rows with their cache,
            as generation and scoring begin.
        dtype: of the model's parameters and activations; for "full" of activations alone. What is
            trained is in float32.
        rank: R, for "lora", on the family's usual targets.
        lora: other adapters for "lora".
        quant: "int8" or "nf4": of the frozen layers' kernels (`recjax.nn.quant`).
        optim: the optimiser; None = Adam.
        accumulate: parts of the batch whose gradients are summed, one after another.
        compiled: also compile the step (of one part), for as many devices as this process has of a
            mesh.

    Raises:
        InputError: another `train`, a mesh of other than three sizes, rows or parameters that the
            mesh does not divide.
    """
    data, fsdp, tensor = mesh_sizes(mesh, rest=False)
    rows = data * fsdp
    if not 1 <= batch <= MOST * rows or batch % rows:
        raise InputError(
            f"batch {batch}: expected a multiple of data x fsdp, {rows}, up to {MOST * rows:,}"
        )
    part = -(-batch // (accumulate * rows)) * rows
    options: dict[str, Any] = {
        "batch": part, "length": length, "train": train, "dtype": dtype, "rank": rank,
        "lora": lora, "quant": quant, "optim": optim,
    }  # fmt: skip
    step = planned_step(config, **options)
    places: Any = AbstractMesh(
        (data, fsdp, tensor), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES)
    )
    if wrong := undivided(step.params, step.axes, places):
        raise InputError(f"mesh {mesh}: {wrong[0]}; expected sizes that divide what they split")
    if train == READ:
        if compiled:
            raise InputError(f"--compiled: of training alone; --train {READ} is none")
        return _reading(step, places)
    trained_bytes = _sharded_bytes(step.trained, step.axes, places)
    moments = jax.tree.leaves(
        abstract_state_of(step.trained, step.optimizer, step.axes, places).opt_state
    )
    jaxpr = jax.make_jaxpr(jax.value_and_grad(step.loss()))(step.trained, step.frozen, *step.inputs)
    kept_all = step
    if getattr(config, "remat", "none") != "none":
        kept_all = planned_step(recomputing(config, "none"), **options)
    return Plan(
        parameters=step.parameters,
        trained=sum(leaf.size for leaf in step.trained.values()),
        devices=rows * tensor,
        tokens=batch * length,
        frozen_bytes=_sharded_bytes(step.frozen, step.axes, places),
        trained_bytes=trained_bytes,
        gradient_bytes=trained_bytes * (2 if accumulate > 1 else 1),
        optimizer_bytes=sum(
            math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
            for leaf in moments
        ),
        activation_bytes=activation_bytes(step, kept_all, config, rows, tensor),
        flops_per_token=product_flops(jaxpr) / (part * length),
        input_bytes=4 * batch * length,
        placing=placed(step.params, step.axes, places),
        compiled=_compiled(step, make_mesh((data, fsdp, tensor))) if compiled else None,
    )


def _compiled(step: PlannedStep, devices: jax.sharding.Mesh) -> Step:
    """The step as XLA compiles it."""
    steps, arguments = step.lowerable(devices)
    return step_of(steps.lower(*arguments).compile(), arguments[1], devices)


def _reading(step: PlannedStep, places: Any) -> Plan:
    """A forward pass of rows with their cache, and the logits after each."""
    data, fsdp, tensor = (places.shape[name] for name in MESH_AXES)
    batch, length = step.batch, step.length

    def read(params: Any, tokens: Any) -> Any:
        model = step.definition.merge(params)
        cache = model.empty_cache(batch, length)
        last = jnp.full((batch, 1), length - 1)
        h, cache = model.hidden(tokens, cache=cache, places=last)
        return model.logits(h), cache

    tokens = step.inputs[0]
    cache = jax.eval_shape(read, step.params, tokens)[1]
    jaxpr = jax.make_jaxpr(read)(step.params, tokens)
    known = {(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves((step.params, cache))}
    return Plan(
        parameters=step.parameters,
        trained=0,
        devices=data * fsdp * tensor,
        tokens=batch * length,
        frozen_bytes=_sharded_bytes(step.params, step.axes, places),
        trained_bytes=0,
        gradient_bytes=0,
        optimizer_bytes=0,
        activation_bytes=math.ceil(widest_bytes(jaxpr, known) / (data * fsdp)),
        flops_per_token=product_flops(jaxpr) / (batch * length),
        input_bytes=4 * batch * length,
        cache_bytes=math.ceil(
            sum(map(array_bytes, jax.tree.leaves(cache))) / (data * fsdp * tensor)
        ),
        placing=placed(step.params, step.axes, places),
    )


def _sharded_bytes(arrays: Mapping[str, Any], axes: Any, mesh: Any) -> int:
    """Bytes of a device's part."""
    places = param_shardings(arrays, axes, mesh)
    return sum(
        math.prod(places[k].shard_shape(a.shape)) * jnp.dtype(a.dtype).itemsize
        for k, a in arrays.items()
    )
