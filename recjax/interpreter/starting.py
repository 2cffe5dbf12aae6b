"""A start for an adapter: near the vectors that its language model has learned to read.

A catalogue's language model (configs/llm/catalogue.py) has learned to say a title of a vector, and
a history of a blend of vectors. Before an adapter learns through the model, it learns to make them:
where the newest item is asked for, by a softmax over the cosines of its soft token with all items'
vectors; where the history is, by the cosine with its blend. That is a few matrix products a step,
and takes minutes where the way through the model takes hours.

What is learned after it, and all that is measured, is RecInterpreter's (Yang et al. 2023): a frozen
model, and the loss of its answers.

Deviations: the paper's adapter starts at random, over LLaMA-7B; `steps` = 0 does, too.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from recjax.errors import InputError
from recjax.interpreter.bridge import Bridge
from recjax.interpreter.examples import Examples
from recjax.interpreter.questions import Task
from recjax.typing import Array, Params

# Of the cosines in the softmax: it is content where the right vector leads by a third. A cosine of
# its own counts as much: the nearer, the less is there for the model to see through.
_SCALE, _NEAR = 20.0, 2.0
_FADE = 0.95  # of older items in a blend: nearly alike, as a model names most of them
_CHUNK, _TURNS = 16, 4  # batches whose states are kept at a time, and how often each is read


@dataclasses.dataclass(frozen=True)
class StartConfig:
    """How an adapter starts."""

    steps: int = 0  # of pointing at the items' vectors; 0 = at random
    batch_size: int = 256
    learning_rate: float = 1e-2  # falls to 0 along a cosine

    def __post_init__(self):
        if self.steps < 0 or self.batch_size < 1:
            raise InputError("config.start: steps from 0 and batch_size from 1 on")


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
        examples: to learn from; the states are encoded in chunks, and read several times.
        titles: [n].
        vectors: [n E] of the titles.
        config: how long.
        seed: of the examples' order.

    Raises:
        InputError: vectors of another width, or examples none of whose titles has a vector.
    """
    if vectors.shape[1] != bridge.llm.config.dim:
        width = bridge.llm.config.dim
        raise InputError(
            f"item vectors of width {vectors.shape[1]}; the language model's is {width}"
        )
    place = {title: number for number, title in enumerate(titles)}
    tasks = bridge.questions.config.tasks
    table = jnp.asarray(vectors)
    optimizer = optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.steps))

    def loss(params: Params, states: Array, wanted: Array, table: Array, task: Task) -> Array:
        soft = _unit(bridge.soft(params, states[:, None]).mean(axis=1))
        real = wanted >= 0
        if task == "recovery":
            weights = jnp.where(real, _FADE ** jnp.arange(wanted.shape[1]), 0)
            blends = jnp.einsum("BW,BWE->BE", weights, table[jnp.maximum(wanted, 0)])
            losses, real = 1 - jnp.sum(_unit(blends) * soft, axis=-1), real.any(axis=1)
        else:
            cosines = jnp.einsum("BE,NE->BN", soft, _unit(table))
            chosen = jnp.take_along_axis(cosines, jnp.maximum(wanted, 0), axis=-1)
            losses = jax.nn.logsumexp(_SCALE * cosines, axis=-1, keepdims=True) - _SCALE * chosen
            losses += _NEAR * (1 - chosen)
        return jnp.sum(jnp.where(real, losses, 0)) / jnp.maximum(jnp.sum(real), 1)

    @functools.partial(jax.jit, donate_argnums=(0, 1), static_argnames="task")
    def step(
        trained: Params, state: Any, states: Array, wanted: Array, table: Array, task: Task
    ) -> tuple[Params, Any]:
        grads = jax.grad(loss)(trained, states, wanted, table, task)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(trained, updates), state

    def wanted_of(rows: np.ndarray, task: Task) -> np.ndarray:
        named = [[place.get(t, -1) for t in some] for some in examples.titles(rows, task)]
        width = max(map(len, named))
        return np.array([row + [-1] * (width - len(row)) for row in named], np.int32)

    trained = jax.tree.map(jnp.copy, params)
    state, rng = optimizer.init(trained), np.random.default_rng([seed, 2])
    shares = np.array([getattr(bridge.questions.config, task) for task in tasks])
    batch, found = config.batch_size, False
    for number in range(config.steps):
        if number % (_CHUNK * _TURNS) == 0:
            left = min(_CHUNK, -(-(config.steps - number) // _TURNS))
            chunk = rng.integers(0, len(examples), (left, batch))
            kept = np.concatenate([examples.states(rows, "recovery")[:, 0] for rows in chunk])
            chunk = chunk.reshape(-1)
        chosen = rng.integers(0, len(chunk), batch)
        task = tasks[int(rng.choice(len(tasks), p=shares / shares.sum()))]
        wanted = wanted_of(chunk[chosen], task)
        if not (found or (wanted >= 0).any()):
            raise InputError(
                f"no title of {batch} examples has an item vector; another catalogue's model?"
            )
        found = True
        trained, state = step(trained, state, kept[chosen], wanted, table, task)
    params = dict(trained)
    # As long as the vectors are: the model has learned to read that.
    rows = rng.integers(0, len(examples), batch)
    soft = bridge.soft(params, examples.states(rows, "recovery"))
    length = np.linalg.norm(vectors, axis=1).mean()
    ratio = float(length / jnp.linalg.norm(soft, axis=-1).mean())
    for name in ("kernel", "bias"):
        params[f"body/out/{name}"] = params[f"body/out/{name}"] * ratio
    return params


def _unit(x: Array) -> Array:
    """Vectors [B E] of length 1."""
    return x * jax.lax.rsqrt(jnp.sum(x**2, axis=-1, keepdims=True) + 1e-12)
