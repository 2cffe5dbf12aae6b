"""A recommender's run: config, data, model, training, evaluation, in a workdir.

run = open_run("runs/beauty")            # a finished or interrupted one
params = run.restore(run.best_step())
metrics = run.evaluator("test").run(params)
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
from flax import nnx

from recjax.config import build, nearest, to_plain
from recjax.data import splits
from recjax.data.pipeline import TrainBatches
from recjax.data.prepare import DataConfig, read_options
from recjax.data.requests import read_request
from recjax.data.store import Store
from recjax.errors import InputError
from recjax.evaluation.lists import Recommendations, TopLists
from recjax.evaluation.protocols import EvaluationConfig, Evaluator
from recjax.models.definition import fingerprint
from recjax.models.recommender import FEATURE_AXES, FEATURES, make_recommender, read_config
from recjax.ranges import Checked, Count, FieldError, Range, Seed
from recjax.training import parallel
from recjax.training.freezing import FULL, Rules, split_params
from recjax.training.loop import TrainConfig
from recjax.training.objectives import Objective, ObjectiveConfig
from recjax.training.optim import OptimConfig
from recjax.training.run import Run
from recjax.training.system import System
from recjax.typing import Array, Params


@dataclasses.dataclass(frozen=True)
class SplitConfig(Checked):
    """Section `split`."""

    name: Literal["leave_one_out", "chronological_sequences", "chronological_time"] = (
        "leave_one_out"
    )
    # Of the chronological splits.
    ratios: tuple[Annotated[int, Range(0, 1_000_000)], ...] = (8, 1, 1)
    by: Literal["end", "start", "user"] = "end"  # how chronological_sequences sorts

    def __post_init__(self):
        super().__post_init__()
        if len(self.ratios) != 3 or not self.ratios[0]:
            raise FieldError("ratios", f"expected (train, validation, test), got {self.ratios}")


@dataclasses.dataclass(frozen=True)
class RecommenderTrainConfig(TrainConfig):
    """Section `train` of recommenders."""

    packed: bool = True  # several sequences a row
    # Of a sequence longer than the model's window: 0 trains on its newest window alone, n on that
    # and on those that end n, 2 n, ... items before.
    stride: Count = 0


@dataclasses.dataclass(frozen=True)
class RunConfig(Checked):
    """A recommender's config."""

    data: DataConfig
    model: dict  # the model's `name`, a `preset` of it, and fields of its `Config`
    seed: Seed = 0  # of weights, shuffles, dropout and negatives
    split: SplitConfig = dataclasses.field(default_factory=SplitConfig)
    objective: ObjectiveConfig = dataclasses.field(default_factory=ObjectiveConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    train: RecommenderTrainConfig = dataclasses.field(default_factory=RecommenderTrainConfig)
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)

    def __post_init__(self):
        super().__post_init__()
        read_config(self.model)
        read_options(self.data)

    system = "recommender"  # its name in `recjax.systems.SYSTEMS`; no field


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
    given = store.offsets, store.timestamps, config.ratios
    if config.name == "chronological_sequences":
        return splits.chronological_sequences(*given, config.by)
    return splits.chronological_time(*given)


