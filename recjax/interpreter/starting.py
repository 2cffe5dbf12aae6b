"""A start for an adapter: near the vectors that its language model has learned to read.

A catalogue's language model (configs/llm/catalogue.py) has learned to say a title of a vector.
Before an adapter learns through the model, it learns to point at the right vectors: a softmax over
the cosines of its soft token with all of them, a few matrix products a step, as a recommender's.
That takes a minute where the way through the model takes hours.

What is learned after it, and all that is measured, is RecInterpreter's (Yang et al. 2023): a frozen
model, and the loss of its answers.

Deviations: the paper's adapter starts at random, over LLaMA-7B; `steps` = 0 does, too.
"""

import dataclasses
import functools

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
    """Parameters of an adapter whose soft tokens point at the vectors of what they should say.

    Args:
        bridge: the adapter's place.
        params: where to begin.
        examples: to learn from.
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
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    table = jnp.asarray(vectors / np.maximum(norms, 1e-9))
    optimizer = optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.steps))

    def loss(params: Params, states: Array, wanted: Array, table: Array) -> Array:
        soft = bridge.soft(params, states[:, None]).mean(axis=1)
        soft *= jax.lax.rsqrt(jnp.sum(soft**2, axis=-1, keepdims=True) + 1e-12)
        cosines = jnp.einsum("BE,NE->BN", soft, table)
        chosen = jnp.take_along_axis(cosines, jnp.maximum(wanted, 0), axis=-1)
        losses = jax.nn.logsumexp(_SCALE * cosines, axis=-1, keepdims=True) - _SCALE * chosen
        real = wanted >= 0
        losses = jnp.where(real, losses + _NEAR * (1 - chosen), 0)
        return jnp.sum(losses) / jnp.maximum(jnp.sum(real), 1)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(trained, state, states, wanted, table):
        grads = jax.grad(loss)(trained, states, wanted, table)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(trained, updates), state

    def wanted_of(rows: np.ndarray, task: Task) -> np.ndarray:
        named = [[place.get(t, -1) for t in some] for some in examples.titles(rows, task)]
        width = max(map(len, named))
        return np.array([row + [-1] * (width - len(row)) for row in named], np.int32)

    trained = jax.tree.map(jnp.copy, params)
    state, rng = optimizer.init(trained), np.random.default_rng([seed, 2])
    shares = np.array([getattr(bridge.questions.config, task) for task in tasks])
    found = False
    for _ in range(config.steps):
        rows = rng.integers(0, len(examples), config.batch_size)
        task = tasks[int(rng.choice(len(tasks), p=shares / shares.sum()))]
        wanted = wanted_of(rows, task)
        if not (found or (wanted >= 0).any()):
            raise InputError(
                f"no title of {len(rows)} examples has an item vector; another catalogue's model?"
            )
        found = True
        states = examples.states(rows, "recovery")[:, 0]
        trained, state = step(trained, state, states, wanted, table)
    params = dict(trained)
    # As long as the vectors are: the model has learned to read that.
    rows = rng.integers(0, len(examples), config.batch_size)
    soft = bridge.soft(params, examples.states(rows, "recovery"))
    ratio = float(norms.mean() / jnp.linalg.norm(soft, axis=-1).mean())
    for name in ("kernel", "bias"):
        params[f"body/out/{name}"] = params[f"body/out/{name}"] * ratio
    return params
