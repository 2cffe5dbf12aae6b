"""A guided part beside a trained recommender, without training it again.

Scores are the base run's, plus `weight` times the inner product of the user's and the item's
standardised columns. The weight is the one of `weights` whose validation metric is best; 0 is
always among them, so nothing is added where nothing helps. The paper has no such way: it trains the
recommender with the guided part (`recjax.guided.refine`).

    recjax train --config=configs/guided/ml100k_refined.py:fused --workdir=runs/fused \
        --config.base=runs/base

Any recommender can be the base. Letters: B rows, K items looked back at, A columns.
"""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from recjax.config import build, nearest, to_plain
from recjax.data.prepare import DataConfig
from recjax.data.splits import Split
from recjax.data.store import Store
from recjax.errors import InputError
from recjax.evaluation.protocols import EvaluationConfig
from recjax.frozen import open_recommender, recommender_store
from recjax.guided.sources import Guided, GuidedConfig, read_guided
from recjax.guided.vectors import rows_of, users_at
from recjax.nn.places import at_places
from recjax.paths import home
from recjax.ranges import Amount, Checked, FieldError, Seed
from recjax.replace import write_text
from recjax.signals import stopping
from recjax.training import parallel
from recjax.training.checkpoint import read_json
from recjax.training.claim import Claim
from recjax.training.metrics import MetricWriter
from recjax.training.recommender import RecommenderRun, RecommenderTrainConfig
from recjax.training.run import Run
from recjax.training.system import System
from recjax.typing import Array, Params

WEIGHT = "fusion/weight"
_FILE = "fusion.json"


@dataclasses.dataclass(frozen=True)
class FusedRunConfig(Checked):
    """The config of a guided part that is added to a trained recommender."""

    base: str  # workdir of the trained recommender
    guided: GuidedConfig = dataclasses.field(default_factory=GuidedConfig)
    # Small ones for a base whose scores are small, as after few steps of a pairwise loss.
    weights: tuple[Amount, ...] = (
        0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0
    )  # fmt: skip
    seed: Seed = 0  # of the controls
    train: RecommenderTrainConfig = dataclasses.field(default_factory=RecommenderTrainConfig)
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)

    system = "fused"

    def __post_init__(self):
        super().__post_init__()
        if not self.weights:
            raise FieldError("weights", "expected at least one")


def complete(section: Any) -> dict[str, Any]:
    """A run's config with all defaults filled in."""
    return to_plain(build(FusedRunConfig, section, "config"))


def last_means(scores: Array, batch: dict[str, Array], count: int, *, masked: bool) -> Array:
    """The mean scores of the last items before each example's target: [B A].

    Args:
        scores: [I A] standardised.
        batch: `ids`, `segments` and `last` of `recjax.data.pipeline.EvalBatches`.
        count: K.
        masked: a mask follows every history, and `last` is its place.
    """
    length = batch["ids"].shape[1]
    back = jnp.arange(count) + int(masked)

    def mean(last: Array, ids: Array, segments: Array) -> Array:
        places = last[:, None] - back
        inside = (last[:, None] % length >= back) & (segments[places] == segments[last][:, None])
        real = (inside & (segments[last][:, None] > 0)).astype(scores.dtype)
        found = scores[jnp.where(inside, ids[places], 0)] * real[..., None]
        return found.sum(1) / jnp.maximum(real.sum(1, keepdims=True), 1.0)

    return at_places(mean, batch["last"], batch["ids"], batch["segments"])


