"""When training ends: goals that validation must meet, patience, a cap on the epochs.

A run holds its learning rate until all goals hold and, where `patience` is set, its metric has not
improved for so many validations; or until the cap is near. Then it cools down
(`config.optim.cooldown_epochs`) and ends. Steps that sufficed once are no criterion: another seed,
or another processor's rounding, needs more.
"""

import dataclasses
import math
from collections.abc import Mapping

_LOWER_IS_BETTER = ("loss", "perplexity", "rmse", "mae")


def lower_is_better(metric: str) -> bool:
    """Whether a metric falls as a model improves: by the end of its name."""
    return metric.rpartition("/")[2] in _LOWER_IS_BETTER


def unmet(goals: Mapping[str, float], values: Mapping[str, float]) -> list[str]:
    """The goals that do not hold, in words; empty where all hold.

    Args:
        goals: by metric, the least value; the largest one where lower is better.
        values: of a validation, by name.
    """
    out = []
    for metric, goal in goals.items():
        lower = lower_is_better(metric)
        if not (values[metric] <= goal if lower else values[metric] >= goal):
            least = "at most" if lower else "at least"
            out.append(f"{metric} is {values[metric]:.4g}, expected {least} {goal:.4g}")
    return out


@dataclasses.dataclass
class Progress:
    """The loop's own record, saved with every checkpoint so that a run can resume.

    Attributes:
        best_step: step of the best validation, or None.
        best_value: its metric; negative where lower is better.
        stale: validations since then, up to the cool-down.
        stopped: goals and patience let training end before its cap.
        met: there are goals, and the newest validation met them all.
        unmet: goals that it did not meet, in words.
        cooling: step at which the cool-down began, or None.
        cap: last step of a run that has ended, or 0.
        losses: of the steps since the last validation, the sum and number of each part.
        pending: the validation of this step is still to be made.
        usual: the mean loss between the two last validations; 0 before.
        rolled_back: how often training went back to a checkpoint.
        skipped: batches that were left out then: step s takes batch s + `skipped`.
    """

    best_step: int | None = None
    best_value: float = -math.inf
    stale: int = 0
    stopped: bool = False
    met: bool = False
    unmet: list[str] = dataclasses.field(default_factory=list)
    cooling: int | None = None
    cap: int = 0
    losses: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    pending: bool = False
    usual: float = 0.0
    rolled_back: int = 0
    skipped: int = 0

    def note(self, loss: float, part: str | None = None) -> None:
        """Adds a step's loss to its part of the training."""
        sums = self.losses.setdefault(part or "", [0.0, 0])
        sums[0], sums[1] = sums[0] + loss, sums[1] + 1

    @property
    def loss(self) -> float:
        """The mean of all steps since the last validation."""
        sums, counts = zip(*self.losses.values(), strict=True)
        return sum(sums) / sum(counts)

    def mean_losses(self) -> dict[str, float]:
        """`loss`, and `loss/PART` of each part."""
        parts = {f"loss/{k}": v[0] / v[1] for k, v in sorted(self.losses.items()) if k}
        return {"loss": self.loss, **parts}

    def may_go_on(self, cap: int, patience: int, goals: bool = False) -> bool:
        """Whether there is more to train, for a run with or without goals.

        There is not if patience (that of now) or the goals have ended the run, or if it ended at
        this cap or a later one. Where there is patience, goals that are met do not end a run by
        themselves.
        """
        if self.stopped:
            ended = self.stale >= patience and (goals or patience > 0)
            return not ended or (self.cooling is not None and not self.cap)
        return not self.cap or (cap > self.cap and not (self.met and not patience))

    def judge(
        self,
        values: Mapping[str, float],
        step: int,
        *,
        metric: str,
        patience: int,
        goals: Mapping[str, float],
    ) -> bool:
        """Notes a validation.

        Returns:
            Whether training may end, or cool down. In a cool-down nothing ends it early.
        """
        value = -values[metric] if lower_is_better(metric) else values[metric]
        self.unmet = unmet(goals, values)
        self.met = bool(goals) and not self.unmet
        better = value > self.best_value
        if better:
            self.best_step, self.best_value = step, value
        if self.cooling is not None:
            return False
        self.stale = 0 if better else self.stale + 1
        plateau = self.stale >= patience
        self.stopped = plateau and (self.met if goals else bool(patience))
        return self.stopped
