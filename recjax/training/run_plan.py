"""The cost of a run's training, by its config and data, before anything is allocated."""

import dataclasses
from typing import Any

from recjax.errors import InputError
from recjax.training.compiled import Step, run_step
from recjax.training.devices import Device
from recjax.training.system import load_system
from recjax.training.train_config import TrainConfig


@dataclasses.dataclass(frozen=True)
class RunPlan:
    """The cost of a run's training step; bytes are those of one device.

    Attributes:
        parameters: of the model; frozen models beside it are not counted.
        trained: how many of them are trained.
        rows: of a step, on all devices.
        compiled: the step.
        held_bytes: of what is on a device beside the step: the recommender of an interpreter.
    """

    parameters: int
    trained: int
    rows: int
    compiled: Step
    held_bytes: int

    @property
    def total_bytes(self) -> int:
        """Bytes of the step, and of what is held beside it."""
        return self.compiled.peak_bytes + self.held_bytes

    def as_dict(self) -> dict[str, Any]:
        """The numbers by name."""
        return {**dataclasses.asdict(self), "total_bytes": self.total_bytes}

    def table(self, device: Device | None = None) -> str:
        """The numbers as text, beside the rates of a device."""
        step = self.compiled
        summary = (
            f"{self.parameters:,} parameters, {self.trained:,} trained; {self.rows:,} rows a step "
            f"on {step.devices} device(s), {step.input_bytes / 1e6:.3f} MB of input"
        )
        held = []
        if self.held_bytes:
            held = [f"beside the step, GB: {self.held_bytes / 1e9:.3f} of frozen models"]
        return "\n".join([summary, *step.lines(device), *held])


def plan_run(config: Any, mesh: tuple[int, int, int]) -> RunPlan:
    """Plans a run, whose data are prepared; allocates no parameter.

    Raises:
        InputError: no such data; a batch or parameters that the mesh does not divide.
    """
    system = load_system(config.system)
    steps = isinstance(getattr(config, "train", None), TrainConfig)
    if not steps or not hasattr(config, "optim"):
        raise InputError(f"config.system: '{config.system}'; expected one that trains in steps")
    train = dataclasses.replace(config.train, mesh=mesh)
    config = dataclasses.replace(config, train=train)
    run = system.run(config, system.store(config, False)).outline()
    if wrong := run.undivided():
        raise InputError(f"mesh {mesh}: {wrong[0]}; expected sizes that divide what they split")
    step, model = run_step(run), run.model
    return RunPlan(model.size(), model.size(run.trained), step.rows, step, run.held_bytes)
