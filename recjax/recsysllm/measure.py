"""Measures the objective's loss on held-out blanks."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from jax.sharding import NamedSharding

from recjax.errors import InputError
from recjax.evaluation.likelihood import (
    MEASURES,
    LikelihoodConfig,
    PackedScorer,
    PredictFn,
    measures,
)
from recjax.recsysllm.blanks import BlankBatches
from recjax.text.documents import Document
from recjax.text.token_batches import Encoded


@dataclasses.dataclass(frozen=True, eq=False)
class BlankEvaluator(PackedScorer[tuple[int, Document]]):
    """Blanks of held-out documents, drawn once: `NAME/text/loss` and its kin.

    Of each kind of document, and of all together ("text"): `loss` (nats a token of the blanks),
    `perplexity`, `accuracy` (share of tokens that were the likeliest) and `exact` (share of
    documents whose blanks were the likeliest at every token).

    Attributes:
        config: how many documents, and the seed of their blanks.
        name: prefix of the metric names ("validation", "test").
        documents: what is measured.
        batches: of the run, which draw the blanks.
        predict: the model.
        sharding: how a batch's rows are split over devices (`recjax.evaluation.shards`).
    """

    config: LikelihoodConfig
    name: str
    documents: Sequence[Document]
    batches: BlankBatches
    predict: PredictFn
    sharding: NamedSharding | None = None
    learned: ClassVar[str] = "targets"

    @property
    def length(self) -> int:  # type: ignore[override]
        """T."""
        return self.batches.length

    @functools.cached_property
    def examples(self) -> list[tuple[int, Document]]:
        """The documents by their places, on which their blanks depend."""
        return list(enumerate(self.documents))

    def encoded(self, examples: Sequence[tuple[int, Document]]) -> Encoded:
        """Documents with their blanks."""
        places, documents = zip(*examples, strict=True)
        return self.batches.blanked(documents, np.array(places), self.config.seed)

    @property
    def metric_names(self) -> list[str]:
        """The names that `run` gives."""
        return [f"{self.name}/{kind}/{m}" for kind in ("text", *self._kinds) for m in MEASURES]

    @property
    def _kinds(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(document.kind for document in self.documents))

    def check(self) -> None:
        """Finds out what `run` would.

        Raises:
            InputError: there is no document, or a kind has none with a blank.
        """
        if not self.documents:
            raise InputError(f"config.text: no document is held out for the {self.name}")
        blanked = {
            self.documents[at * self.config.batch_size + place].kind
            for at, batch in enumerate(self._batches)
            for place in np.unique(batch["documents"][batch["targets"] >= 0])
        }
        for kind in self._kinds:
            if kind not in blanked:
                raise InputError(
                    f"config.length: {self.length} tokens leave no room for a blank in any "
                    f"{self.name} document of kind '{kind}'"
                )

    def run(self, params: Any, progress: Callable[[int], Any] = lambda n: None) -> dict[str, float]:
        """Metrics by name.

        Args:
            params: of the model.
            progress: called with the number of documents done.
        """
        self.check()
        loss, right, tokens = self.scores(params, progress)
        kinds = np.array([document.kind for document in self.documents])
        out: dict[str, float] = {}
        for name in ("text", *self._kinds):
            chosen = np.ones(len(kinds), bool) if name == "text" else kinds == name
            values = measures(loss[chosen], right[chosen], tokens[chosen])
            out |= {f"{self.name}/{name}/{key}": value for key, value in values.items()}
        return out
