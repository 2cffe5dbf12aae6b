"""A recommender's run: config, data, model, training, evaluation, in a workdir.

run = open_run("runs/beauty")            # a finished or interrupted one
params = run.restore(run.best_step())
metrics = run.evaluator("test").run(params)
"""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from recjax.config import build, nearest, to_plain
from recjax.data.pipeline import TrainBatches
from recjax.data.prepare import DataConfig, read_options
from recjax.data.store import Store
from recjax.errors import InputError
from recjax.evaluation.protocols import EvaluationConfig
from recjax.models.attributed import ATTRIBUTES, item_attributes
from recjax.models.definition import fingerprint
from recjax.models.given_items import FEATURE_AXES, FEATURES, KNOWN
from recjax.models.recommender import make_recommender, read_config
from recjax.paths import home
from recjax.ranges import Checked, Count, Seed
from recjax.sharded import Split, split_axes
from recjax.training import parallel
from recjax.training.freezing import FULL, Rules, split_params
from recjax.training.item_text import ItemsConfig, item_arrays
from recjax.training.objectives import Objective, ObjectiveConfig
from recjax.training.optim import OptimConfig
from recjax.training.ranking_run import RankingRun, SplitConfig
from recjax.training.run import Run
from recjax.training.system import System, filled_in, own_settled
from recjax.training.train_config import TrainConfig
from recjax.training.warm_start import start_from
from recjax.typing import Array, Params


@dataclasses.dataclass(frozen=True)
class RecommenderTrainConfig(TrainConfig):
    """Section `train` of recommenders."""

    packed: bool = True  # several sequences a row
    # Of a sequence longer than the model's window: 0 trains on its newest window alone, n on that
    # and on those that end n, 2 n, ... items before.
    stride: Count = 0
    # Every prefix of a user's items is a sequence that learns the item after it. The pairs are
    # those of all positions of whole sequences; but the newest item always stands at the window's
    # end, as in a test, dropout differs from pair to pair, and a batch has pairs of many users. An
    # epoch has as many more steps as sequences have items.
    prefixes: bool = False


@dataclasses.dataclass(frozen=True)
class RunConfig(Checked):
    """A recommender's config."""

    data: DataConfig
    model: dict  # the model's `name`, a `preset` of it, and fields of its `Config`
    seed: Seed = 0  # of weights, shuffles, dropout and negatives
    split: SplitConfig = dataclasses.field(default_factory=SplitConfig)
    objective: ObjectiveConfig = dataclasses.field(default_factory=ObjectiveConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    # Workdir of a run whose newest parameters this one starts from (their averages, where it has
    # `optim.average`), as far as paths and shapes agree. Of other data, rows of items and users go
    # by their raw keys.
    start: str = ""
    train: RecommenderTrainConfig = dataclasses.field(default_factory=RecommenderTrainConfig)
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)
    items: ItemsConfig = dataclasses.field(default_factory=ItemsConfig)

    def __post_init__(self):
        super().__post_init__()
        read_config(self.model)
        read_options(self.data)

    system = "recommender"  # its name in `recjax.systems.SYSTEMS`; no field


def complete(section: Any) -> dict[str, Any]:
    """See `recjax.training.workdir.complete`."""
    config = build(RunConfig, section, "config")
    own = to_plain(read_config(config.model)[1])
    return filled_in(config, model={"name": config.model["name"], **own})


