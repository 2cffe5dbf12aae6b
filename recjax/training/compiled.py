"""A training step as XLA compiles it for many devices, without their memory.

    use_devices(8)                                # before JAX has looked for devices
    step = run_step(run)                          # of a run's config
    print(*step.lines(find_device("h100")), sep="\\n")

The devices are simulated on this CPU: shapes, collectives and products are those of the mesh. XLA's
assignment of memory is that of a CPU; what it fuses on an accelerator may need less.
"""

import contextlib
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from recjax.errors import InputError
from recjax.training.devices import Device
from recjax.training.hlo import Program
from recjax.training.parallel import AxisRules, batch_sharding, param_shardings
from recjax.training.state import abstract_state_of
from recjax.training.step import make_steps

MOST_DEVICES = 4096  # simulated ones


@dataclasses.dataclass(frozen=True)
class Step:
    """The work of one device in a training step.

    Attributes:
        devices: of the mesh.
        flops: of its matrix products.
        collectives: bytes that it sends, by kind.
        argument_bytes: its part of parameters, optimiser and batch.
        working_bytes: gradients, activations and buffers, at their largest.
        peak_bytes: all together.
        input_bytes: of the batch, on all devices.
        rows: of the batch, on all devices.
    """

    devices: int
    flops: int
    collectives: dict[str, int]
    argument_bytes: int
    working_bytes: int
    peak_bytes: int
    input_bytes: int
    rows: int

    @property
    def sent_bytes(self) -> int:
        """Bytes that all collectives send."""
        return sum(self.collectives.values())

    def lines(self, device: Device | None = None) -> list[str]:
        """The numbers as text, beside what a device has."""
        kinds = (f"{kind} {size / 1e6:,.3f}" for kind, size in sorted(self.collectives.items()))
        out = [
            f"as XLA compiles it for {self.devices} device(s), on each: {self.flops:.4g} FLOPs, "
            f"{self.peak_bytes / 1e9:.3f} GB ({self.argument_bytes / 1e9:.3f} of arguments, "
            f"{self.working_bytes / 1e9:.3f} working)",
            f"sent in a step, MB: {', '.join(kinds) or 'nothing'}",
        ]
        if device is not None and device.flops:
            products, links = device.seconds(self.flops, self.sent_bytes)
            out.append(
                f"{device.name}: at the least {1e3 * products:.3f} ms of products and "
                f"{1e3 * links:.3f} ms of links a step"
            )
        return out


def use_devices(count: int) -> None:
    """Makes JAX simulate `count` devices on this CPU; call it before JAX is initialised.

    Raises:
        InputError: JAX has another number of devices already, or there are too many.
    """
    if count > MOST_DEVICES:
        raise InputError(f"mesh: {count:,} devices; expected at most {MOST_DEVICES:,}")
    jax.config.update("jax_platforms", "cpu")
    with contextlib.suppress(RuntimeError):  # JAX is at work; with as many, all is well
        jax.config.update("jax_num_cpu_devices", count)
    if jax.device_count() != count:
        raise InputError(
            f"mesh: {count} devices, but this process has {jax.device_count()}; set "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={count}, or unset it"
        )


def stacked_step(
    loss: Any,
    optimizer: optax.GradientTransformation,
    trained: Mapping[str, Any],
    frozen: Mapping[str, Any],
    inputs: tuple,
    axes: AxisRules,
    mesh: jax.sharding.Mesh,
) -> tuple[Any, tuple]:
    """A jitted training step for a mean loss, and its arguments as abstract arrays.

    Args:
        loss: `(trained, frozen, *inputs) -> mean`.
        optimizer: of the trained parameters.
        trained, frozen: abstract parameters by path.
        inputs: abstract arrays of rows.
        axes: the model's.
        mesh: the devices.

    Returns:
        `steps` of `make_steps`; (state, batch of one step, data, key).
    """

    def of_batch(params: Any, batch: Any, given: Any, key: Any) -> Any:
        del key
        return loss(params, given, *batch), jnp.ones(())

    rows = batch_sharding(mesh, 1)
    stacked = tuple(jax.ShapeDtypeStruct((1, *a.shape), a.dtype, sharding=rows) for a in inputs)
    state = abstract_state_of(trained, optimizer, axes, mesh)
    steps = make_steps(of_batch, optimizer, set(trained))
    return steps, (state, stacked, _abstract(frozen, axes, mesh), jax.random.key(0))


def run_step(run: Any) -> Step:
    """Compiles a run's step for its own batches; allocates no parameters."""
    mesh = run.mesh
    frozen = {p: a for p, a in run.model.shapes.items() if run.roles[p] == "frozen"}
    batch, data = run.abstract_inputs()
    given = (_abstract(frozen, run.placed_axes, mesh), data)
    lowered = run.jitted_steps().lower(run.abstract_state(), batch, given, jax.random.key(0))
    return step_of(lowered.compile(), batch, mesh)


def step_of(compiled: Any, batch: Any, mesh: Any) -> Step:
    """The numbers of a compiled step.

    Args:
        compiled: of `jitted.lower(...).compile()`.
        batch: that it takes, abstract: a leading axis of steps, then rows.
        mesh: the devices.
    """
    program, arrays = Program(compiled), jax.tree.leaves(batch)
    return Step(
        mesh.size, program.flops, program.collectives, program.argument_bytes,
        program.working_bytes, program.peak_bytes,
        input_bytes=sum(math.prod(a.shape) * a.dtype.itemsize for a in arrays),
        rows=arrays[0].shape[1],
    )  # fmt: skip


def _placed(a: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding)


def _abstract(params: Mapping[str, Any], axes: AxisRules, mesh: Any) -> dict[str, Any]:
    shardings = param_shardings(params, axes, mesh)
    return {path: _placed(a, shardings[path]) for path, a in params.items()}
