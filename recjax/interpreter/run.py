"""An interpreter's run: a trained recommender, a language model, and the adapter between them.

    recjax train --config=configs/interpreter/adapter.py:ml100k-sasrec --workdir=runs/ml100k

The recommender is named by its workdir, the language model by its folder; both stay frozen, and
only the adapter is trained and saved. Data, split and catalogue are the recommender's: the adapter
learns from windows of the training sequences alone.
"""

import copy
import dataclasses
import functools
import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from flax import nnx

from recjax.config import build, to_plain
from recjax.data.rows import some_rows
from recjax.data.store import Store
from recjax.errors import InputError
from recjax.frozen import Encoder, Windows, open_recommender, recommender_store, split_windows
from recjax.interpreter import adapters
from recjax.interpreter.bridge import Bridge
from recjax.interpreter.evaluator import Interpretation
from recjax.interpreter.examples import Histories
from recjax.interpreter.learning import Batch, Learner
from recjax.interpreter.questions import AskConfig
from recjax.interpreter.reader import Answer, Decoding, Reader
from recjax.interpreter.starting import StartConfig
from recjax.llm import LanguageModel
from recjax.llm_folders import load_llm, outline_llm
from recjax.models.definition import ModelDef, define, fingerprint
from recjax.paths import home
from recjax.ranges import Checked, Count, Epochs, Range, Seed, Share, Size
from recjax.text.tasks import RESIDUAL, Task
from recjax.text.textualize import check_titles, item_titles
from recjax.training import parallel
from recjax.training.item_vectors import check_origin
from recjax.training.optim import OptimConfig
from recjax.training.recommender import RecommenderRun
from recjax.training.run import Run
from recjax.training.system import System
from recjax.training.train_config import TrainConfig
from recjax.typing import Array, Params


@dataclasses.dataclass(frozen=True)
class InterpreterTrainConfig(TrainConfig):
    """Section `train` of interpreters."""

    batch_size: Size = 64  # examples a step
    epochs: Epochs = 20.0  # section 4.1.2
    steps_per_call: Annotated[int, Range(1, 1)] = 1  # steps differ in what they ask
    metric: str = f"validation/{RESIDUAL}/accuracy"
    # More examples, as a share of the training windows: theirs with a newest item drawn from the
    # catalogue. The paper has none.
    drawn: Share = 0.0


@dataclasses.dataclass(frozen=True)
class InterpretationConfig(Checked):
    """Section `evaluation` of interpreters."""

    max_examples: Count = 200  # windows that are measured, drawn once; 0 = all
    seed: Seed = 0  # of that draw


