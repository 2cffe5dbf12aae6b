"""The likelihood of given tokens by a language model, without generating.

Letters: R packed rows, T tokens, M labelled places.
"""

import abc
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from recjax.data.ragged import row_starts
from recjax.evaluation.shards import fetch, shards_of, split_batch
from recjax.ranges import Checked, Count, Seed, Size
from recjax.text.token_batches import NO_LABEL, Encoded, fixed_batches
from recjax.typing import Array

MEASURES = ("loss", "perplexity", "accuracy", "exact")
_CHUNK = 512  # places whose logits are held at a time

# `(params, batch) -> (negative log-likelihood [M], whether the likeliest token was right [M])` of
# the tokens at `places` [M], flat in the [R T] of `tokens`, `positions` and `segments`, or [S m] in
# S equal parts of the rows; soft tokens as in `recjax.text.token_batches`.
PredictFn = Callable[[Any, Mapping[str, Array]], tuple[Array, Array]]


@dataclasses.dataclass(frozen=True)
class LikelihoodConfig(Checked):
    """Section `evaluation` of language models."""

    batch_size: Size = 128  # documents a batch
    max_examples: Count = 500  # of each kind: items, or histories in every prompt; 0 = all
    seed: Seed = 0  # of their choice


def likelihood(
    h: Array, targets: Array, logits: Callable[[Array], Array], parts: int = 1
) -> tuple[Array, Array]:
    """Negative log-likelihood, and whether the likeliest token is the target.

    Args:
        h: [M E] hidden states before the targets, M a multiple of 512 in each part.
        targets: [M].
        logits: the model's head, [... E] -> [... V].
        parts: equal parts of M, that different devices may hold: 512 of each are taken at a time.

    Returns:
        `(loss [M], right [M] bool)`.
    """

    def measured(chunk: tuple[Array, Array]) -> tuple[Array, Array]:
        h, targets = chunk
        scores = logits(h).astype(jnp.float32)
        target_scores = jnp.take_along_axis(scores, targets[..., None], axis=-1)[..., 0]
        loss = jax.nn.logsumexp(scores, axis=-1) - target_scores
        return loss, scores.argmax(axis=-1) == targets

    lead = (parts, -1, _CHUNK) if parts > 1 else (-1, _CHUNK)
    chunks = h.reshape(*lead, h.shape[-1]), targets.reshape(lead)
    if parts == 1:
        loss, right = jax.lax.map(measured, chunks)
    else:
        results = jax.lax.map(measured, tuple(jnp.moveaxis(a, 1, 0) for a in chunks))
        loss, right = (jnp.moveaxis(a, 1, 0) for a in results)
    return loss.reshape(-1), right.reshape(-1)


M = TypeVar("M")


class PackedScorer(abc.ABC, Generic[M]):
    """Scores the learned tokens of examples by a language model; examples are packed into rows.

    Attributes:
        config: how many examples, and how many at a time.
        length: T.
        predict: the model.
        sharding: how a batch's rows are split over devices (`recjax.evaluation.shards`).
    """

    config: LikelihoodConfig
    length: int
    predict: PredictFn
    sharding: NamedSharding | None
    learned: ClassVar[str] = "labels"  # the field that says what is learned where

    @property
    @abc.abstractmethod
    def examples(self) -> Sequence[M]:
        """The examples that are measured."""

    @property
    def count(self) -> int:
        """How many examples there are."""
        return len(self.examples)

    @abc.abstractmethod
    def encoded(self, examples: Sequence[M]) -> Encoded:
        """Examples as tokens."""

    def parts(self, example: M) -> int:
        """The number of an example's parts that are scored apart: 1, ... in the field `options`."""
        del example
        return 1

    @functools.cached_property
    def _batches(self) -> list[dict[str, np.ndarray]]:
        """Packed rows with `places` of the labels, [M] or [S m], padded with -1 to one size."""
        shards = shards_of(self.sharding)
        batches = fixed_batches(
            self.examples, self.encoded, self.length, self.config.batch_size, shards
        )
        places = [
            [np.flatnonzero(part != NO_LABEL) for part in np.split(batch[self.learned], shards)]
            for batch in batches
        ]
        size = -(-max(len(place) for parts in places for place in parts) // _CHUNK) * _CHUNK
        out = []
        for batch, parts in zip(batches, places, strict=True):
            padded = np.full((shards, size), -1, np.int32)
            for row, part in zip(padded, parts, strict=True):
                row[: len(part)] = part
            out.append({**batch, "places": padded if shards > 1 else padded[0]})
        return out

    @functools.cached_property
    def _predict(self) -> Callable[..., tuple[Array, Array]]:
        return jax.jit(self.predict)

    def scores(
        self, params: Any, progress: Callable[[int], Any]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`(loss, right, tokens)` [n] of the examples, or of all their parts in turn.

        `loss` is summed over an example's learned tokens, `right` counts those that were the
        likeliest, and `tokens` counts all of them.

        Args:
            params: the model's parameters.
            progress: called with the number of examples done.
        """
        size, done = self.config.batch_size, 0
        parts = np.array([self.parts(example) for example in self.examples])
        firsts = row_starts(parts)
        loss, right, tokens = (np.zeros(parts.sum()) for _ in range(3))
        for batch in self._batches:
            places = np.atleast_2d(batch["places"])
            documents = batch["documents"].reshape(len(places), -1)
            real = (places >= 0).reshape(-1)
            inputs = {k: batch[k] for k in batch if k != "documents"}
            results = self._predict(params, split_batch(inputs, self.sharding))
            owner = np.take_along_axis(documents, places, axis=1).reshape(-1)[real]
            owner = firsts[done + owner]
            if "options" in batch:
                options = batch["options"].reshape(len(places), -1)
                owner += np.take_along_axis(options, places, axis=1).reshape(-1)[real] - 1
            for total, values in zip((loss, right), fetch(results), strict=True):
                total += np.bincount(owner, values[real], minlength=len(total))
            tokens += np.bincount(owner, minlength=len(tokens))
            count = min(size, len(self.examples) - done)
            done += count
            progress(count)
        return loss, right, tokens


def measures(loss: np.ndarray, right: np.ndarray, tokens: np.ndarray) -> dict[str, float]:
    """`MEASURES` of examples' scores: loss, likeliest tokens and tokens [n] of each."""
    mean = float(loss.sum() / tokens.sum())
    exact = (right == tokens) & (tokens > 0)  # an example that was cut off is not exact
    values = (mean, math.exp(min(mean, 700.0)), right.sum() / tokens.sum(), exact.mean())
    return dict(zip(MEASURES, map(float, values), strict=True))
