"""How well a model with an encoder answers prompts; see `likelihood.PairEvaluator`."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from recjax.evaluation.likelihood import MEASURES, LikelihoodConfig, measures
from recjax.text.pairs import Row
from recjax.text.sides import sides


@dataclasses.dataclass(frozen=True, eq=False)
class SidedEvaluator:
    """`NAME/answers/loss` and its kin, of the pairs of one part.

    Attributes:
        config: how many pairs, and how.
        name: of the part.
        rows: its pairs.
        end: see `sides`.
        predict: `(params, batch) -> (loss [B], likeliest tokens that were right [B])`.
    """

    config: LikelihoodConfig
    name: str
    rows: Sequence[Row]
    end: Sequence[int]
    predict: Callable[..., tuple[Any, Any]]

    @functools.cached_property
    def examples(self) -> Sequence[Row]:
        """The pairs that are measured."""
        most = self.config.max_examples
        if not 0 < most < len(self.rows):
            return self.rows
        rng = np.random.default_rng(self.config.seed)
        chosen = np.sort(rng.choice(len(self.rows), most, replace=False))
        return [self.rows[k] for k in chosen]

    @property
    def metric_names(self) -> list[str]:
        """The names that `run` gives."""
        return [f"{self.name}/answers/{measure}" for measure in MEASURES]

    def check(self) -> None:
        """Nothing is left to find out: every pair has an answer, and fits."""

    def run(self, params: Any, progress: Callable[[int], Any] = lambda n: None) -> dict[str, float]:
        """Metrics by name.

        Args:
            params: of the model.
            progress: called with the number of pairs done.
        """
        size, arrays = self.config.batch_size, sides(self.examples, self.end)
        found = []
        for start in range(0, len(self.examples), size):
            batch = {k: a[start : start + size] for k, a in arrays.items()}
            rows = len(batch["labels"])
            batch = {
                k: np.concatenate([a, np.repeat(a[:1], size - rows, axis=0)])
                for k, a in batch.items()
            }
            loss, right = (np.asarray(a)[:rows] for a in self.predict(params, batch))
            found.append((loss, right, (batch["labels"][:rows] >= 0).sum(axis=1)))
            progress(rows)
        values = measures(*(np.concatenate(arrays) for arrays in zip(*found, strict=True)))
        return {f"{self.name}/answers/{key}": value for key, value in values.items()}
