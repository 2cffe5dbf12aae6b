"""What training a language model, or reading with it, would take, before anything is allocated.

    plan = make_plan(find_config("PRESET"), mesh="1,8,1", batch=64, length=512, train="lora")
    print(plan.table())

Everything is counted on abstract arrays. Parameters, gradients, optimiser and cache are exact.
Activations are what differentiation keeps from the forward pass for the backward pass (its
residuals, without the parameters among them); without training, what the widest operation reads and
writes. XLA may fuse some of them away and needs working memory of its own, so this is an estimate.
FLOPs are those of all matrix products that are traced, two a multiplication and addition; a program
that leaves out the masked half of causal attention does less.
"""

import dataclasses
import functools
import math
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import AbstractMesh, AxisType

from recjax.config import build, nearest, to_plain
from recjax.convert.language_model import DTYPES, read_config
from recjax.errors import InputError
from recjax.models.definition import ModelDef, define
from recjax.models.language import family_for, presets
from recjax.nn.lora import LoRAConfig, add_lora
from recjax.nn.quant import quantize
from recjax.nn.soft import place_soft
from recjax.sharded import MESH_AXES, placing
from recjax.training.compiled import Step, compiled_step
from recjax.training.devices import Device
from recjax.training.flops import inner, product_flops
from recjax.training.freezing import FULL, LORA, Rules, split_params
from recjax.training.optim import OptimConfig, make_optimizer
from recjax.training.parallel import make_mesh, param_shardings, undivided
from recjax.training.placing import Placed, placed, table
from recjax.training.state import abstract_state_of
from recjax.training.system import load_system
from recjax.training.token_loss import token_loss

_MOST = 1 << 20  # tokens of a row, devices along an axis, rows of a device
# A recommender's states [D] become soft tokens by one linear map; so many a row.
_ADAPTER, _WIDTH, _SOFT = "adapter/kernel", 64, 10
_READ = "none"
_RULES: dict[str, Rules] = {
    "adapter": ((r"adapter/.*", "trained"), (r".*", "frozen")),
    "lora": LORA,
    "full": FULL,
}


