"""How well a model with an encoder answers prompts; see `pairs.PairEvaluator`."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from recjax.evaluation.pairs import Pairs
from recjax.evaluation.shards import fetch, shards_of, split_batch
from recjax.text.pairs import Row
from recjax.text.sides import Sides, Widths, fixed_sides
from recjax.typing import Array

# `(params, batch of lay_out_sides) -> (loss, whether the likeliest token was right)` [R T] of the
# decoder's places; 0 where there is no label.
Predict = Callable[[Any, Mapping[str, Array]], tuple[Array, Array]]


def label_likelihood(logits: Array, labels: Array) -> tuple[Array, Array]:
    """See `Predict`; logits [R T V], labels [R T], negative = none."""
    logits, real, wanted = logits.astype(jnp.float32), labels >= 0, jnp.maximum(labels, 0)
    chosen = jnp.take_along_axis(logits, wanted[..., None], axis=-1)[..., 0]
    loss = jax.nn.logsumexp(logits, axis=-1) - chosen
    return loss * real, (logits.argmax(axis=-1) == wanted) & real


def answer_scores(
    predict: Predict,
    params: Any,
    pairs: Sequence[Sides],
    widths: Widths,
    batch_size: int,
    sharding: NamedSharding | None,
    progress: Callable[[int], Any],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`(loss, right, tokens)` [n] of the answers; see `likelihood.PackedScorer.scores`.

    Args:
        predict: jitted.
        params: of the model.
        pairs: at least one.
        widths: see `lay_out_sides`.
        batch_size: pairs a batch.
        sharding: how a batch's rows are split over devices (`recjax.evaluation.shards`).
        progress: called with the number of pairs done.
    """
    loss, right, tokens = np.zeros((3, len(pairs)))
    batches = fixed_sides(pairs, widths, batch_size, shards_of(sharding))
    for first, batch in zip(range(0, len(pairs), batch_size), batches, strict=True):
        real, owner = batch["labels"] >= 0, first + batch.pop("pairs")
        results = fetch(predict(params, split_batch(batch, sharding)))
        for total, values in zip((loss, right), results, strict=True):
            total += np.bincount(owner[real], values[real], minlength=len(pairs))
        tokens += np.bincount(owner[real], minlength=len(pairs))
        progress(min(batch_size, len(pairs) - first))
    return loss, right, tokens


@dataclasses.dataclass(frozen=True, eq=False)
class SidedEvaluator(Pairs):
    """How well a model with an encoder answers prompts, of the pairs of one part.

    Attributes:
        config, name, rows: see `Pairs`.
        sides: the two sides of a row.
        widths, predict, sharding: see `answer_scores`.
    """

    sides: Callable[[Row], Sides]
    widths: Widths
    predict: Predict
    sharding: NamedSharding | None = None

    def run(self, params: Any, progress: Callable[[int], Any] = lambda n: None) -> dict[str, float]:
        """Metrics by name.

        Args:
            params: of the model.
            progress: called with the number of pairs done.
        """
        pairs = [self.sides(row) for row in self.examples]
        size = self.config.batch_size
        return self.named(
            *answer_scores(self.predict, params, pairs, self.widths, size, self.sharding, progress)
        )
