"""Training an adapter into a frozen language model.

One step: states [B n L D] of n representations a row -> soft tokens -> the model's loss on the
answer. What all rows of a question begin with is read once a run, not once a row and step; the
frozen weights cost no gradient.
"""

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from recjax.data.token_batches import NO_LABEL
from recjax.interpreter import adapters
from recjax.interpreter.examples import Examples
from recjax.interpreter.questions import Questions, Task
from recjax.llm import LanguageModel
from recjax.models.definition import ModelDef, define, params_of
from recjax.nn.cache import KVCache
from recjax.nn.soft import place_soft
from recjax.training import parallel
from recjax.training.state import TrainState, state_of
from recjax.training.step import make_steps
from recjax.training.token_loss import token_loss
from recjax.typing import Array, Params

_SAMPLE = 4096  # examples whose states give the adapter's scaling


@dataclasses.dataclass(frozen=True)
class Batch:
    """One step's examples.

    Attributes:
        prefix: the cache of what all rows begin with, or None.
        arrays: `states` [B n L D], and [B T] of `Questions.lay_out`.
    """

    prefix: KVCache | None
    arrays: dict[str, Any]


class Learner:
    """An adapter with what it needs to learn.

    Args:
        llm: the frozen language model.
        questions: what it is asked.
        examples: to learn from.
        config: of the adapter.
        batch_size: B.
        seed: of the adapter, of the examples' order, of tasks and prompts.

    Attributes:
        adapter: its definition (`adapter.merge(params)` is the module).
    """

    def __init__(
        self,
        llm: LanguageModel,
        questions: Questions,
        examples: Examples,
        config: adapters.Config,
        *,
        batch_size: int,
        seed: int = 0,
    ):
        self.llm, self.questions, self.examples = llm, questions, examples
        self.config, self.batch_size, self.seed = config, batch_size, seed
        shape = examples.states(np.arange(1), "recovery").shape
        self.length, self.dim = shape[2:]
        self.adapter: ModelDef[adapters.Adapter] = define(self._build)

    def _make(self, mean: Any, deviation: Any, size: float, rngs: nnx.Rngs) -> adapters.Adapter:
        embed = self.llm.config.dim
        return adapters.Adapter(self.config, mean, deviation, self.length, embed, size, rngs=rngs)

    def _build(self, rngs: nnx.Rngs) -> adapters.Adapter:
        return self._make(jnp.zeros(self.dim), jnp.ones(self.dim), 1.0, rngs)

    def initial(self) -> Params:
        """Fresh parameters, with the mean and deviation of the examples' states."""
        rng = np.random.default_rng(self.seed)
        count = min(_SAMPLE, len(self.examples))
        rows = np.sort(rng.choice(len(self.examples), count, replace=False))
        states = np.asarray(self.examples.states(rows, "recovery"))[:, 0]
        # Rows that are all zero stand for padding.
        real = states.reshape(-1, self.dim)
        real = real[np.any(real != 0, axis=1)]
        embedding = self.llm.params["embedding"]
        size = float(jnp.sqrt(jnp.mean(jnp.square(embedding.astype(jnp.float32)))))
        rngs = nnx.Rngs(self.seed)
        return params_of(self._make(real.mean(axis=0), real.std(axis=0), size, rngs))

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every example is seen about once."""
        return max(1, round(len(self.examples) / self.batch_size))

    def init_state(self, optimizer: optax.GradientTransformation) -> TrainState:
        """A fresh state."""
        return state_of(self.initial(), optimizer, self.axes, self.mesh)

    @property
    def axes(self) -> parallel.AxisRules:
        """An adapter is small: every device has all of it."""
        return [(re.escape(p), (None,) * len(a.shape)) for p, a in self.adapter.shapes.items()]

    @property
    def mesh(self) -> jax.sharding.Mesh:
        """The devices: the language model's, or the first alone."""
        if self.llm.mesh is not None:
            return self.llm.mesh
        return jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), parallel.MESH_AXES)

    @functools.lru_cache(maxsize=2)  # noqa: B019 - a step reads at most two epochs
    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.examples))

    def rows(self, step: int) -> np.ndarray:
        """[B] the examples of a step: one shuffled epoch follows another."""
        places = step * self.batch_size + np.arange(self.batch_size)
        epochs, inside = np.divmod(places, len(self.examples))
        return np.array(
            [self._order(int(e))[k] for e, k in zip(epochs, inside, strict=True)], np.int64
        )

    def asked(self, step: int) -> tuple[Task, int]:
        """The task and the prompt of a step: one for all rows, so that they share a beginning."""
        rng = np.random.default_rng([self.seed, step, 1])
        tasks = self.questions.config.tasks
        shares = np.array([getattr(self.questions.config, task) for task in tasks])
        task = tasks[int(rng.choice(len(tasks), p=shares / shares.sum()))]
        return task, int(rng.integers(self.questions.forms(task)))

    def batch(self, step: int) -> Batch:
        """A step's batch, on the devices."""
        task, form = self.asked(step)
        rows = self.rows(step)
        before, arrays = self.questions.lay_out(task, form, self.examples.titles(rows, task))
        # Laid out for all, so that the shapes agree; then this process's part.
        index, processes = jax.process_index(), jax.process_count()
        share = len(rows) // processes
        mine = slice(index * share, (index + 1) * share)
        arrays = {key: values[mine] for key, values in arrays.items()}
        arrays["states"] = np.asarray(self.examples.states(rows[mine], task))
        prefix = self.llm.prefix_cache(before) if before else None
        return Batch(prefix, parallel.shard_batch(arrays, self.mesh))

    def loss_fn(
        self, params: Params, batch: dict[str, Array], data: Any, key: Array
    ) -> tuple[Array, Array]:
        """(sum, number) of the answers' tokens' loss."""
        del key
        frozen, prefix = data
        model = self.llm.definition.merge(frozen)
        soft = self.adapter.merge(params)(batch["states"].reshape(-1, self.length, self.dim))
        soft = soft.reshape(len(batch["tokens"]), -1, soft.shape[-1])
        x = place_soft(model.embed(batch["tokens"]), batch["is_soft"], soft)
        h, _ = model.hidden(x, mask=batch["real"], prefix=prefix)
        # The first place, the question's last, has no label of its own.
        labels = jnp.pad(batch["labels"], ((0, 0), (1, 0)), constant_values=NO_LABEL)
        return token_loss(h[:, -labels.shape[1] :], model.head_table(), labels)

    def make_steps(
        self, optimizer: optax.GradientTransformation
    ) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]:
        """`(state, batch) -> (state, metrics)`, one step a call; metrics are [1]."""
        steps = make_steps(self.loss_fn, optimizer)
        key = jax.random.key(self.seed)

        def one(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
            arrays = jax.tree.map(lambda a: a[None], batch.arrays)
            return steps(state, arrays, (self.llm.params, batch.prefix), key)

        return one
