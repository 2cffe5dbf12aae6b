"""Rewards of users' scores: how well they rank the users' own items. All runs on the devices.

The two tasks of guided embedding refinement (section 4.2.1): the base one, next items by the mean
reciprocal rank, and the classification of items as liked or not, by the AUC.

Letters: B users, G answers of each, A aspects, I items and padding, C candidates; leading axes are
free.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp

from recjax.evaluation.ranking import EXACT
from recjax.typing import Array


def match(users: Array, items: Array) -> Array:
    """Inner products [... I] of users' scores [... A] and items' [I A], both standardised."""
    return jnp.einsum("...A,IA->...I", users, items, precision=EXACT)


def auc(scores: Array, liked: Array, known: Array) -> tuple[Array, Array]:
    """The area under the ROC curve: the share of pairs (liked, not liked) in the right order.

    Args:
        scores: [... C]; a tie counts one half.
        liked: [... C] bool.
        known: [... C] bool, candidates there are.

    Returns:
        The value [...], 0.5 where there is no pair, and whether there is one [...].
    """
    good, bad = known & liked, known & ~liked
    pairs = good[..., :, None] & bad[..., None, :]
    gap = scores[..., :, None] - scores[..., None, :]
    right = jnp.where(pairs, (jnp.sign(gap) + 1) / 2, 0.0).sum((-2, -1))
    count = pairs.sum((-2, -1))
    return jnp.where(count > 0, right / jnp.maximum(count, 1), 0.5), count > 0


def reciprocal_rank(scores: Array, targets: Array, known: Array, left_out: Array) -> Array:
    """The mean reciprocal rank [...] of items among a catalogue, each alone.

    Ties count against it, and so do scores that are NaN.

    Args:
        scores: [... I]; item 0 is the padding.
        targets: [... C] items.
        known: [... C] bool, targets there are.
        left_out: [... H] items that are not ranked (the history), each once; 0 fills up.
    """
    own = jnp.take_along_axis(scores, targets, axis=-1)
    above = (~(scores[..., None, 1:] < own[..., :, None])).sum(-1)
    seen = jnp.take_along_axis(scores, left_out, axis=-1)
    same = left_out[..., None, :] == targets[..., :, None]
    counted = (left_out > 0)[..., None, :] & ~same
    above -= (counted & ~(seen[..., None, :] < own[..., :, None])).sum(-1)
    value = jnp.where(known, 1.0 / jnp.maximum(above, 1), 0.0).sum(-1)
    return value / jnp.maximum(known.sum(-1), 1)


def _liked(users: Array, batch: Mapping[str, Array], items: Array) -> Array:
    """[B G]: the AUC of the next items, liked or not."""
    scores = jnp.einsum("BGA,BCA->BGC", users, items[batch["targets"]], precision=EXACT)
    return auc(scores, batch["liked"][:, None], batch["targets"][:, None] > 0)[0]


def _next(users: Array, batch: Mapping[str, Array], items: Array) -> Array:
    """[B G]: the mean reciprocal rank of the next items among all but the history."""
    scores = match(users, items)
    targets, history = (
        jnp.broadcast_to(a[:, None], (*scores.shape[:2], a.shape[-1]))
        for a in (batch["targets"], batch["history"])
    )
    return reciprocal_rank(scores, targets, targets > 0, history)


class Task(NamedTuple):
    """A task that rewards users' scores.

    Attributes:
        reward: `(users [B G A], batch of UserExamples, items [I A]) -> [B G]`, both standardised.
        metric: its name behind "NAME/".
        rated: it needs users with liked and other items.
    """

    reward: Callable[[Array, Mapping[str, Array], Array], Array]
    metric: str
    rated: bool


TASKS = {"liked": Task(_liked, "users/auc", True), "next": Task(_next, "full/mrr", False)}
