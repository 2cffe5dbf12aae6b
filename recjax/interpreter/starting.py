"""A start for an adapter: near the vectors that its language model has learned to read.

A catalogue's language model (configs/llm/catalogue.py) has learned to say the title of a vector,
and a history of a blend of vectors. Before an adapter learns through the model, it learns to make
them of its states. That is linear regression, which the paper's adapter is solved for in closed
form; adapters with hidden layers learn it by gradient steps. Either takes a minute where the way
through the model takes hours.

What is learned after it, and all that is measured, is RecInterpreter's (Yang et al. 2023): a frozen
model, and the loss of its answers.

Deviations: the paper's adapter starts at random; `examples` = 0 does, too.

Letters: n examples, W titles of a history (newest first), I items with vectors.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from recjax.errors import InputError
from recjax.interpreter.bridge import Bridge
from recjax.interpreter.examples import Examples
from recjax.ranges import Checked, Count, Share
from recjax.text.documents import blend
from recjax.typing import Array, Params

_CHUNK = 1024  # examples whose states are kept at a time
_RIDGE = 1e-3  # of the features' mean variance
# Gradient steps, of adapters with hidden layers: batch, readings of each example, learning rate.
_BATCH, _TURNS, _LEARNING_RATE = 256, 4, 1e-2


@dataclasses.dataclass(frozen=True)
class StartConfig(Checked):
    """How an adapter starts."""

    examples: Count = 0  # to learn the items' vectors from, at most; 0 = at random
    # Of older items in a residual's states: the k-th newest weighs fade^k. 0 = the newest alone.
    fade: Share = 0.0


def check_vectors(
    bridge: Bridge, wanted: Iterable[str], titles: Sequence[str], vectors: np.ndarray
) -> None:
    """Whether an adapter can start near these vectors.

    Args:
        bridge: the adapter's place.
        wanted: titles to learn from.
        titles: [n].
        vectors: [n E] of the titles.

    Raises:
        InputError: vectors of another width, or of none of the titles.
    """
    if vectors.shape[1] != bridge.llm.config.dim:
        width = bridge.llm.config.dim
        raise InputError(
            f"item vectors of width {vectors.shape[1]}; the language model's is {width}"
        )
    if set(titles).isdisjoint(wanted):
        raise InputError(
            f"{bridge.llm.folder}: none of the titles to learn from has an item vector; another "
            "catalogue's model? (config.start.examples=0 starts without)"
        )


def start_near(
    bridge: Bridge,
    params: Params,
    examples: Examples,
    titles: list[str],
    vectors: np.ndarray,
    config: StartConfig,
    seed: int,
) -> Params:
    """Parameters of an adapter whose soft tokens are near the vectors of what they should say.

    Args:
        bridge: the adapter's place.
        params: where to begin.
        examples: to learn from.
        titles: [I].
        vectors: [I E] of the titles.
        config: how.
        seed: of the examples that are taken.

    Raises:
        InputError: examples none of whose titles has a vector, or whose states are all the same.
    """
    rng = np.random.default_rng([seed, 2])
    rows = rng.permutation(len(examples))[: config.examples]
    place = {title: number for number, title in enumerate(titles)}
    ask = bridge.questions.config
    # What each task's blend is worth, and how older items fade in it.
    parts = [
        (ask.share(task), config.fade if task.fade is None else task.fade) for task in ask.tasks
    ]

    def blends(rows: np.ndarray) -> np.ndarray:
        """[n E] what the states of examples should become; zeros where no title has a vector."""
        total = np.zeros((len(rows), vectors.shape[1]), np.float32)
        for share, fade in parts:
            for row, named in enumerate(examples.titles(rows, lists=fade > 0)):
                items = [place[title] for title in reversed(named) if title in place]
                if items:
                    weights = np.array(blend(items, fade).weights, np.float32)
                    total[row] += share * (weights @ vectors[items])
        return total

    if not any(blends(chunk).any() for chunk in _chunks(rows)):
        raise InputError(
            f"no title of {len(rows)} examples has an item vector; another catalogue's model?"
        )
    if bridge.config.name == "linear":
        ages = np.arange(bridge.length)[::-1]
        pool = np.sum([share * fade ** ages.astype(float) for share, fade in parts], axis=0)
        params = _solved(bridge, params, examples, rows, blends, pool / np.linalg.norm(pool))
    else:
        params = _descended(bridge, params, examples, rows, blends, rng)
    # As long as the vectors are: the model has learned to read that.
    soft = bridge.soft(params, examples.states(rows[:_BATCH]))
    length = np.linalg.norm(vectors, axis=1).mean()
    ratio = float(length / jnp.linalg.norm(soft, axis=-1).mean())
    return params | {f"body/out/{n}": params[f"body/out/{n}"] * ratio for n in ("kernel", "bias")}


def _chunks(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[first : first + _CHUNK] for first in range(0, len(rows), _CHUNK)]


def _solved(
    bridge: Bridge,
    params: Params,
    examples: Examples,
    rows: np.ndarray,
    blends: Callable[[np.ndarray], np.ndarray],
    pool: np.ndarray,
) -> Params:
    """The linear adapter by ridge regression, behind a filter `pool` [L] over its positions."""
    filtered = {"body/filter": jnp.asarray(pool, jnp.float32)} if bridge.length > 1 else {}
    params = params | filtered

    @jax.jit
    def moments(params: Params, states: Array, wanted: Array) -> list[Array]:
        adapter = bridge.adapter.merge(params)
        x = adapter.pooled(states)
        real = jnp.any(wanted != 0, axis=1, keepdims=True)
        x = jnp.where(real, x, 0)
        return [x.T @ x, x.T @ wanted, x.sum(axis=0), wanted.sum(axis=0), real.sum()]

    total: list[np.ndarray] | None = None
    for chunk in _chunks(rows):
        states = examples.states(chunk)[:, 0]
        sums = [np.asarray(a, np.float64) for a in moments(params, states, blends(chunk))]
        total = sums if total is None else [a + b for a, b in zip(total, sums, strict=True)]
    assert total is not None
    xx, xy, x, y, n = total
    x, y = x / n, y / n
    covariance = xx / n - np.outer(x, x)
    variance = np.trace(covariance) / len(x)
    if variance <= 1e-12:  # of whitened features, whose own is about 1
        raise InputError(
            f"states: those of the {int(n)} examples with an item vector are all the same; "
            "config.start.examples=0 starts at random"
        )
    covariance += np.eye(len(x)) * _RIDGE * variance
    kernel = np.linalg.solve(covariance, xy / n - np.outer(x, y))
    bias = y - x @ kernel
    soft = bridge.config.soft  # each soft token begins as the same
    return params | {
        "body/out/kernel": jnp.asarray(np.tile(kernel, (1, soft)), jnp.float32),
        "body/out/bias": jnp.asarray(np.tile(bias, soft), jnp.float32),
    }


def _descended(
    bridge: Bridge,
    params: Params,
    examples: Examples,
    rows: np.ndarray,
    blends: Callable[[np.ndarray], np.ndarray],
    rng: np.random.Generator,
) -> Params:
    """Any adapter by gradient steps on the cosine of its mean soft token with the blend."""
    steps = max(1, _TURNS * len(rows) // _BATCH)
    optimizer = optax.adam(optax.cosine_decay_schedule(_LEARNING_RATE, steps))

    def loss(params: Params, states: Array, wanted: Array) -> Array:
        soft = bridge.soft(params, states).mean(axis=1)
        real = jnp.any(wanted != 0, axis=1)
        distance = 1 - jnp.sum(_unit(soft) * _unit(wanted), axis=-1)
        return jnp.sum(jnp.where(real, distance, 0)) / jnp.maximum(jnp.sum(real), 1)

    @jax.jit
    def step(
        trained: Params, state: optax.OptState, states: Array, wanted: Array
    ) -> tuple[Params, optax.OptState]:
        grads = jax.grad(loss)(trained, states, wanted)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(trained, updates), state

    state, chunks = optimizer.init(params), _chunks(rows)
    loaded = -1
    for number in range(steps):
        if number * len(chunks) // steps != loaded:
            loaded = number * len(chunks) // steps
            states = np.asarray(examples.states(chunks[loaded]))
            wanted = blends(chunks[loaded])
        chosen = rng.integers(0, len(states), _BATCH)
        params, state = step(params, state, states[chosen], wanted[chosen])
    return params


def _unit(x: Array) -> Array:
    """Vectors [B E] of length 1."""
    return x * jax.lax.rsqrt(jnp.sum(x**2, axis=-1, keepdims=True) + 1e-12)
