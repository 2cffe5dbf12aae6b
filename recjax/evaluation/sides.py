"""How well a model with an encoder answers prompts; see `likelihood.PairEvaluator`."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from recjax.evaluation.pairs import Pairs
from recjax.text.sides import sides


@dataclasses.dataclass(frozen=True, eq=False)
class SidedEvaluator(Pairs):
    """How well a model with an encoder answers prompts, of the pairs of one part.

    Attributes:
        config, name, rows: see `Pairs`.
        end: see `sides`.
        predict: `(params, batch) -> (loss [B], likeliest tokens that were right [B])`.
    """

    end: Sequence[int]
    predict: Callable[..., tuple[Any, Any]]

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
        return self.named(*(np.concatenate(arrays) for arrays in zip(*found, strict=True)))
