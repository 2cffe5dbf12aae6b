"""Training objectives of the recommenders: a loss, and what it draws its negatives from.

The losses themselves are functions of arrays (`recjax.training.losses`). Negatives are drawn
inside the step, on the device (`recjax.data.negatives`).
"""

import dataclasses
import functools
import math
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from recjax.data.negatives import nth_negative, popularity_cdf, sort_positives
from recjax.data.splits import Spans
from recjax.errors import InputError
from recjax.ranges import Amount, Checked, FieldError, Positive, Range, Share
from recjax.training import losses
from recjax.training.cross_entropy import SumWeight, above_mean, softmax_cross_entropy
from recjax.typing import Array

# Of more items a uniform float32, which has 2**23 values, does not draw all alike, or some never.
_EVEN = 1 << 20
_PAIRWISE = ("bpr", "top1", "bpr_max", "top1_max")
_SHARED = ("sampled_softmax", "ccl", *_PAIRWISE)  # their negatives are the whole batch's
# Which objectives read a field; the others are read by all.
_READERS = {
    "negatives": ("bce", "gbce", *_SHARED),
    "batch_negatives": _PAIRWISE,
    "popularity_power": _SHARED,
    "calibration": ("gbce",),
    "regularization": ("bpr_max",),
    "margin": ("ccl",),
    "negative_weight": ("ccl",),
    "temperature": ("softmax", "sampled_softmax"),
    "smoothing": ("softmax",),
}


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig(Checked):
    """Section `objective`: the loss and its negatives."""

    # bce and gbce draw negatives for each position; softmax and mse need none; the others share
    # theirs over the batch.
    name: Literal[
        "bce",
        "gbce",
        "softmax",
        "sampled_softmax",
        "bpr",
        "top1",
        "bpr_max",
        "top1_max",
        "ccl",
        "mse",
    ] = "bce"
    negatives: Annotated[int, Range(0, 2**20)] = 1  # M, drawn from the catalogue
    # Bpr, top1, bpr_max, top1_max: M more, drawn from the batch's targets.
    batch_negatives: Annotated[int, Range(0, 2**20)] = 0
    # Alpha: shared negatives are drawn as count ** alpha.
    popularity_power: Annotated[float, Range(0, 10)] = 0.0
    calibration: Share = 0.75  # gbce: t of gSASRec (Petrov and Macdonald 2023)
    regularization: Amount = 1.0  # bpr_max: lambda of the score penalty
    margin: Share = 0.9  # ccl: cosines of negatives below it cost nothing
    negative_weight: Amount = 1.0  # ccl: mu, weight of the mean over the negatives
    temperature: Positive = 1.0  # softmax, sampled_softmax: their logits are divided by it
    smoothing: Share = 0.0  # softmax: share of the target's probability that all items get
    states_weight: Amount = 0.0  # adds the softmax of the states that guide a generative model

    def __post_init__(self):
        super().__post_init__()
        if self.name not in ("softmax", "mse") and not self.negatives + self.batch_negatives:
            raise FieldError("negatives", f"'{self.name}' needs at least 1")
        for field in dataclasses.fields(self):
            readers = _READERS.get(field.name, (self.name,))
            if self.name not in readers and getattr(self, field.name) != field.default:
                raise FieldError(
                    field.name,
                    f"'{self.name}' has none; expected {field.default}, or {' or '.join(readers)}",
                )

    @property
    def shared(self) -> bool:
        """Whether the negatives are shared by the batch."""
        return self.name in _SHARED


