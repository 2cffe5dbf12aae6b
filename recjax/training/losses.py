"""Losses of the recommenders: hidden states and targets in, (sum, weight) out.

All take `h` [T D] (hidden states of T positions), the item `table` [I D], `targets` [T] and
`weights` [T] (0 for padding), and return the weighted sum of the losses and the sum of the
weights. Other shapes raise `ValueError`. The full softmax is in `recjax.training.cross_entropy`.
"""

import jax
import jax.numpy as jnp

from recjax.sharded import rows_of
from recjax.training.cross_entropy import SumWeight
from recjax.typing import Array, check_shapes


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
