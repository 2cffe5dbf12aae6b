"""The next-token loss of a language model, at labelled places only."""

import math
from collections.abc import Callable, Mapping

import jax.numpy as jnp
from jax.sharding import Mesh

from recjax.evaluation.likelihood import likelihood
from recjax.nn.places import at_places, flat_rows
from recjax.training.cross_entropy import SumWeight, softmax_cross_entropy
from recjax.typing import Array


def label_budget(share: float, labels: Array, parts: int) -> int:
    """Labels that a part of a batch has at most.

    Args:
        share: of a whole batch's places, at most, that have a label.
        labels: of the part.
        parts: of a batch; one of several may have more than its share.
    """
    return math.ceil((share if parts == 1 else 1.0) * labels.size)


def token_loss(
    h: Array,
    table: Array,
    labels: Array,
    *,
    budget: int | None = None,
    chunk: int | None = None,
    mesh: Mesh | None = None,
) -> SumWeight:
    """Cross-entropy of the labelled tokens, as (sum, number of labels).

    A prompt's tokens have no labels: their hidden states are left out before the head, which for a
    small model with a large vocabulary costs as much as its layers. What remains is taken `chunk`
    at a time (`softmax_cross_entropy`), so [B T V] logits never exist, and a table that is not
    trained costs no gradient.

    Args:
        h: final hidden states [B T E].
        table: of the head, [V E] (`LanguageModule.head_table`).
        labels: [B T] int32, as in transformers: the token at this very place, which the place
            before predicts; negative (-100) = no label, as at the first token of each text that
            is packed into a row. What stands at the first place is never used.
        budget: at most this many labels in the batch (static); by default all B (T - 1) places are
            taken, labelled or not. The loss is nan if there are more: none is left out silently.
        chunk: labels at a time; None picks about 32 MiB of logits.
        mesh: its devices compute the rows that they hold, on n of them with 1/n of the budget each.
    """
    return label_loss(h[:, :-1], table, labels[:, 1:], budget=budget, chunk=chunk, mesh=mesh)


def label_loss(
    h: Array,
    table: Array,
    labels: Array,
    *,
    budget: int | None = None,
    chunk: int | None = None,
    mesh: Mesh | None = None,
) -> SumWeight:
    """`token_loss` of places that know what they predict.

    Args:
        h: [B Q E].
        table, budget, chunk, mesh: as there.
        labels: [B Q] int32, the token that each place predicts; negative = none.
    """
    h, labels = h.reshape(-1, h.shape[-1]), labels.reshape(-1)
    real = labels >= 0
    return softmax_cross_entropy(
        h,
        table,
        jnp.where(real, labels, 0),
        real.astype(jnp.float32),
        chunk,
        padded=False,
        budget=budget,
        mesh=mesh,
        name="vocab",
    )


def token_likelihood(
    h: Array, batch: Mapping[str, Array], logits: Callable[[Array], Array]
) -> tuple[Array, Array]:
    """`likelihood` of a batch's tokens at `places` (`recjax.evaluation.likelihood.PredictFn`).

    Args:
        h: final hidden states [R T E].
        batch: `tokens` [R T] and `places`.
        logits: the model's head, [... E] -> [... V].
    """
    places = batch["places"]
    before = at_places(lambda at, flat: flat[at - 1], places, h)
    targets = flat_rows(batch["tokens"], places)
    return likelihood(before, targets, logits, 1 if places.ndim == 1 else len(places))


def label_likelihood(
    h: Array, batch: Mapping[str, Array], logits: Callable[[Array], Array]
) -> tuple[Array, Array]:
    """`token_likelihood` of places that know what they predict: `targets` [R T]."""
    places = batch["places"]
    own = flat_rows(h, places)
    targets = flat_rows(batch["targets"], places)
    return likelihood(own, targets, logits, 1 if places.ndim == 1 else len(places))
