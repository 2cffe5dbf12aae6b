"""How well an explanation run predicts, rates and writes: see the table in `explanation`."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from jax.sharding import NamedSharding

from recjax.evaluation.protocols import Measured
from recjax.evaluation.shards import fetch, filled, shards_of, split_batch
from recjax.evaluation.text import bleus, error_means, error_values, rouge_values, text_metrics
from recjax.ranges import Checked, Count, Seed, Size
from recjax.text.explained import Explained
from recjax.typing import Array, Params

_TEXTS = ("bleu2", "bleu4", "rouge1", "rouge2", "rougeL")


@dataclasses.dataclass(frozen=True)
class ExplanationEvaluationConfig(Checked):
    """Section `evaluation` of explanations."""

    batch_size: Size = 256  # reviews at a time
    max_examples: Count = 1000  # of each part, at most; 0 = all. RecSysLLM's number and draw
    seed: Seed = 0  # of the draw
    write_in_validation: bool = False  # texts are written at each validation, too


@dataclasses.dataclass(frozen=True, eq=False)
class ExplanationEvaluator:
    """Loss, ratings and texts of one part of the split.

    Attributes:
        config: how many reviews, and how.
        name: of the part.
        examples: its reviews.
        arrays: of `as_arrays`.
        sharding: how a batch's rows are split over devices (`recjax.evaluation.shards`).
        read: `(params, batch) -> (loss summed, tokens, ratings [B] or None)`.
        writer: `params -> (batch -> texts)`, or None where none are written.
        limits: the lowest and highest rating of training; predictions stay between them.
        rates: whether ratings are predicted.
        common: the most frequent training text.
    """

    config: ExplanationEvaluationConfig
    name: str
    examples: Explained
    arrays: Mapping[str, np.ndarray]
    sharding: NamedSharding | None
    read: Callable[..., tuple[Array, Array, Array | None]]
    writer: Callable[[Params], Callable[[Mapping[str, np.ndarray]], list[str]]] | None
    limits: tuple[float, float]
    rates: bool
    common: str

    @property
    def metric_names(self) -> list[str]:
        """The names that `run` gives."""
        out = ["explanation/loss", *(["rating/rmse", "rating/mae"] if self.rates else [])]
        if self.writer is not None:
            out += [f"explanation/{name}" for name in (*_TEXTS, "unique")]
            out += [f"explanation/baseline/{name}" for name in _TEXTS]
        return [f"{self.name}/{name}" for name in out]

    def check(self) -> None:
        """Raises `InputError` where nothing can be measured; `explained` has found out."""

    def _batches(self) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """How many rows count, and the batch; the last one is filled up with its first row."""
        size, shards = self.config.batch_size, shards_of(self.sharding)
        whole = -(-size // shards) * shards
        for start in range(0, len(self.examples), size):
            batch = {name: array[start : start + size] for name, array in self.arrays.items()}
            rows = len(batch["users"])
            batch = filled(batch, whole)
            batch["labels"][rows:] = -1
            yield rows, batch

    @property
    def count(self) -> int:
        """How many reviews there are."""
        return len(self.examples)

    def run(self, params: Params, progress: Callable[[int], Any] = lambda n: None) -> dict:
        """Metrics by name."""
        return self.measure(params, progress).metrics

    def measure(self, params: Params, progress: Callable[[int], Any] = lambda n: None) -> Measured:
        """Errors and ROUGE of each review.

        Args:
            params: of the model.
            progress: called with the number of reviews done.
        """
        write = None if self.writer is None else self.writer(params)
        losses, tokens = 0.0, 0.0
        ratings: list[np.ndarray] = []
        texts: list[str] = []
        for rows, batch in self._batches():
            outputs = self.read(params, split_batch(batch, self.sharding))
            loss, count, rating = fetch(outputs)
            losses, tokens = losses + float(loss), tokens + float(count)
            if rating is not None:
                ratings.append(np.asarray(rating, np.float64)[:rows])
            if write is not None:
                texts += write(batch)[:rows]
            progress(rows)
        out = {"explanation/loss": losses / tokens}
        values: dict[str, dict[str, np.ndarray]] = {}
        examples = self.examples
        if ratings:
            given = np.concatenate(ratings)
            values["rating"] = error_values(given, examples.ratings, *self.limits)
            out |= {f"rating/{k}": v for k, v in error_means(values["rating"]).items()}
        if texts:
            wanted = list(examples.texts)
            values["explanation"] = rouge_values(texts, wanted)
            out |= {f"explanation/{k}": v for k, v in bleus(texts, wanted).items()}
            rouges = values["explanation"].items()
            out |= {f"explanation/{k}": float(v.mean()) for k, v in rouges}
            out["explanation/unique"] = len(set(texts)) / len(texts)
            trivial = text_metrics([self.common] * len(wanted), wanted)
            out |= {f"explanation/baseline/{k}": v for k, v in trivial.items()}
        metrics = {f"{self.name}/{key}": value for key, value in out.items()}
        return Measured(self.name, examples.places, examples.users, examples.items, values, metrics)