class Objective:
    """An objective with what it draws negatives from, kept on the device.

    Args:
        config: which loss, how many negatives.
        items: the store's flat item ids.
        spans: the training runs: their items are positives (validation and test items are not:
            they may be drawn, as nothing else would tell the model that they are future).
        n_items: I.
        mesh: the devices over which positions are split; None = one device.
        budget: targets of a batch at most; a softmax computes only so many positions. None = all.

    Raises:
        InputError: a user has every item.
    """

    def __init__(
        self,
        config: ObjectiveConfig,
        items: np.ndarray,
        spans: Spans,
        n_items: int,
        mesh: Mesh | None = None,
        budget: int | None = None,
    ):
        self.config, self.n_items = config, n_items
        self._softmax = functools.partial(
            softmax_cross_entropy, mesh=mesh, rows=n_items, budget=budget
        )
        self.data: dict[str, Any] = {}  # arrays, passed to the jitted step
        self._longest, self._log_scale = 0, 0.0
        if config.name in ("softmax", "mse"):
            return
        if config.shared:
            used = np.concatenate([items[a:b] for a, b in _runs(spans)])
            counts = np.bincount(used, minlength=n_items)
            counts[1:] = np.maximum(counts[1:], 1)  # every item can be drawn
            self.data["cdf"] = popularity_cdf(counts, config.popularity_power)
            if config.name == "sampled_softmax":
                # As whole numbers: a step in bfloat16 rounds all that is not.
                self.data["counts"] = counts.astype(np.int32)
                total = np.sum(counts[1:].astype(np.float64) ** config.popularity_power)
                self._log_scale = math.log(config.negatives / total)
            return
        offsets, positives = sort_positives(items, spans.starts, spans.stops)
        lengths = np.diff(offsets)
        self._longest = int(lengths.max(initial=0))
        if self._longest >= n_items - 1:
            user = int(spans.users[int(lengths.argmax())])
            raise InputError(f"user {user} has all {n_items - 1} items: no negative is left")
        if offsets[-1] >= 2**31:
            raise InputError(f"{offsets[-1]} training interactions; at most {2**31 - 1}")
        self.data["offsets"] = offsets.astype(np.int32)
        self.data["positives"] = positives

    def __call__(
        self,
        h: Array,
        table: Array,
        targets: Array,
        sequences: Array,
        data: dict[str, Array],
        key: Array,
        states: Array | None = None,
        seen: tuple[Array, Array] | None = None,
    ) -> SumWeight:
        """The loss of one batch, (sum, weight).

        Args:
            h: [T D].
            table: [I D].
            targets: [T] item ids, 0 = none.
            sequences: [T] indices of the training sequences (see `TrainBatches`).
            data: `self.data`; arguments of a jitted step, or they become its constants.
            key: for the negatives.
            states: [T D] of a generative model; `states_weight` times their cross-entropy is
                added, which makes them recommend by themselves (as DimeRec does, Li et al. 2025).
            seen: of a model with `repeats` (`recjax.models.recommender.Learned`); a softmax alone
                reads it.

        Raises:
            InputError: `states_weight` is set, and the model has no such states.
        """
        data = {name: jnp.asarray(a) for name, a in data.items()}
        total, weight = self._main(h, table, targets, sequences, data, key, seen)
        if self.config.states_weight:
            if states is None:
                raise InputError(
                    "config.objective.states_weight: only a generative model has such states"
                )
            guided, _ = self._softmax(states, table, targets, (targets != 0).astype(jnp.float32))
            total += self.config.states_weight * guided
        return total, weight

    def _main(self, h, table, targets, sequences, data, key, seen) -> SumWeight:
        weights = (targets != 0).astype(jnp.float32)
        if self.config.name == "softmax":
            return self._full_softmax(h, table, targets, weights, seen)
        if self.config.name == "mse":
            return losses.squared_error(h, table, targets, weights)
        if self.config.shared:
            negatives = self._shared_negatives(targets, data, key)
            return self._beside_shared(h, table, targets, weights, negatives, data)
        negatives = self._own_negatives(sequences, data, key)
        beta = 1.0
        if self.config.name == "gbce":
            beta = losses.gbce_beta(self.n_items, self.config.negatives, self.config.calibration)
        return losses.binary_cross_entropy(h, table, targets, weights, negatives, beta)

    def _full_softmax(self, h, table, targets, weights, seen) -> SumWeight:
        config = self.config
        if config.temperature != 1:
            h = h / config.temperature
            seen = None if seen is None else (seen[0], seen[1] / config.temperature)
        total, weight = self._softmax(h, table, targets, weights, seen=seen)
        if config.smoothing:
            over = above_mean(h, table, targets, self.n_items, seen)
            total += config.smoothing * jnp.sum(over * weights)
        return total, weight

    def _beside_shared(self, h, table, targets, weights, negatives, data) -> SumWeight:
        config = self.config
        h = h if config.temperature == 1 else h / config.temperature
        given = (h, table, targets, weights, negatives)
        if config.name == "bpr_max":
            return losses.bpr_max(*given, config.regularization)
        if config.name == "ccl":
            return losses.cosine_contrastive(*given, config.margin, config.negative_weight)
        if config.name == "sampled_softmax":
            drawn = data["counts"][negatives].astype(jnp.float32)
            log_q = self._log_scale + config.popularity_power * jnp.log(drawn)
            return losses.sampled_softmax(*given, log_q)
        loss = {"bpr": losses.bpr, "top1": losses.top1, "top1_max": losses.top1_max}[config.name]
        return loss(*given)

    def _own_negatives(self, sequences: Array, data: dict[str, Array], key: Array) -> Array:
        """Ids [T M] that the position's training sequence does not have."""
        runs = sequences[:, None]
        starts, stops = data["offsets"][runs], data["offsets"][runs + 1]
        free = self.n_items - 1 - (stops - starts)
        shape = (sequences.shape[0], self.config.negatives)
        if self.n_items > _EVEN:
            ranks = jax.random.randint(key, shape, 0, free)
        else:
            ranks = jnp.minimum(
                (jax.random.uniform(key, shape, jnp.float32) * free).astype(jnp.int32), free - 1
            )
        return nth_negative(ranks, starts, stops, data["positives"], self._longest, jnp)

    def _shared_negatives(self, targets: Array, data: dict[str, Array], key: Array) -> Array:
        """Ids [M] from the catalogue, then from the batch's targets (with replacement)."""
        config = self.config
        draw = jax.random.bits(key, (config.negatives,), jnp.uint32)
        place = jnp.searchsorted(data["cdf"], draw, side="right")
        negatives = jnp.clip(place, 1, self.n_items - 1)
        if not config.batch_negatives:
            return negatives
        real = jnp.cumsum(targets != 0)
        key = jax.random.fold_in(key, 1)
        nth = jax.random.randint(key, (config.batch_negatives,), 0, jnp.maximum(real[-1], 1))
        place = jnp.searchsorted(real, nth, side="right")
        return jnp.concatenate([negatives, jnp.maximum(targets[place], 1)])


def _runs(spans: Spans):
    return zip(spans.starts, spans.stops, strict=True)
