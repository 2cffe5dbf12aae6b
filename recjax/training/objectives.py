"""Training objectives of the recommenders: hidden states and targets in, (sum, weight) out.

All take `h` [T D] (hidden states of T positions), the item `table` [I D], `targets` [T] and
`weights` [T] (0 for padding), and return the weighted sum of the losses and the sum of the
weights. Other shapes raise `ValueError`.

Negatives are drawn inside the step, on the device (`recjax.data.negatives`).
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
from recjax.sharded import rows_of
from recjax.training.cross_entropy import SumWeight, above_mean, softmax_cross_entropy
from recjax.typing import Array, check_shapes

# Of more items a uniform float32, which has 2**23 values, does not draw all alike, or some never.
_EVEN = 1 << 20
_PAIRWISE = ("bpr", "top1", "bpr_max", "top1_max")


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
    temperature: Positive = 1.0  # softmax: its logits are divided by it
    smoothing: Share = 0.0  # softmax: share of the target's probability that all items get
    states_weight: Amount = 0.0  # adds the softmax of the states that guide a generative model

    def __post_init__(self):
        super().__post_init__()
        if self.batch_negatives and self.name not in _PAIRWISE:
            raise FieldError("batch_negatives", f"'{self.name}' takes none")
        if self.name not in ("softmax", "mse") and not self.negatives + self.batch_negatives:
            raise FieldError("negatives", f"'{self.name}' needs at least 1")
        for field, nothing in (("temperature", 1.0), ("smoothing", 0.0)):
            if self.name != "softmax" and getattr(self, field) != nothing:
                raise FieldError(field, f"'{self.name}' has none; expected {nothing}, or 'softmax'")

    @property
    def shared(self) -> bool:
        """Whether the negatives are shared by the batch."""
        return self.name in ("sampled_softmax", "ccl", *_PAIRWISE)


def _scores(pattern: str, h: Array, vectors: Array) -> Array:
    """Inner products in float32, whatever is multiplied: a loss is made of their differences."""
    return jnp.einsum(pattern, h, vectors, preferred_element_type=jnp.float32)


def _reduce(losses: Array, weights: Array) -> SumWeight:
    check_shapes("T, T", losses=losses, weights=weights)
    return jnp.sum(losses * weights), jnp.sum(weights)


def binary_cross_entropy(
    h: Array, table: Array, targets: Array, weights: Array, negatives: Array, beta: float = 1.0
) -> SumWeight:
    """SASRec's loss (section III-E): `-log s(r+) - sum_j log(1 - s(r-_j))`, s the sigmoid.

    With `beta` < 1 the positive's probability is `s(r+) ** beta`: the gBCE of gSASRec (Petrov and
    Macdonald, RecSys 2023), which undoes the overconfidence that negative sampling brings. Theirs
    is the mean of the M + 1 terms, this is their sum, and their negatives may be items that the
    user had.

    Args:
        negatives: [T M] ids.
        beta: power of the positive's probability.
    """
    check_shapes("TD, ID, T, TM", h=h, table=table, targets=targets, negatives=negatives)
    positive = _scores("TD,TD->T", h, rows_of(table, targets, "items"))
    negative = _scores("TD,TMD->TM", h, rows_of(table, negatives, "items"))
    loss = beta * jax.nn.softplus(-positive) + jax.nn.softplus(negative).sum(axis=-1)
    return _reduce(loss, weights)


def gbce_beta(n_items: int, negatives: int, calibration: float) -> float:
    """gSASRec's beta: `a (t (1 - 1/a) + 1/a)` with a = M / (I - 2) the sampling rate.

    Args:
        n_items: I, padding included: a position has I - 2 candidate negatives.
        negatives: M.
        calibration: t, 0 = plain BCE, 1 = fully calibrated.
    """
    rate = min(1.0, negatives / max(1, n_items - 2))
    return rate * (calibration * (1 - 1 / rate) + 1 / rate)


def _shared_scores(h, table, targets, negatives):
    """Scores of the target [T] and of the shared negatives [T M], and which negatives count."""
    check_shapes("TD, ID, T, M", h=h, table=table, targets=targets, negatives=negatives)
    positive = _scores("TD,TD->T", h, rows_of(table, targets, "items"))
    negative = _scores("TD,MD->TM", h, rows_of(table, negatives, "items"))
    return positive, negative, negatives[None, :] != targets[:, None]


def sampled_softmax(
    h: Array, table: Array, targets: Array, weights: Array, negatives: Array, log_q: Array
) -> SumWeight:
    """Softmax over the target and M shared negatives with logQ correction (Bengio 2008).

    Args:
        negatives: [M] ids drawn with probability q.
        log_q: [M] log of the expected count of each (log M q).
    """
    check_shapes("M, M", negatives=negatives, log_q=log_q)
    positive, negative, counts = _shared_scores(h, table, targets, negatives)
    negative = jnp.where(counts, negative - log_q[None], -jnp.inf)
    return _reduce(jnp.logaddexp(positive, jax.nn.logsumexp(negative, -1)) - positive, weights)


def bpr(h: Array, table: Array, targets: Array, weights: Array, negatives: Array) -> SumWeight:
    """BPR of GRU4Rec (Hidasi et al., ICLR 2016, section 3.1.3): mean of `-log sg(r+ - r_j)`.

    Args:
        negatives: [M] ids shared by all positions; a position's own target does not count.
    """
    positive, negative, counts = _shared_scores(h, table, targets, negatives)
    loss = jax.nn.softplus(negative - positive[:, None])
    return _reduce(_mean_over(loss, counts), weights)


def top1(h: Array, table: Array, targets: Array, weights: Array, negatives: Array) -> SumWeight:
    """TOP1 (Hidasi et al., ICLR 2016, section 3.1.3): mean of `sg(r_j - r+) + sg(r_j^2)`.

    Args:
        negatives: [M] ids shared by all positions; a position's own target does not count.
    """
    positive, negative, counts = _shared_scores(h, table, targets, negatives)
    loss = jax.nn.sigmoid(negative - positive[:, None]) + jax.nn.sigmoid(negative**2)
    return _reduce(_mean_over(loss, counts), weights)


def _mean_over(losses: Array, counts: Array) -> Array:
    """Mean over the negatives that count: [T M] -> [T]."""
    return jnp.where(counts, losses, 0.0).sum(-1) / jnp.maximum(counts.sum(-1), 1)


def _log_shares(negative: Array, counts: Array) -> Array:
    """Logs of the softmax over the negatives that count [T M]; -1e9 of others, as -inf has no
    gradient."""
    log_s = jax.nn.log_softmax(jnp.where(counts, negative, -jnp.inf), axis=-1)
    return jnp.where(counts, log_s, -1e9)


def bpr_max(
    h: Array,
    table: Array,
    targets: Array,
    weights: Array,
    negatives: Array,
    regularization: float = 1.0,
) -> SumWeight:
    """BPR-max with score regularisation (Hidasi and Karatzoglou, CIKM 2018).

    `-log sum_j s_j sigmoid(r+ - r_j) + lambda sum_j s_j r_j^2`, s the softmax over the negatives.

    Args:
        negatives: [M] ids shared by all positions; a position's own target does not count.
        regularization: lambda.
    """
    positive, negative, counts = _shared_scores(h, table, targets, negatives)
    log_s = _log_shares(negative, counts)
    won = jax.nn.log_sigmoid(positive[:, None] - negative)
    loss = jnp.where(counts.any(axis=-1), -jax.nn.logsumexp(log_s + won, axis=-1), 0.0)
    return _reduce(loss + regularization * (jnp.exp(log_s) * negative**2).sum(-1), weights)


def top1_max(h: Array, table: Array, targets: Array, weights: Array, negatives: Array) -> SumWeight:
    """TOP1-max (Hidasi and Karatzoglou, CIKM 2018): `sum_j s_j (sg(r_j - r+) + sg(r_j^2))`.

    s is the softmax over the negatives, sg the sigmoid.

    Args:
        negatives: [M] ids shared by all positions; a position's own target does not count.
    """
    positive, negative, counts = _shared_scores(h, table, targets, negatives)
    s = jnp.exp(_log_shares(negative, counts))
    loss = jax.nn.sigmoid(negative - positive[:, None]) + jax.nn.sigmoid(negative**2)
    return _reduce((s * loss).sum(-1), weights)


def cosine_contrastive(
    h: Array,
    table: Array,
    targets: Array,
    weights: Array,
    negatives: Array,
    margin: float,
    negative_weight: float,
) -> SumWeight:
    """SimpleX's loss (Mao et al., CIKM 2021, equation 2) of vectors of length 1.

    `1 - r+ + mu mean_j max(0, r_j - margin)`.

    Args:
        negatives: [M] ids shared by all positions; a position's own target does not count.
        margin: m.
        negative_weight: mu.
    """
    positive, negative, counts = _shared_scores(h, table, targets, negatives)
    close = _mean_over(jax.nn.relu(negative - margin), counts)
    return _reduce(1.0 - positive + negative_weight * close, weights)


def squared_error(h: Array, table: Array, targets: Array, weights: Array) -> SumWeight:
    """Mean squared difference of `h` and the target's vector: DreamRec's loss (2023, equation 10).

    Its gradient reaches the item vectors too, as in the authors' code.
    """
    check_shapes("TD, ID, T", h=h, table=table, targets=targets)
    off = h.astype(jnp.float32) - rows_of(table, targets, "items").astype(jnp.float32)
    return _reduce(jnp.mean(off**2, axis=-1), weights)


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
        config = self.config
        weights = (targets != 0).astype(jnp.float32)
        if config.name == "softmax":
            if config.temperature != 1:
                h = h / config.temperature
                seen = None if seen is None else (seen[0], seen[1] / config.temperature)
            total, weight = self._softmax(h, table, targets, weights, seen=seen)
            if config.smoothing:
                over = above_mean(h, table, targets, self.n_items, seen)
                total += config.smoothing * jnp.sum(over * weights)
            return total, weight
        if config.name == "mse":
            return squared_error(h, table, targets, weights)
        if config.shared:
            negatives = self._shared_negatives(targets, data, key)
            if config.name == "bpr_max":
                return bpr_max(h, table, targets, weights, negatives, config.regularization)
            if config.name == "ccl":
                settings = config.margin, config.negative_weight
                return cosine_contrastive(h, table, targets, weights, negatives, *settings)
            if config.name == "sampled_softmax":
                drawn = data["counts"][negatives].astype(jnp.float32)
                log_q = self._log_scale + config.popularity_power * jnp.log(drawn)
                return sampled_softmax(h, table, targets, weights, negatives, log_q)
            loss = {"bpr": bpr, "top1": top1, "top1_max": top1_max}[config.name]
            return loss(h, table, targets, weights, negatives)
        runs = sequences[:, None]
        starts, stops = data["offsets"][runs], data["offsets"][runs + 1]
        free = self.n_items - 1 - (stops - starts)
        shape = (targets.shape[0], config.negatives)
        if self.n_items > _EVEN:
            ranks = jax.random.randint(key, shape, 0, free)
        else:
            ranks = jnp.minimum(
                (jax.random.uniform(key, shape, jnp.float32) * free).astype(jnp.int32), free - 1
            )
        negatives = nth_negative(ranks, starts, stops, data["positives"], self._longest, jnp)
        if config.name == "bce":
            return binary_cross_entropy(h, table, targets, weights, negatives)
        beta = gbce_beta(self.n_items, config.negatives, config.calibration)
        return binary_cross_entropy(h, table, targets, weights, negatives, beta)

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
