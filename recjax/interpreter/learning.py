"""Training an adapter into a frozen language model.

One step: states [B n L D] of n representations a row -> soft tokens -> the model's loss on the
answer. The common prefix of a question's rows is encoded once a run, not once a row and step; the
frozen weights cost no gradient.
"""

import dataclasses
import functools
import warnings
from typing import Any

import jax
import numpy as np
from flax import nnx

from recjax.data.epochs import Epochs
from recjax.data.pipeline import step_size
from recjax.data.rows import some_rows
from recjax.errors import InputError
from recjax.interpreter import adapters
from recjax.interpreter.bridge import Bridge
from recjax.interpreter.examples import Examples
from recjax.interpreter.starting import StartConfig, check_vectors, start_near
from recjax.models.known_inputs import LearnedInputs, Maps, map_tokens
from recjax.nn.cache import KVCache
from recjax.nn.masks import make_mask
from recjax.nn.soft import place_soft
from recjax.text.tasks import Task
from recjax.training import parallel
from recjax.training.item_vectors import read_item_vectors
from recjax.training.optim import OptimConfig
from recjax.training.token_loss import label_loss
from recjax.training.trainable import Trainable
from recjax.typing import Array, Params

_SAMPLE = 4096  # examples whose states give the adapter's whitening
_HISTORIES = 1024  # whose answers are looked at for those that are cut
_STEPS = 8  # whose rows are laid out to tell how wide they are


@dataclasses.dataclass(frozen=True)
class Batch:
    """One step's examples.

    Attributes:
        prefix: the cache of what all rows begin with, or None.
        arrays: `states` [R n L D], of n representations a row, and those of `Questions.lay_out`.
    """

    prefix: KVCache | None
    arrays: dict[str, Any]