@dataclasses.dataclass(frozen=True)
class InterpreterRunConfig(Checked):
    """An interpreter's config."""

    recommender: str  # workdir of a trained recommender
    llm: str  # folder of a language model with its tokenizer
    dtype: str = ""  # of the language model; "" = as it is stored
    quant: Literal["", "int8", "nf4"] = ""  # of its layers' kernels (`recjax.nn.quant`)
    seed: Seed = 0
    ask: AskConfig = dataclasses.field(default_factory=AskConfig)
    adapter: adapters.Config = dataclasses.field(default_factory=adapters.Config)
    start: StartConfig = dataclasses.field(default_factory=StartConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    train: InterpreterTrainConfig = dataclasses.field(default_factory=InterpreterTrainConfig)
    evaluation: InterpretationConfig = dataclasses.field(default_factory=InterpretationConfig)

    system = "interpreter"  # its name in `recjax.systems.SYSTEMS`; no field


def complete(section: Any) -> dict[str, Any]:
    """A run's config with all defaults filled in."""
    return to_plain(build(InterpreterRunConfig, section, "config"))


def _store(config: InterpreterRunConfig, may_prepare: bool) -> Store:
    if not config.llm:
        raise InputError("config.llm: is empty; expected the folder of a language model")
    return recommender_store(config.recommender, may_prepare, "config.recommender")


def _settled(config: InterpreterRunConfig, store: Store) -> InterpreterRunConfig:
    del store
    recommender, llm = (str(home(path).absolute()) for path in (config.recommender, config.llm))
    return dataclasses.replace(config, recommender=recommender, llm=llm, ask=config.ask.settled())


class InterpreterRun(Run):
    """Everything that an interpreter's run consists of, built from its config.

    Args:
        config: the run's config.
        store: the recommender's data.
        folder: the run's folder, or None for a run that keeps nothing.

    Attributes:
        recommender: the frozen recommender's run.
    """

    unit = "examples"
    config: InterpreterRunConfig

    def __init__(self, config: InterpreterRunConfig, store: Store, folder: Path | None = None):
        super().__init__(config, store, folder)
        self.recommender = open_recommender(config.recommender)

    @functools.cached_property
    def llm(self) -> LanguageModel:
        """The frozen language model."""
        mesh = self.mesh if self.mesh.size > 1 else None
        split = to_plain(self.recommender.config.split)
        check_origin(Path(self.config.llm), self.store.fingerprint, split)
        dtype = self.config.dtype or None
        return load_llm(
            self.config.llm, dtype=dtype, mesh=mesh, rules=self.logical_rules,
            quant=self.config.quant or None,
        )  # fmt: skip

    def outline(self) -> Self:
        """See `Trainable`: both frozen models without their weights."""
        run, config = copy.copy(self), self.config
        run.llm = outline_llm(
            config.llm, dtype=config.dtype or None, mesh=self.mesh if self.mesh.size > 1 else None,
            rules=self.logical_rules, quant=config.quant or None,
        )  # fmt: skip
        shapes: Any = self.recommender.model.shapes
        run.recommender_params = dict(shapes)
        return run

    def undivided(self) -> list[str]:
        """See `Trainable`; of the language model, too."""
        axes = parallel.ruled(self.llm.family.axes, self.logical_rules)
        return [*super().undivided(), *parallel.undivided(self.llm.params, axes, self.mesh)]

    @property
    def held_bytes(self) -> int:
        """See `Trainable`: the recommender, which encodes the histories of each step."""
        other = self.recommender
        places = parallel.param_shardings(other.model.shapes, other.placed_axes, other.mesh)
        return sum(
            math.prod(places[path].shard_shape(a.shape)) * a.dtype.itemsize
            for path, a in other.model.shapes.items()
        )

    @functools.cached_property
    def recommender_params(self) -> Params:
        """The parameters of the recommender's best checkpoint."""
        return self.recommender.restore(self.recommender.best_step())

    @functools.cached_property
    def encoder(self) -> Encoder:
        """The frozen recommender's encoder."""
        return self._encoder(self.recommender, self.recommender_params)

    def _encoder(self, recommender: RecommenderRun, params: Params) -> Encoder:
        return Encoder(recommender, params, self.config.ask.window, "config.ask.window")

    @functools.cached_property
    def bridge(self) -> Bridge:
        """The bridge between recommender and language model."""
        encoder, config = self.encoder, self.config
        return Bridge(self.llm, config.ask, config.adapter, encoder.length, encoder.dim)

    @functools.cached_property
    def names(self) -> list[str]:
        """[I] titles by item id."""
        check_titles(self.store.catalog, self.store.path)
        return item_titles(self.store.catalog, self.bridge.questions.words)

    def windows(self, name: Literal["train", "validation", "test"], *, newest: bool) -> Windows:
        """See `frozen.split_windows`."""
        return split_windows(self.recommender, name, self.config.ask.window, newest=newest)

    def sample(self, windows: Windows) -> Windows:
        """`evaluation.max_examples` of them, drawn once."""
        config = self.config.evaluation
        return windows[some_rows(len(windows), config.max_examples, config.seed)]

    def histories(self, windows: Windows, *, untrained: int | None = None) -> Histories:
        """Examples of windows; of a recommender with fresh weights of the seed `untrained`."""
        encoder = self.encoder
        if untrained is not None:
            other = self.recommender.with_seed(untrained)
            fresh = other.whole(other.init_state().params)
            encoder = self._encoder(self.recommender, fresh)
        return Histories(windows, encoder, self.names)

    @functools.cached_property
    def learner(self) -> Learner:
        """The adapter and what it learns from: windows of the training sequences."""
        windows = self.windows("train", newest=False)
        if self.config.train.drawn:
            seed = self.config.seed
            windows = windows.with_drawn(self.config.train.drawn, self.store.n_items, seed)
        examples = self.histories(windows)
        size = self.config.train.batch_size
        return Learner(
            self.bridge,
            examples,
            batch_size=size,
            seed=self.config.seed,
            parts=self.parts_of_batch,
            start=self.config.start,
            optim=self.config.optim,
        )

    @property
    def batches(self) -> Learner:
        """The learner, which has `steps_per_epoch`."""
        return self.learner

    rules = adapters.RULES
    threaded = False  # a batch has states that the recommender computes

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """See `Trainable`."""
        return self.bridge.build(rngs)

    @functools.cached_property
    def model(self) -> ModelDef:
        """The adapter's definition; the frozen models are read before JAX traces it."""
        return define(self.bridge.build)

    @property
    def axes(self) -> parallel.AxisRules:
        """See `Trainable`."""
        return self.bridge.axes

    @property
    def given(self) -> Params:
        """See `Learner.given`."""
        return self.learner.given

    def abstract_inputs(self) -> tuple[Any, Any]:
        """See `Learner.abstract_inputs`."""
        return self.learner.abstract_inputs()

    def loss_fn(self, params: Params, batch: Any, data: Any, key: Array) -> tuple[Array, Array]:
        """See `Learner.loss_fn`."""
        return self.learner.loss_fn(params, batch, data, key)

    def inputs(self, batch: Batch) -> tuple[dict[str, Array], Any]:
        """See `Learner.inputs`."""
        return self.learner.inputs(batch)

    def place(self, step: int, count: int) -> Batch:
        """See `Learner.place`."""
        return self.learner.place(step, count)

    def check(self) -> None:
        """See `Run.check`; of the states, the titles and the adapter's start, too."""
        super().check()
        if not len(self.learner.examples):
            raise InputError(
                f"{self.config.recommender}: no training sequence has two items: nothing to "
                "train on"
            )
        train = self.config.train
        parallel.row_multiple(train.batch_size, self.mesh, train.accumulate)
        self.learner.check()

    def part(self, step: int) -> str:
        """The task and the prompt of a step."""
        task, form = self.learner.asked(step)
        return f"{task}/prompt{form}"

    def reader(self, params: Params) -> Reader:
        """The run's reader with an adapter's parameters."""
        return Reader(self.bridge, params, self.names)

    def ask(
        self,
        reader: Reader,
        windows: Windows,
        task: Task,
        decoding: Decoding = "greedy",
    ) -> list[Answer]:
        """Answers about histories."""
        states = self.histories(windows).states(np.arange(len(windows)), task.backs)
        return reader.read(states, task, decoding=decoding)

    def evaluator(self, name: Literal["validation", "test"]) -> Interpretation:
        """Measures on one part of the split."""
        return Interpretation(self, name)

    def describe(self) -> str:
        """One line: recommender, language model, and the number of trained parameters."""
        llm = sum(math.prod(a.shape) for a in self.llm.params.values())
        trained = self.model.size(self.trained)
        name = self.recommender.config.model["name"]
        shape = f"[{self.encoder.length} {self.encoder.dim}]"
        return (
            f"{name}'s states {shape} to {self.config.adapter.soft} soft token(s) of a language "
            f"model of {llm:,} parameters; the adapter has {trained:,} ({trained / llm:.2%}); "
            f"{len(self.learner.examples):,} examples, {self.learner.steps_per_epoch:,} steps an "
            "epoch"
        )

    @functools.cached_property
    def identity(self) -> dict[str, Any]:  # type: ignore[override]
        """The identity of a checkpoint: the adapter, both frozen models, a file's questions."""
        return {
            "adapter": to_plain(self.config.adapter),
            "recommender": fingerprint(self.recommender_params),
            "llm": fingerprint(self.llm.params),
            "prompt table": self._prompts,
        }

    @property
    def _prompts(self) -> str | None:
        return self.bridge.questions.table.fingerprint if self.config.ask.prompts else None


SYSTEM = System(
    InterpreterRunConfig, InterpreterRun, complete, _store, _settled,
    may_change=("recommender", "llm", "ask.prompts"), learns="adapter",
)  # fmt: skip
