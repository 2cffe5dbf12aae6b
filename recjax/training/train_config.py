"""Section `train` of a config, and the steps that it asks for."""

import dataclasses
from typing import Annotated, Literal

from recjax.config import nearest
from recjax.ranges import Amount, Checked, Count, Epochs, FieldError, Range, Size
from recjax.sharded import MESH_AXES, RULES

Devices = Annotated[int, Range(-1, 2**20)]


@dataclasses.dataclass(frozen=True)
class TrainConfig(Checked):
    """Section `train`: batches, length, validation, checkpoints."""

    # Sequences (documents) a step, over all devices; all of them where they are fewer.
    batch_size: Size = 256
    # At most this many; an epoch is the number of steps that is nearest to one pass over them.
    epochs: Epochs = 200.0
    # Steps in one compiled call; the last call is shorter, and so are all where they would go
    # beyond the next validation.
    steps_per_call: Annotated[int, Range(1, 10_000)] = 16
    evaluate_every: Epochs = 1.0  # epochs between validations (and checkpoints)
    # Validations without a better metric before training ends, or cools down; 0 = no such end.
    patience: Count = 0
    # Higher is better; lower where its name ends in "loss", "perplexity", "rmse" or "mae".
    metric: str = "validation/full/ndcg@10"
    # Validation metrics and what they must reach (at most, where lower is better): training ends,
    # or cools down, when all hold, and with `patience` not before that has ended, too.
    goals: dict[str, Annotated[float, Range()]] = dataclasses.field(default_factory=dict)
    keep_checkpoints: Annotated[int, Range(1, 10_000)] = 2  # newest ones, beside the best
    # A loss or gradient that is no number ends training, or, so many times, takes it back to the
    # newest checkpoint; it goes on there with other batches. 0 = it ends.
    rollbacks: Count = 0
    # A step's loss counts as diverged, too, above so many times the mean loss between the two last
    # validations; 0 = never.
    spike: Amount = 0.0
    # Devices over data, fsdp, tensor; -1 = what is left.
    mesh: tuple[Devices, Devices, Devices] = (-1, 1, 1)
    # Mesh axes over which a logical axis is split, in place of those of `recjax.sharded.RULES`;
    # "length" are activations between layers, () is none.
    rules: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    # A batch's parts, one after the other: less memory for activations, the same gradient but for
    # what is drawn: each part has its own dropout and negatives (of the batch: its own targets).
    accumulate: Annotated[int, Range(1, 10_000)] = 1
    # Of activations and gradients through them; parameters, optimiser, losses and validations stay
    # in float32.
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self):
        super().__post_init__()
        if self.mesh.count(-1) > 1 or 0 in self.mesh:
            raise FieldError("mesh", f"expected sizes from 1 on, at most one -1, got {self.mesh}")
        for name, axes in self.rules.items():
            if name not in RULES:
                raise FieldError("rules", f"no logical axis '{name}'; {nearest(name, RULES)}")
            for axis in axes:
                if axis not in MESH_AXES:
                    raise FieldError("rules", f"no mesh axis '{axis}'; {nearest(axis, MESH_AXES)}")
            if len(set(axes)) < len(axes):
                raise FieldError("rules", f"'{name}' names an axis twice: {axes}")


def total_steps(epochs: float, steps_per_epoch: int) -> int:
    """The steps of a run, at least one: a step that epochs do not reach is not taken."""
    return max(1, int(epochs * steps_per_epoch + 1e-6))


def validation_steps(config: TrainConfig, steps_per_epoch: int) -> int:
    """Steps between validations."""
    return whole_calls(config.evaluate_every * steps_per_epoch, config)


def whole_calls(steps: float, config: TrainConfig) -> int:
    """The nearest number of steps in whole calls, or one call that is as much shorter: a call of
    another length is another program to compile."""
    count = config.steps_per_call
    return round(steps / count) * count if steps >= count else max(1, round(steps))
