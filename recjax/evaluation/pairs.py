"""How well a language model answers prompts that are held out."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax.sharding import NamedSharding

from recjax.data.rows import some_rows
from recjax.evaluation.likelihood import (
    MEASURES,
    LikelihoodConfig,
    PackedScorer,
    PredictFn,
    measures,
)
from recjax.text.pairs import Row, joined
from recjax.text.token_batches import Encoded


@dataclasses.dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of prompt and answer that are measured, as `NAME/answers/loss` and its kin.

    Attributes:
        config: how many pairs, and how.
        name: prefix of the metric names ("validation", "test").
        rows: the pairs of one part.
    """

    config: LikelihoodConfig
    name: str
    rows: Sequence[Row]

    @functools.cached_property
    def examples(self) -> Sequence[Row]:
        """The pairs that are measured."""
        chosen = some_rows(len(self.rows), self.config.max_examples, self.config.seed)
        return [self.rows[k] for k in chosen]

    @property
    def count(self) -> int:
        """How many examples there are."""
        return len(self.examples)

    @property
    def metric_names(self) -> list[str]:
        """The names that `run` gives."""
        return [f"{self.name}/answers/{measure}" for measure in MEASURES]

    def check(self) -> None:
        """Does nothing: every pair has an answer, and fits."""

    def named(self, *scores: np.ndarray) -> dict[str, float]:
        """Metrics by name, of the arguments of `measures`."""
        return {f"{self.name}/answers/{key}": value for key, value in measures(*scores).items()}


@dataclasses.dataclass(frozen=True, eq=False)
class PairEvaluator(Pairs, PackedScorer[Row]):
    """How well a language model answers prompts, as `DocumentEvaluator` measures documents.

    Attributes:
        config, name, rows: see `Pairs`.
        length, predict, sharding: see `PackedScorer`.
    """

    length: int
    predict: PredictFn
    sharding: NamedSharding | None = None

    def encoded(self, examples: Sequence[Row]) -> Encoded:
        """The examples as tokens."""
        return joined(examples)

    def run(self, params: Any, progress: Callable[[int], Any] = lambda n: None) -> dict[str, float]:
        """Metrics by name.

        Args:
            params: of the model.
            progress: called with the number of pairs done.
        """
        return self.named(*self.scores(params, progress))