class RecommenderRun(Run):
    """Everything that a run of a recommender consists of, built from its config.

    Args:
        config: the run's config.
        store: the prepared data.
        workdir: the run's folder, or None for a run that keeps nothing.
        arrays: arrays from data, by parameter path, in place of drawn ones. "items/features"
            [I A] adds features of the items (attributes, scores, vectors of texts) to any model
            (`recjax.models.recommender.FeaturedItems`).
        rules: which parameters are trained; those that are frozen need an array.

    Raises:
        InputError: an array of a parameter that the model does not have, or of another shape; a
            frozen parameter without an array.

    Attributes:
        masked: whether it learns and predicts at masks.
        window: L.
    """

    config: RunConfig

    def __init__(
        self,
        config: RunConfig,
        store: Store,
        workdir: Path | None = None,
        *,
        arrays: Mapping[str, Any] | None = None,
        rules: Rules = FULL,
    ):
        super().__init__(config, store, workdir)
        self._module, model_config = read_config(config.model)
        self._arrays, self.rules = dict(arrays or {}), rules
        self._check_arrays()
        self.masked = self._module.Recommender.masked
        self.window = model_config.max_length
        self._kept: tuple[int, Params] | None = None  # a checkpoint that was recommended with

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """See `Trainable`."""
        width = self._arrays[FEATURES].shape[-1] if FEATURES in self._arrays else 0
        return make_recommender(self.config.model, self.store.n_items, rngs, features=width)

    def _check_arrays(self) -> None:
        shapes = self.model.shapes
        for path, array in self._arrays.items():
            if path not in shapes:
                raise InputError(f"arrays: no parameter '{path}'; {nearest(path, shapes)}")
            if array.shape != shapes[path].shape:
                raise InputError(
                    f"arrays: '{path}' has shape {array.shape}, expected {shapes[path].shape}"
                )
            if array.dtype != np.float32 or not np.isfinite(array).all():
                raise InputError(f"arrays: '{path}': expected finite float32 numbers")
        for path in split_params(shapes, self.rules)[1]:
            if path not in self._arrays:
                raise InputError(f"arrays: lack '{path}', which is frozen")

    @property
    def given(self) -> Params:
        """See `Trainable`."""
        return {path: a for path, a in self._arrays.items() if self.roles[path] != "frozen"}

    @functools.cached_property
    def frozen(self) -> Params:  # type: ignore[override]
        """The arrays whose role is "frozen", on the devices."""
        arrays = {path: a for path, a in self._arrays.items() if self.roles[path] == "frozen"}
        return jax.device_put(arrays, parallel.param_shardings(arrays, self.axes, self.mesh))

    @property
    def axes(self) -> parallel.AxisRules:
        """See `Trainable`."""
        own = self._module.PARAM_AXES
        return (*FEATURE_AXES, *own) if FEATURES in self._arrays else own

    def with_seed(self, seed: int) -> "RecommenderRun":
        """The same run of another seed, without its folder."""
        config = dataclasses.replace(self.config, seed=seed)
        return RecommenderRun(config, self.store, arrays=self._arrays, rules=self.rules)

    @functools.cached_property
    def split(self) -> splits.Split:
        """Training runs, validation and test examples."""
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
            stride=train.stride,
            shifted=not self.masked,
            row_multiple=max(1, parallel.data_size(self.mesh) // processes),
            process=(jax.process_index(), processes),
        )

    def loss_fn(self, params: Params, batch: Any, data: Any, key: Array) -> tuple[Array, Array]:
        """See `Trainable`; `data` is that of the objective."""
        model_key, negatives_key = jax.random.split(key)
        module = self.model.merge(params)
        rngs = nnx.Rngs(dropout=model_key, noise=jax.random.fold_in(model_key, 1))
        vectors, targets, sequences, states = module.learn(batch, rngs)
        return self.objective(
            vectors, module.item_table(), targets, sequences, data, negatives_key, states
        )

    def encode(self, params: Params, batch: dict[str, Array]) -> tuple[Array, Array]:
        """`(vectors [B D], table [I D])` whose inner products rank each example's next item."""
        module = self.model.merge(params)
        predicted = module.predict(
            batch["ids"],
            positions=batch["positions"],
            segments=batch["segments"],
            last=batch["last"],
            rngs=nnx.Rngs(noise=self.config.seed),  # of a generative model
        )
        return predicted, module.item_table()

    @functools.cached_property
    def objective(self) -> Objective:
        """The objective, with what it draws negatives from."""
        return Objective(
            self.config.objective,
            self.store.items,
            self.split.train,
            self.store.n_items,
            self.mesh,
        )

    def needed_bytes(self) -> dict[str, int]:
        """See `Run.needed_bytes`; of a call's batches, and of what a step makes of one, too."""
        train, objective = self.config.train, self.config.objective
        model = read_config(self.config.model)[1]
        # Two calls' batches of five int32 arrays: one is trained on while the next one is made.
        rows = self.batches.rows / parallel.data_size(self.mesh)
        places = rows * self.window
        out = super().needed_bytes()
        parts = [("config.train.steps_per_call", 2 * 5 * 4 * places * train.steps_per_call)]
        if objective.name in ("bce", "gbce"):  # vectors of each place's own
            parts.append(
                ("config.objective.negatives", 4 * places * objective.negatives * model.dim)
            )
        if hasattr(model, "heads"):  # scores of all pairs of places, forward and backward
            parts.append(("config.model.max_length", 8 * places * self.window * model.heads))
        for key, size in parts:
            out[key] = out.get(key, 0) + int(size)
        return out

    def check(self) -> None:
        """See `Run.check`; of the objective, too."""
        super().check()
        if self.objective.config.states_weight and not self._module.Recommender.generative:
            raise InputError(
                "config.objective.states_weight: only a generative model has such states; "
                f"expected 0 for {self.config.model['name']}"
            )

    @functools.cached_property
    def data(self) -> Any:  # type: ignore[override]
        """What the objective draws negatives from, on the devices."""
        return parallel.replicate(self.objective.data, self.mesh)

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
            sharding=parallel.batch_sharding(self.mesh),
            packed=self.config.train.packed,
            closing=self.store.n_items if self.masked else 0,
        )

    @functools.cached_property
    def lists(self) -> TopLists:
        """What makes top lists; `recommend` is its usual door."""
        config = self.config.evaluation
        return TopLists(
            self.store.n_items,
            self.window,
            self.encode,
            config.batch_size,
            config.item_chunk,
            sharding=parallel.batch_sharding(self.mesh),
            packed=self.config.train.packed,
            closing=self.store.n_items if self.masked else 0,
        )

    def recommend(
        self,
        asked: Iterable[Any] | None = None,
        k: int = 10,
        *,
        filter_seen: bool = True,
        among: Iterable[Any] | None = None,
        step: int | None = None,
        params: Params | None = None,
    ) -> Recommendations:
        """The k best items for users or histories, as the evaluator ranks them.

        >>> import recjax
        >>> run = recjax.open_run("runs/sample")
        >>> history = [run.store.catalog[8]["key"], run.store.catalog[2]["key"]]  # of anybody
        >>> recommended = run.recommend([history], k=3)
        >>> recommended.scores.shape, len(recommended.keys[0]), len(recommended.titles[0])
        ((1, 3), 3, 3)
        >>> run.recommend(run.store.user_keys[:2], k=5).ids.shape  # users of the data
        (2, 5)

        Args:
            asked: user keys, or histories: lists of item keys, the newest last, of anybody; keys
                are those of the raw data. None = all users of the data. For a user all items in
                the data are the history, those held out for validation and test too. A history
                longer than the model's window counts with its newest items.
            k: length of the lists; they are shorter where fewer items take part.
            filter_seen: leave out the items of each whole history.
            among: item keys; no other item is recommended.
            step: checkpoint; None = the best one.
            params: in place of a checkpoint's.

        Raises:
            InputError: users or items that the data do not have (all of them in one error), an
                empty history, k below 1, no checkpoint, scores that are no numbers.
        """
        request = read_request(self.store, asked, among)
        if params is None:
            params = self._restored(self.best_step() if step is None else step)
        parts = list(self.lists.stream(params, request, k, filter_seen=filter_seen))
        ids, scores = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return Recommendations(ids, scores, self.store.catalog, request.users)

    def _restored(self, step: int) -> Params:
        """The parameters of a checkpoint, kept for the next call."""
        if self._kept is None or self._kept[0] != step:
            self._kept = (step, self.restore(step))
        return self._kept[1]

    def describe(self) -> str:
        """One line: model, parameters, data, devices."""
        parameters = sum(math.prod(a.shape) for a in self.model.shapes.values())
        devices = f"{self.mesh.size} {jax.devices()[0].platform} device(s)"
        return (
            f"{self.config.model['name']}: {parameters:,} parameters; "
            f"{self.batches.n_sequences:,} training sequences, "
            f"{self.batches.steps_per_epoch:,} steps an epoch; {devices}"
        )

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint belongs to: the model and the data."""
        own = {"model": to_plain(self.config.model), "data": self.store.fingerprint}
        return {**own, "arrays": fingerprint(self.frozen)} if self.frozen else own


SYSTEM = System(RunConfig, RecommenderRun, complete)