_PARTS = (
    "frozen_bytes", "trained_bytes", "gradient_bytes", "optimizer_bytes", "activation_bytes",
    "cache_bytes",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a training step takes; bytes are those of one device.

    Attributes:
        parameters: of the model, with those of an adapter.
        trained: how many of them are trained.
        devices: of the mesh.
        tokens: of a step, on all devices.
        frozen_bytes, trained_bytes: of the parameters.
        gradient_bytes: of the trained parameters.
        optimizer_bytes: Adam's moments.
        activation_bytes: what differentiation keeps, or the widest operation of a forward pass; an
            estimate.
        flops_per_token: forward and backward; or forward alone.
        input_bytes: of a step's tokens, on all devices.
        cache_bytes: of generation and scoring, keys and values of all tokens; 0 in training.
        compiled: what XLA makes of the step (`compiled_step`), where it was asked.
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
        """Of one device in training: all parts together, or what XLA assigns."""
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
    return recomputing(config, remat or "none")


def recomputing(config: Any, remat: str | None) -> Any:
    """A model's config with another `remat`; None leaves it."""
    return (
        config
        if remat is None
        else build(type(config), to_plain(config) | {"remat": remat}, "plan")
    )


def planned(run: Any, mesh: str = "1,1,1", *, remat: str | None = None) -> dict[str, Any]:
    """What `make_plan` is to be told of a run's config: its model, of fine-tuning all.

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
    data, fsdp, _ = mesh_sizes(mesh)
    told = plan(run, data * fsdp)
    return told | {"config": recomputing(told["config"], remat)}


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
    quant: Any = "",
) -> Plan:
    """Plans the training of a language model with Adam; allocates nothing.

    Args:
        config: the model's, e.g. of `find_config`.
        mesh: sizes of the axes data,fsdp,tensor; no such devices need to be there.
        batch: rows of a step, on all devices.
        length: T, tokens of a row.
        train: "adapter": one linear map from a recommender's width of 64 to soft tokens, into the
            frozen model; "lora"; "full". Or "none": a forward pass of the rows with their cache,
            as generation and scoring begin.
        dtype: of the model's parameters and activations. What is trained beside a frozen model is
            in float32.
        rank: R, for "lora", on the family's usual targets.
        lora: other adapters for "lora".
        quant: "int8" or "nf4": of the frozen layers' kernels (`recjax.nn.quant`).
        compiled: also compile the step, for as many devices as this process has of a mesh.

    Raises:
        InputError: another `train`, a mesh of other than three sizes, rows or parameters that the
            mesh does not divide.
    """
    if train not in (*_RULES, _READ):
        raise InputError(f"train '{train}': expected one of {', '.join((*_RULES, _READ))}")
    if quant not in ("", "int8", "nf4") or (quant and train == "full"):
        raise InputError(f"quant {quant}: expected int8 or nf4, of a frozen model")
    if dtype not in DTYPES:
        raise InputError(f"dtype {dtype}: expected one of {', '.join(DTYPES)}")
    data, fsdp, tensor = mesh_sizes(mesh)
    rows = data * fsdp
    if rank < 1 or not 2 <= length <= _MOST:
        raise InputError(
            f"rank {rank}, length {length}: expected at least 1 and 2, and a length of at most "
            f"{_MOST:,}"
        )
    if not 1 <= batch <= _MOST * rows or batch % rows:
        raise InputError(f"batch {batch}: expected a multiple of data x fsdp, {rows}")
    family = family_for(config)
    adapters = lora or LoRAConfig(rank, targets=family.lora_targets)

    def module(rngs: nnx.Rngs) -> Any:
        model = family.build(config, rngs=rngs, dtype=jnp.dtype(dtype))
        return add_lora(model, adapters, rngs) if train == "lora" else model

    def stored(rngs: nnx.Rngs) -> Any:
        return quantize(module(rngs), quant) if quant else module(rngs)

    definition = define(stored)
    parameters = _size(dict(define(module).shapes))
    params = dict(definition.shapes)
    axes = (*family.axes, (_ADAPTER, (None, "embed")))
    if train == "adapter":
        params[_ADAPTER] = jax.ShapeDtypeStruct((_WIDTH, config.dim), jnp.float32)
    places: Any = AbstractMesh(
        (data, fsdp, tensor), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES)
    )
    if wrong := undivided(params, axes, places):
        raise InputError(f"mesh {mesh}: {wrong[0]}; expected sizes that divide what they split")
    if train == _READ:
        if compiled:
            raise InputError(f"--compiled: of training alone; --train {_READ} is none")
        return _reading(definition, axes, places, batch, length)
    trained, frozen = split_params(params, _RULES[train])
    optimizer = make_optimizer(OptimConfig(), 1)
    state = abstract_state_of(trained, optimizer, axes, places)

    devices = make_mesh((data, fsdp, tensor)) if compiled else None

    def loss(trained: Any, frozen: Any, tokens: Any, states: Any) -> Any:
        with placing(devices):
            return placed_loss(trained, frozen, tokens, states)

    def placed_loss(trained: Any, frozen: Any, tokens: Any, states: Any) -> Any:
        all_params = {**frozen, **trained}
        model = definition.merge(all_params)
        h = model.embed(tokens)
        if train == "adapter":
            is_soft = jnp.arange(length)[None] < min(_SOFT, length)
            is_soft = jnp.broadcast_to(is_soft, tokens.shape)
            h = place_soft(h, is_soft, states @ all_params[_ADAPTER])
        total, weight = token_loss(model.hidden(h)[0], model.head_table(), tokens, mesh=devices)
        return total / weight

    inputs = (
        trained, frozen,
        jax.ShapeDtypeStruct((batch, length), jnp.int32),
        jax.ShapeDtypeStruct((batch, _SOFT, _WIDTH), jnp.float32),
    )  # fmt: skip
    kept = jax.eval_shape(lambda t, *rest: jax.vjp(lambda p: loss(p, *rest), t)[1], *inputs)
    jaxpr = jax.make_jaxpr(jax.value_and_grad(loss))(*inputs)
    sharded = functools.partial(_sharded_bytes, axes=axes, mesh=places)
    return Plan(
        parameters=parameters + (params[_ADAPTER].size if train == "adapter" else 0),
        trained=_size(trained),
        devices=rows * tensor,
        tokens=batch * length,
        frozen_bytes=sharded(frozen),
        trained_bytes=sharded(trained),
        gradient_bytes=sharded(trained),
        optimizer_bytes=sum(
            _bytes(leaf.sharding.shard_shape(leaf.shape), leaf.dtype)
            for leaf in jax.tree.leaves(state.opt_state)
        ),
        activation_bytes=_activation_bytes(kept, params, config.dim, rows, tensor),
        flops_per_token=product_flops(jaxpr) / (batch * length),
        input_bytes=4 * batch * length,
        placing=placed(params, axes, places),
        compiled=None
        if devices is None
        else compiled_step(loss, optimizer, trained, frozen, inputs[2:], axes, devices),
    )


def _reading(definition: ModelDef, axes: Any, places: Any, batch: int, length: int) -> Plan:
    """A forward pass of rows with their cache, and the logits after each."""
    params = dict(definition.shapes)
    data, fsdp, tensor = (places.shape[name] for name in MESH_AXES)

    def read(params: Any, tokens: Any) -> Any:
        model = definition.merge(params)
        cache = model.empty_cache(batch, length)
        last = jnp.full((batch, 1), length - 1)
        h, cache = model.hidden(tokens, cache=cache, places=last)
        return model.logits(h), cache

    tokens = jax.ShapeDtypeStruct((batch, length), jnp.int32)
    cache = jax.eval_shape(read, params, tokens)[1]
    jaxpr = jax.make_jaxpr(read)(params, tokens)
    known = {(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves((params, cache))}
    return Plan(
        parameters=_size(params),
        trained=0,
        devices=data * fsdp * tensor,
        tokens=batch * length,
        frozen_bytes=_sharded_bytes(params, axes=axes, mesh=places),
        trained_bytes=0,
        gradient_bytes=0,
        optimizer_bytes=0,
        activation_bytes=math.ceil(_widest(jaxpr, known) / (data * fsdp)),
        flops_per_token=product_flops(jaxpr) / (batch * length),
        input_bytes=4 * batch * length,
        cache_bytes=math.ceil(
            sum(_bytes(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(cache))
            / (data * fsdp * tensor)
        ),
    )


def _widest(jaxpr: Any, known: set) -> int:
    """Bytes that the widest operation reads and writes, but for arrays like those of `known`."""
    widest = 0
    for eqn in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        inside = list(inner(eqn))
        if inside:
            widest = max(widest, *(_widest(one, known) for one in inside))
            continue
        kinds = [v.aval for v in (*eqn.invars, *eqn.outvars) if hasattr(v.aval, "dtype")]
        own = [a for a in kinds if (a.shape, a.dtype) not in known and a.dtype != jax.dtypes.float0]
        widest = max(widest, sum(_bytes(a.shape, a.dtype) for a in own))
    return widest


def mesh_sizes(mesh: str) -> tuple[int, int, int]:
    """The sizes of data, fsdp and tensor; `InputError` where they are no such three."""
    try:
        data, fsdp, tensor = map(int, mesh.split(","))
    except ValueError:
        data = fsdp = tensor = 0
    if not all(1 <= size <= _MOST for size in (data, fsdp, tensor)):
        names = ",".join(MESH_AXES)
        raise InputError(f"mesh {mesh}: expected three sizes, {names}, of 1 to {_MOST:,}")
    return data, fsdp, tensor


def _size(arrays: dict[str, Any]) -> int:
    return sum(math.prod(leaf.shape) for leaf in arrays.values())


def _bytes(shape: tuple[int, ...], dtype: Any) -> int:
    return math.prod(shape) * jnp.dtype(dtype).itemsize


def _sharded_bytes(arrays: dict[str, Any], *, axes: Any, mesh: Any) -> int:
    """Bytes of a device's part."""
    places = param_shardings(arrays, axes, mesh)
    return sum(_bytes(places[k].shard_shape(a.shape), a.dtype) for k, a in arrays.items())


def _activation_bytes(kept: Any, params: dict[str, Any], dim: int, rows: int, tensor: int) -> int:
    """Bytes of a device's residuals that are no parameters (none of their shapes, by number).

    The rows are split over data and fsdp; what is not of the model's width (heads, feed-forward)
    over tensor, too.
    """
    known = Counter((leaf.shape, jnp.dtype(leaf.dtype)) for leaf in params.values())
    total = 0
    for leaf in jax.tree.leaves(kept):
        kind = (leaf.shape, jnp.dtype(leaf.dtype))
        if known[kind]:
            known[kind] -= 1
            continue
        wide = leaf.ndim > 1 and leaf.shape[-1] not in (dim, 1)
        total += math.ceil(_bytes(leaf.shape, leaf.dtype) / (rows * (tensor if wide else 1)))
    return total
