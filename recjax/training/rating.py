"""Rating prediction: a run that learns ratings, measured by RMSE and MAE.

    recjax train --config=configs/rating/ml100k.py:mf --workdir=runs/ml100k_mf

The split is that of every run: with leave-one-out a user's newest rating is the test, the one
before it the validation, and training has only what came before in that user's time. (P5 and those
that follow it draw test ratings at random from all times, which is easier.)
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding

from recjax.config import build, to_plain
from recjax.data.prepare import DataConfig, read_options
from recjax.data.ragged import row_positions
from recjax.data.rows import RowBatches
from recjax.data.splits import Split
from recjax.data.store import Store
from recjax.errors import InputError
from recjax.evaluation.protocols import Measured
from recjax.evaluation.shards import fetch, filled, shards_of, split_batch
from recjax.evaluation.text import error_means, error_values
from recjax.models.rating import PARAM_AXES, Config, RatingModel
from recjax.ranges import Checked, Seed, Size
from recjax.training import parallel
from recjax.training.optim import OptimConfig
from recjax.training.ranking_run import SplitConfig, make_split
from recjax.training.run import Run
from recjax.training.system import System, filled_in
from recjax.training.train_config import TrainConfig
from recjax.typing import Array, Params


@dataclasses.dataclass(frozen=True)
class RatingTrainConfig(TrainConfig):
    """Section `train` of ratings."""

    metric: str = "validation/rating/rmse"


@dataclasses.dataclass(frozen=True)
class RatingEvaluationConfig(Checked):
    """Section `evaluation` of ratings."""

    batch_size: Size = 4096  # ratings at a time


@dataclasses.dataclass(frozen=True)
class RatingConfig(Checked):
    """A rating model's config."""

    data: DataConfig
    model: Config = dataclasses.field(default_factory=Config)
    seed: Seed = 0  # of weights, shuffles and dropout
    split: SplitConfig = dataclasses.field(default_factory=SplitConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    train: RatingTrainConfig = dataclasses.field(default_factory=RatingTrainConfig)
    evaluation: RatingEvaluationConfig = dataclasses.field(default_factory=RatingEvaluationConfig)

    def __post_init__(self):
        super().__post_init__()
        read_options(self.data)

    system = "rating"  # its name in `recjax.systems.SYSTEMS`; no field


def complete(section: Any) -> dict[str, Any]:
    """See `recjax.training.workdir.complete`."""
    return filled_in(build(RatingConfig, section, "config"))


@dataclasses.dataclass(frozen=True, eq=False)
class Ratings(RowBatches):
    """n ratings, and batches of them; see `RowBatches`.

    Attributes:
        users: [n] int32, from 0.
        items: [n] int32 item ids.
        ratings: [n] float32.
        batch_size, seed, multiple, process: of the batches.
    """

    users: np.ndarray
    items: np.ndarray
    ratings: np.ndarray
    batch_size: int = 1
    seed: int = 0
    multiple: int = 1
    process: tuple[int, int] = (0, 1)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """See `RowBatches`."""
        return {"users": self.users, "items": self.items, "ratings": self.ratings}


@dataclasses.dataclass(frozen=True, eq=False)
class RatingEvaluator:
    """RMSE and MAE of one part of the split.

    Attributes:
        name: of the part.
        examples: its ratings.
        places: [n] of them in the store's flat arrays.
        batch_size: ratings at a time.
        predict: `(params, users, items) -> [B]`.
        limits: the lowest and highest rating of training; predictions stay between them.
        sharding: how a batch's rows are split over devices (`recjax.evaluation.shards`).
    """

    name: str
    examples: Ratings
    places: np.ndarray
    batch_size: int
    predict: Callable[..., Array]
    limits: tuple[float, float]
    sharding: NamedSharding | None = None

    @property
    def metric_names(self) -> list[str]:
        """The names that `run` gives."""
        return [f"{self.name}/rating/{metric}" for metric in ("rmse", "mae")]

    @property
    def count(self) -> int:
        """How many ratings there are."""
        return len(self.examples)

    def check(self) -> None:
        """Raises `InputError` where there is nothing to measure."""
        if not len(self.examples):
            raise InputError(
                f"config.split leaves no rating for {self.name}; expected users with more items"
            )

    def run(self, params: Params, progress: Callable[[int], Any] = lambda n: None) -> dict:
        """Metrics by name."""
        return self.measure(params, progress).metrics

    def measure(self, params: Params, progress: Callable[[int], Any] = lambda n: None) -> Measured:
        """The squared and the absolute error of each rating.

        Args:
            params: of the model.
            progress: called with the number of ratings done.
        """
        self.check()
        given_parts, shards = [], shards_of(self.sharding)
        size = -(-self.batch_size // shards) * shards
        for start in range(0, len(self.examples), size):
            part = slice(start, start + size)
            batch = {"users": self.examples.users[part], "items": self.examples.items[part]}
            rows = len(batch["users"])
            placed = split_batch(filled(batch, size), self.sharding)
            given = fetch(self.predict(params, placed["users"], placed["items"]))
            given_parts.append(given[:rows].astype(np.float64))
            progress(rows)
        values = error_values(np.concatenate(given_parts), self.examples.ratings, *self.limits)
        metrics = {f"{self.name}/rating/{k}": v for k, v in error_means(values).items()}
        users, items = self.examples.users, self.examples.items
        return Measured(self.name, self.places, users, items, {"rating": values}, metrics)


class RatingRun(Run):
    """A model of ratings with its data; see `SavedRun`.

    Raises:
        InputError: the data have no ratings.
    """

    config: RatingConfig
    unit = "ratings"

    def __init__(self, config: RatingConfig, store: Store, workdir: Path | None = None):
        super().__init__(config, store, workdir)
        if store.ratings is None:
            raise InputError(
                f"config.data: {store.path} has no ratings; expected a source that has them"
            )

    @functools.cached_property
    def split(self) -> Split:
        """Training runs, validation and test examples."""
        return make_split(self.store, self.config.split)

    def _at(self, places: np.ndarray, users: np.ndarray, **how: Any) -> Ratings:
        assert self.store.ratings is not None
        ratings = np.asarray(self.store.ratings[places], np.float32)
        if not np.isfinite(ratings).all():
            raise InputError(f"{self.store.path}: a rating that is no number")
        return Ratings(users, np.asarray(self.store.items[places]), ratings, **how)

    @functools.cached_property
    def batches(self) -> Ratings:
        """The training ratings."""
        train, size = self.split.train, self.config.train.batch_size
        lengths = train.stops - train.starts
        places = np.repeat(train.starts, lengths) + row_positions(lengths)
        ratings = self._at(
            places,
            np.repeat(train.users, lengths),
            batch_size=size,
            seed=self.config.seed,
            multiple=parallel.row_multiple(size, self.mesh, self.parts_of_batch),
            process=parallel.rows_of_process(self.mesh)["process"],
        )
        if not len(ratings):
            raise InputError("the training split has no rating")
        return ratings

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """See `Trainable`."""
        return RatingModel(self.config.model, self.store.n_items, self.store.n_users, rngs=rngs)

    @property
    def axes(self) -> parallel.AxisRules:
        """See `Trainable`."""
        return PARAM_AXES

    @property
    def given(self) -> Params:
        """The mean of the training ratings."""
        return {"mean": jnp.float32(self.batches.ratings.mean(dtype=np.float64))}

    def loss_fn(self, params: Params, batch: Any, data: Any, key: Array) -> tuple[Array, Array]:
        """The squared error, (sum, weight)."""
        del data
        model = self.model.merge(params)
        rngs = nnx.Rngs(dropout=key)
        ratings = model(batch["users"], batch["items"], deterministic=False, rngs=rngs)
        return ((ratings - batch["ratings"]) ** 2).sum(), jnp.float32(ratings.shape[0])

    @functools.cached_property
    def _predict(self) -> Callable[..., Array]:
        return jax.jit(lambda params, users, items: self.model.merge(params)(users, items))

    def evaluator(self, name: Any) -> RatingEvaluator:
        """Measures one part of the split."""
        spans = getattr(self.split, name)
        ratings = self.batches.ratings
        return RatingEvaluator(
            name,
            self._at(spans.stops, spans.users),
            spans.stops,
            self.config.evaluation.batch_size,
            self._predict,
            (float(ratings.min()), float(ratings.max())),
            parallel.batch_sharding(self.mesh),
        )

    def measurer(self, name: Any) -> RatingEvaluator:
        """See `SavedRun.measurer`."""
        return self.evaluator(name)

    def describe(self) -> str:
        """One line: model, parameters, data."""
        return (
            f"{self.config.model.name}: {self.model.size():,} parameters; "
            f"{len(self.batches):,} training ratings"
        )

    @property
    def identity(self) -> dict[str, Any]:
        """The identity of a checkpoint: the model and the data."""
        return {"model": to_plain(self.config.model), "data": self.store.fingerprint}


SYSTEM = System(RatingConfig, RatingRun, complete)