class Learner(Trainable):
    """The training of an adapter: its examples, step by step.

    Args:
        bridge: the adapter's place.
        examples: to learn from.
        batch_size: B, at most: all examples where they are fewer.
        seed: of the adapter, of the examples' order, of tasks and prompts.
        parts: of a batch's rows, which a step takes one after the other.
        start: how the adapter starts; at random by default.
        optim: the update rule.
    """

    rules = adapters.RULES
    seed, optim = 0, OptimConfig()

    def __init__(
        self,
        bridge: Bridge,
        examples: Examples,
        *,
        batch_size: int,
        seed: int = 0,
        parts: int = 1,
        start: StartConfig | None = None,
        optim: OptimConfig | None = None,
    ):
        self.bridge, self.examples, self.mesh = bridge, examples, bridge.mesh
        self.model = bridge.adapter
        self._parts = parts
        self._multiple = parallel.data_size(bridge.mesh) * parts  # of the rows of a batch
        self.per_step = step_size(batch_size, len(examples), self._multiple)
        self.seed, self.optim = seed, optim or OptimConfig()
        self._start = start or StartConfig()
        self._prefixes: dict[tuple[int, ...], KVCache] = {}

    @property
    def parts_of_batch(self) -> int:
        """See `Trainable`."""
        return self._parts

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every example is seen about once."""
        return max(1, round(len(self.examples) / self.per_step))

    @property
    def batches(self) -> "Learner":
        """This object, which has `steps_per_epoch`."""
        return self

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """See `Trainable`."""
        return self.bridge.build(rngs)

    @property
    def axes(self) -> parallel.AxisRules:
        """See `Trainable`."""
        return self.bridge.axes

    @property
    def given(self) -> Params:
        """The adapter's parameters at the start; `check` has passed.

        Raises:
            InputError: states that are all zero or all the same.
        """
        rng = np.random.default_rng(self.seed)
        count = min(_SAMPLE, len(self.examples))
        rows = np.sort(rng.choice(len(self.examples), count, replace=False))
        states = np.asarray(self.examples.states(rows))[:, 0]
        params = self.bridge.initial(states, self.seed)
        if self._start.examples:
            params = start_near(
                self.bridge, params, self.examples, *self._vectors, self._start, self.seed
            )
        return params

    @functools.cached_property
    def _vectors(self) -> tuple[list[str], np.ndarray]:
        """Titles and vectors [n E] that lie beside the language model."""
        folder = self.bridge.llm.folder
        if folder is None:
            raise InputError("config.start: the language model has no folder with item vectors")
        return read_item_vectors(folder)

    def check(self) -> None:
        """Checks before the first step what would otherwise fail during training.

        A warning tells of answers that are cut: of all titles, and of histories, a sample of them.

        Raises:
            InputError: a title that does not fit behind a question; no item vectors to start near,
                or those of other titles.
        """
        titles: dict[str, None] = {}
        for first in range(0, len(self.examples), _SAMPLE):
            rows = np.arange(first, min(first + _SAMPLE, len(self.examples)))
            titles |= dict.fromkeys(t for row in self.examples.titles(rows) for t in row)
        questions = self.bridge.questions
        for task in questions.config.tasks:
            alone = [[title] for title in titles]
            for form in range(questions.forms(task)):
                questions.answers(task, form, alone)
            rows = some_rows(len(self.examples), _HISTORIES, self.seed)
            told = self.examples.titles(rows, lists=True) if task.lists else alone
            if message := questions.cut(task, told):
                warnings.warn(message, stacklevel=2)
        if self._start.examples:
            check_vectors(self.bridge, titles, *self._vectors)

    @functools.cached_property
    def _epochs(self) -> Epochs:
        return Epochs(len(self.examples), self.seed)

    def rows(self, step: int) -> np.ndarray:
        """[B] the examples of a step: one shuffled epoch follows another."""
        return self._epochs(step * self.per_step + np.arange(self.per_step))

    def asked(self, step: int) -> tuple[Task, int]:
        """The task and the prompt of a step: one for all rows, so that they share a beginning."""
        rng = np.random.default_rng([self.seed, step, 1])
        questions = self.bridge.questions
        tasks = questions.config.tasks
        shares = np.array([questions.config.share(task) for task in tasks])
        task = tasks[int(rng.choice(len(tasks), p=shares / shares.sum()))]
        return task, int(rng.integers(questions.forms(task)))

    @functools.lru_cache  # noqa: B019 - a few
    def _width(self, task: Task, form: int) -> int:
        """T that nearly all steps fit: the most that some need. Each other T is compiled."""
        layouts = [self._laid_out(step, task, form, width=0) for step in range(_STEPS)]
        return max(arrays["tokens"].shape[1] for _, _, arrays in layouts)

    def _laid_out(
        self, step: int, task: Task, form: int, width: int | None = None
    ) -> tuple[list[int], np.ndarray, dict[str, np.ndarray]]:
        """See `Questions.lay_out`; [R n] which examples are in each row."""
        width = self._width(task, form) if width is None else width
        rows = self.rows(step)
        titles = self.examples.titles(rows, lists=task.lists)
        pairs = len(rows) % (2 * self._multiple) == 0
        before, order, arrays = self.bridge.questions.lay_out(
            task, form, titles, pairs=pairs, width=width
        )
        return before, rows[order], arrays

    def place(self, step: int, count: int = 1) -> Batch:
        """A step's batch, on the devices: steps differ in what they ask."""
        assert count == 1
        task, form = self.asked(step)
        before, chosen, arrays = self._laid_out(step, task, form)
        # Laid out for all, so that the shapes agree; then this process's part.
        index, processes = parallel.rows_of_process(self.bridge.mesh)["process"]
        share = len(chosen) // processes
        own_rows = slice(index * share, (index + 1) * share)
        arrays = {key: values[own_rows] for key, values in arrays.items()}
        states = np.asarray(self.examples.states(chosen[own_rows].reshape(-1), task.backs))
        arrays["states"] = states.reshape(share, -1, *states.shape[2:])
        prefix = self._prefix(tuple(before)) if before else None
        return Batch(prefix, parallel.shard_batch(arrays, self.bridge.mesh))

    def _prefix(self, before: tuple[int, ...]) -> KVCache:
        """The cache of a beginning: the model itself keeps the last ones alone."""
        if before not in self._prefixes:
            self._prefixes[before] = self.bridge.llm.prefix_cache(before)
        return self._prefixes[before]

    @functools.cached_property
    def _mapped(self) -> Maps | None:
        llm = self.bridge.llm
        return jax.jit(lambda params: map_tokens(llm.definition.merge(params)))(llm.params)

    def inputs(self, batch: Batch) -> tuple[dict[str, Array], Any]:
        """The arrays of one step, and what it reads beside them: the frozen parameters, what they
        make of every token (`map_tokens`), and the beginning of all rows."""
        arrays = jax.tree.map(lambda a: a[None], batch.arrays)
        return arrays, (self.bridge.llm.params, self._mapped, batch.prefix)

    def abstract_inputs(self) -> tuple[Any, Any]:
        """See `Trainable`: of the first step, with the task and the prompt of most tokens.

        A large model's: what a CPU keeps of a small one's first layer (`map_tokens`) is left out.
        """
        questions, llm = self.bridge.questions, self.bridge.llm
        asked = [(task, k) for task in questions.config.tasks for k in range(questions.forms(task))]
        layouts = [(task, *self._laid_out(0, task, form)) for task, form in asked]
        task, before, chosen, arrays = max(layouts, key=lambda layout: layout[3]["tokens"].size)
        representations = chosen.shape[1] * len(task.backs)
        shape = (len(chosen), representations, self.bridge.length, self.bridge.dim)
        batch: dict[str, Any] = {**arrays, "states": jax.ShapeDtypeStruct(shape, np.float32)}
        stacked = {k: jax.ShapeDtypeStruct((1, *a.shape), a.dtype) for k, a in batch.items()}
        prefix = llm.outline_prefix(len(before)) if before else None
        return parallel.abstract_batch(stacked, self.mesh, axis=1), (llm.params, None, prefix)

    def loss_fn(
        self, params: Params, batch: dict[str, Array], data: Any, key: Array
    ) -> tuple[Array, Array]:
        """(sum, weight) of the loss of the answers' tokens; `data` as `inputs` gives it."""
        del key
        frozen, maps, prefix = data
        model = self.bridge.llm.definition.merge(frozen)
        soft = self.bridge.soft(params, batch["states"])
        x = place_soft(model.embed(batch["tokens"]), batch["is_soft"], soft)
        options = {}
        if maps is not None:
            options["learned"] = LearnedInputs(batch["tokens"], batch["learned"], maps)
        h, _ = model.hidden(
            x,
            positions=batch["positions"],
            mask=make_mask(batch["segments"] > 0, 1, batch["segments"]),
            prefix=prefix,
            places=batch["places"],
            **options,
        )
        return label_loss(h, model.head_table(), batch["labels"], mesh=self.bridge.mesh)