class FusedRun(RecommenderRun):
    """A trained recommender with a guided part, as a run that evaluates, recommends and explains.

    Args:
        config: the run's config.
        store: the base run's data.
        workdir: the run's folder, or None for a run that keeps nothing.

    Attributes:
        base: the trained recommender's run.
        guided: the guided part, by item and user.
    """

    config: FusedRunConfig  # type: ignore[assignment]

    def __init__(self, config: FusedRunConfig, store: Store, workdir: Path | None = None):
        Run.__init__(self, config, store, workdir)
        self.base = open_recommender(config.base)
        if not self.base.vectors:
            raise InputError(
                f"config.base: {config.base} has config.model.repeats; expected a base that scores "
                "by inner products alone"
            )
        self.guided: Guided = read_guided(config.guided, store, config.seed)
        self.masked, self.window = self.base.masked, self.base.window
        self.packed, self.closing = self.base.packed, self.base.closing
        self.personal = self.base.personal or self.guided.users is not None
        if (self.guided.recent or 0) > self.window - self.masked:
            raise InputError(
                f"config.guided.vector: {config.guided.vector}, but the base reads "
                f"{self.window - self.masked} items; expected that at most"
            )

    @property
    def reading(self) -> DataConfig:
        """The base's."""
        return self.base.reading

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """The base's model."""
        return self.base.build(rngs)

    @property
    def axes(self) -> parallel.AxisRules:
        """See `Trainable`."""
        return self.base.axes

    @functools.cached_property
    def split(self) -> Split:
        """The base's."""
        return self.base.split

    @property
    def identity(self) -> dict[str, Any]:
        """The identity of the weight: its base and its guided part."""
        return {"base": self.base.identity, "guided": self.guided.fingerprint}

    def encode(self, params: Params, batch: dict[str, Array]) -> tuple[Array, Array]:
        """The base's vectors and table, each with the guided part joined."""
        own = {k: v for k, v in batch.items() if k != "users" or self.base.personal}
        h, table = self.base.encode(params, own)
        scores = params["guided/items"]
        if self.guided.recent is None:
            users = users_at(batch.get("users"), batch["last"])
            vectors = rows_of(params["guided/users"], users, len(h))
        else:
            count = self.guided.recent or self.window - self.masked
            vectors = last_means(scores, batch, count, masked=self.masked)
        joined = jnp.concatenate([h, params[WEIGHT] * vectors], axis=-1)
        scores = jnp.pad(scores, ((0, len(table) - len(scores)), (0, 0)))
        return joined, jnp.concatenate([table, scores], axis=-1)

    def aspect_map(self, params: Params) -> Array:
        """[A A]: see `GuidedRun.aspect_map`."""
        del params
        return jnp.eye(len(self.guided.names))

    def check(self) -> None:
        """Checks what `train` would otherwise find out later."""
        validation = self.evaluator("validation")
        validation.check()
        self.evaluator("test").check()
        names = validation.metric_names
        metric = self.config.train.metric
        if metric not in names:
            raise InputError(
                f"config.train.metric: no metric '{metric}' among what config.evaluation "
                f"computes; {nearest(metric, names)}"
            )
        self.base.best_step()  # raises where the base was not trained

    def with_weight(self, weight: float) -> Params:
        """The base's best parameters, the guided part and a weight."""
        params = {**self.base.restore(self.base.best_step()), "guided/items": self.guided.items}
        if self.guided.users is not None:
            params["guided/users"] = self.guided.users
        params[WEIGHT] = np.float32(weight)
        return (
            jax.device_put(params, parallel.replicated(self.mesh))
            if self.mesh.size == 1
            else {path: jnp.asarray(value) for path, value in params.items()}
        )

    def train(self) -> dict[str, Any]:
        """Chooses the weight by validation and tests it; see `Run.train`."""
        assert self.workdir is not None
        claim = self.claim = self.claim or Claim(self.workdir)
        try:
            with stopping() as stop:
                result = self._chosen(claim, stop)
        finally:
            claim.release()
            self.claim = None
        return result

    def _chosen(self, claim: Claim, stop: Any) -> dict[str, Any]:
        metric, results = self.config.train.metric, []
        validation, params = self.evaluator("validation"), self.with_weight(0.0)
        writer = MetricWriter(claim.folder, 0)
        try:
            weights = sorted({0.0, *self.config.weights})
            for number, weight in enumerate(weights, start=1):
                params[WEIGHT] = jnp.float32(weight)
                values = validation.run(params, stop.check)
                results.append(values[metric])
                writer.write(number, {"weight": weight, **values})
            best = weights[int(np.argmax(results))]  # of equal ones, the smallest
            params[WEIGHT] = jnp.float32(best)
            values = self.evaluator("test").run(params, stop.check)
            number = weights.index(best) + 1
            writer.write(number, {"final": True, "weight": best, **values})
            writer.flush()
        finally:
            writer.close()
        record = {"weight": best, "base_step": self.base.best_step(), "identity": self.identity}
        write_text(claim.folder / _FILE, json.dumps(record, indent=2) + "\n")
        if claim.pending:
            claim.stands()
            self.workdir = claim.workdir
        return {"step": record["base_step"], "finished": True, "weight": best, **values}

    def _record(self) -> dict[str, Any]:
        assert self.workdir is not None
        file = self.workdir / _FILE
        if not file.exists():
            raise InputError(f"{file}: no weight was chosen yet; run `recjax train` first")
        record = read_json(file, "a workdir of `recjax train`")
        identity = json.loads(json.dumps(self.identity))
        for key, expected in identity.items():
            if record.get("identity", {}).get(key) != expected:
                raise InputError(f"{file}: the weight was chosen for another {key}; train again")
        return record

    def latest_step(self) -> int:
        """The base's step that the weight was chosen for."""
        return int(self._record()["base_step"])

    def best_step(self) -> int:
        """As `latest_step`."""
        return self.latest_step()

    def restore(self, step: int) -> Params:
        """The base's parameters, the guided part and the chosen weight."""
        record = self._record()
        if step != record["base_step"]:
            raise InputError(f"step {step}: the weight was chosen for step {record['base_step']}")
        return self.with_weight(float(record["weight"]))

    def describe(self) -> str:
        """One line of the base, one of the guided part."""
        return f"{self.base.describe()}\n{self.guided.describe()}"


def _store(config: FusedRunConfig, may_prepare: bool) -> Store:
    return recommender_store(config.base, may_prepare, "config.base")


def _settled(config: FusedRunConfig, store: Store) -> FusedRunConfig:
    del store
    base = str(home(config.base).absolute())
    return dataclasses.replace(config, base=base, guided=config.guided.settled())


SYSTEM = System(
    FusedRunConfig, FusedRun, complete,
    store=_store, settled=_settled, learns="guided",
    may_change=("base", "guided.items", "guided.vector"),
)  # fmt: skip
