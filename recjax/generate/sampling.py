"""Choosing the next token: greedy, temperature, top-k and top-p.

All of it runs in one pass or a few over the logits and never sorts the vocabulary: the largest k
lie in the k blocks with the largest maxima, a draw inverts the cumulative sum of the blocks and
then that inside one block, and top-p draws again from what lies above a rejected token
(Pan et al. 2025, FlashInfer's sorting-free sampling). On a CPU a sort of 64 rows of 32000 costs
more than a small model's step.

Filters apply in the order of transformers: temperature, top-k, top-p of what top-k left.
Deviations: of logits tied at rank k those of the lowest ids stay (transformers keeps all of them);
tokens tied at the edge of the nucleus stay together (transformers cuts them by the sort's order).

Locally: n candidates of a row (V, or k after top-k).
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from recjax.typing import Array


def top_k(logits: Array, k: int) -> tuple[Array, Array]:
    """The k largest of each row and their places, [B n] -> two [B k]; ties by the lowest place.

    Args:
        logits: -inf counts as the smallest value; no nan.
        k: at most n.
    """
    rows, n = logits.shape
    width = 8
    while width * width * k < n:  # blocks and candidates balance at width = sqrt(n / k)
        width *= 2
    count = -(-n // width)
    fill = ((0, 0), (0, count * width - n))
    blocks = jnp.pad(logits, fill, constant_values=-jnp.inf).reshape(rows, count, width)
    # In order of place, so that ties go to the lowest one.
    chosen = jnp.sort(_top_k(blocks.max(-1), min(k, count))[1], axis=-1)
    candidates = jnp.take_along_axis(blocks, chosen[:, :, None], 1).reshape(rows, -1)
    values, places = _top_k(candidates, k)
    return values, jnp.take_along_axis(chosen, places // width, 1) * width + places % width


def _top_k(values: Array, k: int) -> tuple[Array, Array]:
    # XLA reads top_k off a sort and its slice. Without the barrier a caller's own slice joins that
    # one, XLA no longer sees a top_k, and sorts: 8 times slower on a CPU (jax 0.10.2).
    largest, places = lax.optimization_barrier(tuple(lax.top_k(values, k)))
    return largest, places


def greedy(logits: Array) -> Array:
    """The most likely token of each row, [B V] -> [B] int32; ties go to the lowest id."""
    return top_k(logits, 1)[1][:, 0]


def log_prob(logits: Array, tokens: Array) -> Array:
    """Log-probability of one token a row, [B V], [B] -> [B] float32; -inf where all is -inf."""
    logits = logits.astype(jnp.float32)
    chosen = jnp.take_along_axis(logits, tokens[:, None], 1)[:, 0]
    norm = jax.nn.logsumexp(logits, -1)
    return jnp.where(norm > -jnp.inf, chosen - norm, -jnp.inf)


def row_keys(key: Array, rows: Array) -> Array:
    """Keys [B] of rows that are named by numbers [B]: a row's draws follow from its number alone.

    Args:
        key: of the run.
        rows: the rows' own numbers, such as those of the examples in the data set.
    """
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sampler:
    """Draws tokens; called inside a jitted function.

    Attributes:
        temperature: [] or [B], divides the logits; 0 chooses greedily. May be traced.
        top_p: [] or [B], keeps the smallest set of most likely tokens that holds this share of
            the probability, always at least the most likely; 1 keeps all. May be traced; None
            leaves the search for the set out of the program.
        top_k: keeps the k most likely tokens; more than V keeps all. Static.
    """

    temperature: Array | float = 1.0
    top_p: Array | float | None = None
    top_k: int | None = dataclasses.field(default=None, metadata={"static": True})

    def __post_init__(self):
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k {self.top_k}; expected 1 or more, or None for all")

    @classmethod
    def of(cls, temperature: float, top_k: int | None, top_p: float | None) -> "Sampler | None":
        """The sampler of these numbers, the first and the last to be traced; None draws nothing."""
        if not temperature:
            return None
        return cls(jnp.float32(temperature), None if top_p is None else jnp.float32(top_p), top_k)

    def __call__(self, logits: Array, keys: Array) -> Array:
        """Tokens [B] int32.

        Args:
            logits: [B V]; -inf is never drawn where another token may be.
            keys: [B] random keys, one a row; a row's draw depends on its own alone.
        """
        logits = logits.astype(jnp.float32)
        rows, vocab = logits.shape
        if self.top_k is None:
            best = greedy(logits)
            highest = jnp.take_along_axis(logits, best[:, None], 1)
        else:
            logits, tokens = top_k(logits, min(self.top_k, vocab))
            best, highest = tokens[:, 0], logits[:, :1]
        temperature = jnp.broadcast_to(self.temperature, (rows,)).astype(jnp.float32)
        # Less the largest first: a small temperature then overflows to -inf, never to +inf.
        highest = jnp.where(jnp.isfinite(highest), highest, 0.0)
        scaled = (logits - highest) / jnp.where(temperature > 0, temperature, 1.0)[:, None]
        top_p = None if self.top_p is None else jnp.broadcast_to(self.top_p, (rows,))
        drawn = _draw(jnp.exp(scaled), top_p, keys)
        if self.top_k is not None:
            drawn = jnp.take_along_axis(tokens, drawn[:, None], 1)[:, 0]
        return jnp.where(temperature > 0, drawn, best)


def _draw(mass: Array, top_p: Array | None, keys: Array) -> Array:
    """Places [B] drawn in proportion to `mass` [B n], within the nucleus of `top_p` [B]."""
    rows, n = mass.shape
    width = 1
    while width * width < n:
        width *= 2
    count = -(-n // width)
    blocks = jnp.pad(mass, ((0, 0), (0, count * width - n))).reshape(rows, count, width)

    def place(sums: Array, floor: Array, attempt: int | Array) -> tuple[Array, Array]:
        """Draws among masses above `floor` [B], of which each block holds `sums` [B count]."""
        uniform = jax.vmap(
            lambda key: jax.random.uniform(jax.random.fold_in(key, attempt), (2,), jnp.float32)
        )
        luck = uniform(keys)
        block = _invert(sums, luck[:, 0])
        inside = jnp.take_along_axis(blocks, block[:, None, None], 1)[:, 0]
        column = _invert(jnp.where(inside > floor[:, None], inside, 0.0), luck[:, 1])
        return block * width + column, jnp.take_along_axis(inside, column[:, None], 1)[:, 0]

    sums, nothing = blocks.sum(-1), jnp.zeros(rows, mass.dtype)
    if top_p is None:
        return place(sums, nothing, 0)[0]
    share = top_p * sums.sum(-1)

    # A token is in the nucleus if those more likely hold less than `top_p`. One that is not says
    # that all of the nucleus is more likely, so the next draw is from there.
    def retry(carry):
        attempt, sums, floor, drawn, done = carry
        fresh, drawn_mass = place(sums, floor, attempt)
        above = jnp.where(blocks > drawn_mass[:, None, None], blocks, 0.0).sum(-1)
        total = above.sum(-1)
        inside = (total < share) | (total <= 0) | (top_p >= 1)
        drawn = jnp.where(done, drawn, fresh)
        return attempt + 1, above, drawn_mass, drawn, done | inside

    start = (0, sums, nothing, jnp.zeros(rows, jnp.int32), jnp.zeros(rows, bool))
    return lax.while_loop(lambda carry: ~carry[-1].all(), retry, start)[3]


def _invert(mass: Array, luck: Array) -> Array:
    """Places [B] where the running sum of `mass` [B n] passes the share `luck` [B] in [0, 1)."""
    sums = jnp.cumsum(mass, -1)
    has_mass = mass > 0  # rounding may end a running sum above a place without mass
    total = jnp.where(has_mass, sums, 0.0).max(-1)
    return jnp.argmax(has_mass & (sums > (luck * total)[:, None]), -1).astype(jnp.int32)
