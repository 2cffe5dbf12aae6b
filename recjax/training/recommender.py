"""A recommender's run: config, data, model, training, evaluation, in a workdir.

run = open_run("runs/beauty")            # a finished or interrupted one
params = run.restore(run.best_step())
metrics = run.evaluator("test").run(params)
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import optax
from flax import nnx

from recjax.config import build, nearest, to_plain
from recjax.data import splits
from recjax.data.pipeline import TrainBatches
from recjax.data.prepare import DataConfig, read_options
from recjax.data.store import Store
from recjax.errors import InputError
from recjax.evaluation.protocols import EvaluationConfig, Evaluator
from recjax.models.definition import define
from recjax.models.recommender import make_recommender, read_config
from recjax.training import parallel
from recjax.training.checkpoint import Checkpoints, abstract_like
from recjax.training.loop import Progress, TrainConfig, fit
from recjax.training.metrics import MetricWriter, NoWriter
from recjax.training.objectives import Objective, ObjectiveConfig
from recjax.training.optim import OptimConfig, make_optimizer
from recjax.training.state import TrainState, abstract_state, init_state, state_shardings
from recjax.training.step import make_steps
from recjax.typing import Array, Params


@dataclasses.dataclass(frozen=True)
class SplitConfig:
    name: Literal["leave_one_out", "chronological_sequences", "chronological_time"] = (
        "leave_one_out"
    )
    ratios: tuple[int, ...] = (8, 1, 1)  # of the chronological splits


@dataclasses.dataclass(frozen=True)
class RunConfig:
    data: DataConfig
    model: dict  # the model's `name`, a `preset` of it, and fields of its `Config`
    seed: int = 0  # of weights, shuffles, dropout and negatives
    split: SplitConfig = dataclasses.field(default_factory=SplitConfig)
    objective: ObjectiveConfig = dataclasses.field(default_factory=ObjectiveConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)


def complete(section: Any) -> dict[str, Any]:
    """A run's config with all defaults filled in: the model's and the reader's too.

    Raises:
        InputError: naming the key that is unknown, missing or of the wrong type.
    """
    config = build(RunConfig, section, "config")
    plain = to_plain(config)
    plain["model"] = {"name": config.model.get("name"), **to_plain(read_config(config.model)[1])}
    plain["data"]["options"] = to_plain(read_options(config.data)[1])
    return plain


def make_split(store: Store, config: SplitConfig) -> splits.Split:
    """The split that a config names."""
    if config.name == "leave_one_out":
        return splits.leave_one_out(store.offsets)
    function = getattr(splits, config.name)
    return function(store.offsets, store.timestamps, config.ratios)


class RecommenderRun:
    """Everything that a run of a recommender consists of, built from its config.

    Args:
        config: the run's config.
        store: the prepared data.
        workdir: the run's folder, or None for a run that keeps nothing.

    Attributes:
        mesh: the devices.
        model: the model's definition (`model.merge(params)` is the module).
    """

    def __init__(self, config: RunConfig, store: Store, workdir: Path | None = None):
        self.config, self.store, self.workdir = config, store, workdir
        self.mesh = parallel.make_mesh(config.train.mesh)
        self._module, model_config = read_config(config.model)
        self.model = define(self._build)
        self._masked = self._module.Recommender.masked
        self.window = model_config.max_length

    def _build(self, rngs: nnx.Rngs) -> Any:
        return make_recommender(self.config.model, self.store.n_items, rngs)

    @functools.cached_property
    def split(self) -> splits.Split:
        return make_split(self.store, self.config.split)

    @functools.cached_property
    def batches(self) -> TrainBatches:
        """The training batches."""
        train = self.config.train
        processes = jax.process_count()
        return TrainBatches(
            self.store.items,
            self.split.train,
            self.window,
            train.batch_size,
            self.config.seed,
            packed=train.packed,
            shifted=not self._masked,
            row_multiple=max(1, parallel.data_size(self.mesh) // processes),
            process=(jax.process_index(), processes),
        )

    @functools.cached_property
    def optimizer(self) -> optax.GradientTransformation:
        return make_optimizer(self.config.optim, self.batches.steps_per_epoch)

    def loss_fn(self, objective: Objective) -> Callable[..., tuple[Array, Array]]:
        """`(params, batch, data, key) -> (sum, weight)`."""

        def loss(params: Params, batch: Any, data: Any, key: Array) -> tuple[Array, Array]:
            model_key, negatives_key = jax.random.split(key)
            module = self.model.merge(params)
            rngs = nnx.Rngs(dropout=model_key, noise=jax.random.fold_in(model_key, 1))
            vectors, targets, sequences, states = module.learn(batch, rngs)
            return objective(
                vectors, module.item_table(), targets, sequences, data, negatives_key, states
            )

        return loss

    def encode(self, params: Params, batch: dict[str, Array]) -> tuple[Array, Array]:
        """`(vectors [B D], table [I D])` whose inner products rank each example's next item."""
        module = self.model.merge(params)
        # A generative model draws the same noise for the same examples.
        key = jax.random.fold_in(jax.random.key(self.config.seed), batch["ids"].sum())
        predicted = module.predict(
            batch["ids"],
            positions=batch["positions"],
            segments=batch["segments"],
            last=batch["last"],
            rngs=nnx.Rngs(noise=key),
        )
        return predicted, module.item_table()

    def init_state(self) -> TrainState:
        """A fresh state, born sharded (a training step donates it)."""
        return init_state(
            self._build, self.optimizer, self.config.seed, self._module.PARAM_AXES, self.mesh
        )

    def abstract_state(self) -> TrainState:
        """The state's shapes and shardings; allocates nothing."""
        abstract = abstract_state(self._build, self.optimizer, self.config.seed)
        shardings = state_shardings(abstract, self._module.PARAM_AXES, self.mesh)
        return abstract_like(abstract, shardings)

    def make_steps(self) -> Callable[[TrainState, Any], tuple[TrainState, dict[str, Array]]]:
        """`(state, batches) -> (state, metrics)`: see `recjax.training.step`."""
        objective = Objective(
            self.config.objective, self.store.items, self.split.train, self.store.n_items
        )
        data = parallel.replicate(objective.data, self.mesh)
        key = jax.random.key(self.config.seed)
        steps = make_steps(self.loss_fn(objective), self.optimizer)
        return lambda state, batch: steps(state, batch, data, key)

    def place(self, step: int, count: int) -> dict[str, Array]:
        """Training batches step .. step + count - 1 on the devices."""
        return parallel.shard_batch(self.batches(step, count), self.mesh, axis=1)

    def evaluator(self, name: Literal["validation", "test"]) -> Evaluator:
        """Evaluates on one part of the split."""
        return Evaluator(
            self.config.evaluation,
            name,
            self.store.items,
            self.store.offsets,
            getattr(self.split, name),
            self.store.n_items,
            self.window,
            self.encode,
            place=lambda batch: parallel.replicate(batch, self.mesh),
            packed=self.config.train.packed,
            closing=self.store.n_items if self._masked else 0,
        )

    def describe(self) -> str:
        """One line: model, parameters, data, devices."""
        parameters = sum(math.prod(a.shape) for a in self.model.shapes.values())
        devices = f"{self.mesh.size} {jax.devices()[0].platform} device(s)"
        return (
            f"{self.config.model['name']}: {parameters:,} parameters; "
            f"{self.batches.n_sequences:,} training sequences, "
            f"{self.batches.steps_per_epoch:,} steps an epoch; {devices}"
        )

    # --- the workdir

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint belongs to: the model and the data."""
        return {"model": to_plain(self.config.model), "data": self.store.fingerprint}

    @functools.cached_property
    def checkpoints(self) -> Checkpoints:
        """The workdir's checkpoints, for reading."""
        assert self.workdir is not None
        return Checkpoints(self.workdir / "checkpoints", read_only=True)

    def latest_step(self) -> int:
        """The newest complete checkpoint; `InputError` where there is none."""
        folder = None if self.workdir is None else self.workdir / "checkpoints"
        step = self.checkpoints.latest() if folder is not None and folder.is_dir() else None
        if step is None:
            raise InputError(f"{folder}: no complete checkpoint; run `recjax train` first")
        return step

    def best_step(self) -> int:
        """The step of the best validation; the newest one where there was none."""
        latest = self.latest_step()
        return Progress(**self._meta(self.checkpoints, latest)["progress"]).best_step or latest

    def _meta(self, checkpoints: Checkpoints, step: int) -> dict[str, Any]:
        meta = checkpoints.meta(step)
        for key, expected in self.identity.items():
            if meta.get(key) != expected:
                raise InputError(
                    f"{checkpoints.folder / str(step)}: a checkpoint of another {key} "
                    f"({_contrast(meta.get(key), expected)})"
                )
        return meta

    def restore(self, step: int) -> Params:
        """The parameters of a checkpoint."""
        self._meta(self.checkpoints, step)
        return self.checkpoints.restore(step, self.abstract_state()).params

    def train(self) -> dict[str, Any]:
        """Trains, or resumes, or notices that all is done; then tests the best checkpoint.

        Returns:
            The final line of `metrics.jsonl`: test metrics by name, `step` (of the best
            checkpoint), and `finished` False when SIGTERM stopped it early.
        """
        assert self.workdir is not None
        validation = self.evaluator("validation")
        metric = self.config.train.metric
        if metric not in validation.metric_names:
            raise InputError(
                f"config.train.metric: no metric '{metric}' among what config.evaluation "
                f"computes; {nearest(metric, validation.metric_names)}"
            )
        checkpoints = Checkpoints(self.workdir / "checkpoints", self.config.train.keep_checkpoints)
        writer: MetricWriter | NoWriter = NoWriter()
        try:
            latest = checkpoints.latest()
            progress = Progress()
            if latest is None:
                state = self.init_state()
            else:
                progress = Progress(**self._meta(checkpoints, latest)["progress"])
                state = checkpoints.restore(latest, self.abstract_state())
            if jax.process_index() == 0:
                writer = MetricWriter(self.workdir, latest or 0)
            state, progress, finished = fit(
                state,
                self.make_steps(),
                self.place,
                lambda state: validation.run(state.params),
                checkpoints,
                writer,
                self.config.train,
                steps_per_epoch=self.batches.steps_per_epoch,
                progress=progress,
                meta=self.identity,
            )
            if not finished:
                return {"step": int(state.step), "finished": False}
            step, params = int(state.step), state.params
            if progress.best_step not in (None, step):
                step = progress.best_step
                params = checkpoints.restore(step, self.abstract_state()).params
            values = self.evaluator("test").run(params)
            writer.write(step, {"final": True, **values})
            return {"step": step, "finished": True, **values}
        finally:
            writer.close()
            checkpoints.close()


def _contrast(found: Any, expected: Any) -> str:
    """What differs, in a few words."""
    if isinstance(found, dict) and isinstance(expected, dict):
        keys = [k for k in {**expected, **found} if found.get(k) != expected.get(k)]
        keys = ["name"] if "name" in keys else keys
        return "; ".join(f"{k} {found.get(k)}, expected {expected.get(k)}" for k in keys)
    return f"{str(found)[:12]}, expected {str(expected)[:12]}"