class RecommenderRun(RankingRun, Run):
    """Everything that a run of a recommender consists of, built from its config.

    Args:
        config: the run's config.
        store: the prepared data.
        workdir: the run's folder, or None for a run that keeps nothing.
        arrays: arrays from data, by parameter path, in place of drawn ones. "items/features"
            [I A] adds features of the items (attributes, scores, vectors of texts) to any model
            (`recjax.models.given_items.FeaturedItems`).
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
        kind = self._module.Recommender
        self.masked, self.personal = kind.masked, kind.personal
        self.shifted = kind.shifted(model_config)
        given: dict[str, Any] = dict(arrays or {})
        if config.items.vectors:
            texts, more = item_arrays(config.items, store.catalog, model_config, config.seed)
            given, rules = {**texts, **given}, (*more, *rules)
        self.rules, behind = rules, self.rows - store.n_items
        self._arrays: dict[str, Any] = {
            path: np.pad(a, ((0, behind), (0, 0)))
            if path.startswith("items/") and len(a) == store.n_items and behind
            else a
            for path, a in given.items()
        }
        if kind.reads_attributes(model_config):
            self._arrays.setdefault(ATTRIBUTES, item_attributes(model_config, store.catalog).values)
            self.rules = ((ATTRIBUTES, "frozen"), *rules)
        self._check_arrays()
        self._by_cosine = kind.by_cosine(model_config)
        self.vectors = not getattr(model_config, "repeats", False)
        self.timed = getattr(model_config, "times", False)
        if self.timed and store.timestamps is None:
            raise InputError("config.model.times: expected False, these data have no timestamps")
        self.window, self.packed = model_config.max_length, config.train.packed
        self.closing = store.n_items if self.masked else 0

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """See `Trainable`."""
        widths = {name: array.shape[-1] for name, array in self._arrays.items() if array.ndim == 2}
        return make_recommender(
            self.config.model,
            self.store.n_items,
            rngs,
            features=widths.get(FEATURES, 0),
            known=widths.get(KNOWN, 0),
            n_users=self.store.n_users,
            n_attributes=widths.get(ATTRIBUTES, 1),
            rows=self.rows,
        )

    @property
    def padded(self) -> bool:
        """See `Run`: `identity` has the number of items, and `rows` follows the mesh."""
        return True

    @functools.cached_property
    def rows(self) -> int:
        """Rows of the item table: I, or a few more that stand behind, so that devices divide it."""
        return parallel.whole_rows(self.store.n_items, "items", self.mesh, self.logical_rules)

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
        own = {path: a for path, a in self._arrays.items() if self.roles[path] != "frozen"}
        return {**self._started(), **own}  # type: ignore[dict-item]  # the host's, until placed

    def _started(self) -> dict[str, np.ndarray]:
        """Parameters of the run that `config.start` names; see `start_from`."""

        def opened(section: Any, store: Store) -> RecommenderRun:
            config = build(RunConfig, section, "config")
            return RecommenderRun(config, store, Path(self.config.start))

        return start_from(self, opened) if self.config.start else {}

    @functools.cached_property
    def frozen(self) -> Params:  # type: ignore[override]
        """The arrays whose role is "frozen", on the devices."""
        arrays = {path: a for path, a in self._arrays.items() if self.roles[path] == "frozen"}
        return jax.device_put(arrays, parallel.param_shardings(arrays, self.placed_axes, self.mesh))

    @property
    def axes(self) -> parallel.AxisRules:
        """See `Trainable`."""
        own = self._module.PARAM_AXES
        return (*FEATURE_AXES, *own) if {FEATURES, KNOWN} & {*self._arrays} else own

    def with_seed(self, seed: int) -> "RecommenderRun":
        """The same run of another seed, without its folder."""
        config = dataclasses.replace(self.config, seed=seed)
        return RecommenderRun(config, self.store, arrays=self._arrays, rules=self.rules)

    @functools.cached_property
    def batches(self) -> TrainBatches:
        """The training batches."""
        self.check_sequences()
        train = self.config.train
        return TrainBatches(
            self.store.items,
            self.split.train,
            self.window,
            train.batch_size,
            self.config.seed,
            packed=train.packed,
            stride=train.stride,
            prefixes=train.prefixes,
            shifted=self.shifted,
            **parallel.rows_of_process(self.mesh, train.accumulate),
            users=self.personal,
        )

    def loss_fn(self, params: Params, batch: Any, data: Any, key: Array) -> tuple[Array, Array]:
        """See `Trainable`; `data` is that of the objective."""
        model_key, negatives_key = jax.random.split(key)
        module = self.model.merge(params)
        rngs = nnx.Rngs(dropout=model_key, noise=jax.random.fold_in(model_key, 1))
        own = module.loss(batch, rngs)
        if own is not None:
            return own
        vectors, targets, sequences, states, seen = module.learn(batch, rngs)
        return self.objective(
            vectors, module.item_table(), targets, sequences, data, negatives_key, states, seen
        )

    def encode(self, params: Params, batch: dict[str, Array]) -> tuple[Array, Any]:
        """`(vectors [B D], table [I D])` whose inner products rank each example's next item; of a
        model with `repeats`, `(scores [B I], None)`."""
        module = self.model.merge(params)
        layout: dict[str, Any] = {
            "positions": batch["positions"],
            "segments": batch["segments"],
            "last": batch["last"],
            "rngs": nnx.Rngs(noise=self.config.seed),  # of a generative model
            **{name: batch[name] for name in ("users", "times") if name in batch},
        }
        with self.placing():
            if not self.vectors:
                return module.scores(batch["ids"], **layout), None
            return module.predict(batch["ids"], **layout), module.item_table()

    @functools.cached_property
    def objective(self) -> Objective:
        """The objective, with what it draws negatives from."""
        # Of prefixes each has one target; several devices have their share, which may be larger.
        single = self._module.Recommender.one_target and parallel.data_size(self.mesh) == 1
        one_target = self.config.train.prefixes and single
        return Objective(
            self.config.objective,
            self.store.items,
            self.split.train,
            self.store.n_items,
            self.mesh,
            self.batches.per_step if one_target else None,
        )

    def needed_bytes(self) -> dict[str, int]:
        """See `Run.needed_bytes`; of a call's batches, and of what a step makes of one, too."""
        train, objective = self.config.train, self.config.objective
        model = read_config(self.config.model)[1]
        # Two calls' batches of five int32 arrays or more: one is trained on while the next is made.
        rows = self.batches.rows / parallel.data_size(self.mesh)
        places = rows * self.window
        out = super().needed_bytes()
        parts = [
            (
                "config.train.steps_per_call",
                2 * (5 + self.personal + self.timed) * 4 * places * train.steps_per_call,
            )
        ]
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
        if self.config.start and not self._begun():
            self._started()
        if self.objective.config.states_weight and not self._module.Recommender.generative:
            raise InputError(
                "config.objective.states_weight: only a generative model has such states; "
                f"expected 0 for {self.config.model['name']}"
            )
        self._check_scale()
        if not self.vectors and self.objective.config.name != "softmax":
            raise InputError(
                "config.model.repeats: only a softmax learns how items repeat; expected False, or "
                f"config.objective.name 'softmax', not '{self.objective.config.name}'"
            )
        if not self.vectors and self.table is not None:
            raise InputError(
                "config.model.repeats: expected False, or an item table that every device has "
                "whole (config.train.rules)"
            )

    def _check_scale(self) -> None:
        """Whether the objective learns from scores as large as the model's."""
        objective, model = self.objective.config, self.config.model["name"]
        if self._by_cosine and objective.name != "ccl" and objective.temperature == 1:
            raise InputError(
                f"config.objective: scores of {model} are cosines, from -1 to 1; expected name "
                "'ccl', or a softmax with a temperature such as 0.05"
            )
        if not self._by_cosine and objective.name == "ccl":
            raise InputError(
                f"config.objective.name: 'ccl' is of cosines, and the scores of {model} have no "
                "bound; expected another one, or config.model.cosine of a model that has it"
            )

    @functools.cached_property
    def data(self) -> Any:  # type: ignore[override]
        """The arrays from which the objective draws negatives, on the devices."""
        return parallel.replicate(self.objective.data, self.mesh)

    def place(self, step: int, count: int) -> dict[str, Array]:
        """Training batches step .. step + count - 1 on the devices."""
        return parallel.shard_batch(self.batches(step, count), self.mesh, axis=1)

    @property
    def table(self) -> Split | None:
        """See `RankingRun`."""
        axes = split_axes(self.rows, "items", self.mesh, self.logical_rules)
        return Split(self.mesh, axes) if axes else None

    def describe(self) -> str:
        """One line: model, parameters, data, devices."""
        return (
            f"{self.config.model['name']}: {self.model.size():,} parameters; "
            f"{self.batches.n_sequences:,} training sequences, "
            f"{self.batches.steps_per_epoch:,} steps an epoch; {self.devices}"
        )

    @property
    def identity(self) -> dict[str, Any]:
        """The identity of a checkpoint: the model and the data."""
        own = {"model": to_plain(self.config.model), "data": self.store.fingerprint}
        return {**own, "arrays": fingerprint(self.frozen)} if self.frozen else own


def settled(config: RunConfig, store: Store) -> Any:
    """The config with absolute paths."""
    start = str(home(config.start).absolute()) if config.start else ""
    return dataclasses.replace(own_settled(config, store), start=start)


# The checkpoints have what a run started from, and tell vectors from others.
MAY_CHANGE = ("data.path", "data.store", "start", "items.vectors")
SYSTEM = System(
    RunConfig, RecommenderRun, complete, settled=settled, may_change=MAY_CHANGE
)  # fmt: skip
