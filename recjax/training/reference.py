"""A reference's run: what is counted in the training split ranks the catalogue; no gradients.

    recjax train --config=configs/references/beauty.py:ease --workdir=runs/beauty_ease

`train` counts once and saves one checkpoint, of step 1. Evaluation and recommendation are those of
every recommender.
"""

import dataclasses
import math
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from recjax.config import build, to_plain
from recjax.data.prepare import DataConfig, read_options
from recjax.data.store import Store
from recjax.errors import InputError
from recjax.evaluation.protocols import EvaluationConfig
from recjax.memory import check_memory, host_bytes
from recjax.models.references import Sequences, read_reference
from recjax.nn.places import at_places
from recjax.ranges import Checked
from recjax.signals import Stopped, stopping
from recjax.training import parallel
from recjax.training.checkpoint import Checkpoints
from recjax.training.claim import Claim
from recjax.training.criteria import Progress
from recjax.training.metrics import MetricWriter
from recjax.training.ranking_run import RankingRun, SplitConfig
from recjax.training.system import System, filled_in
from recjax.training.train_config import Devices
from recjax.typing import Array, Params


@dataclasses.dataclass(frozen=True)
class PlaceConfig(Checked):
    """Section `train` of references."""

    mesh: tuple[Devices, Devices, Devices] = (-1, 1, 1)  # devices over data, fsdp, tensor


@dataclasses.dataclass(frozen=True)
class ReferenceConfig(Checked):
    """A reference's config."""

    data: DataConfig
    model: dict  # the reference's `name` and fields of its `Config`
    split: SplitConfig = dataclasses.field(default_factory=SplitConfig)
    train: PlaceConfig = dataclasses.field(default_factory=PlaceConfig)
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)

    def __post_init__(self):
        super().__post_init__()
        read_reference(self.model)
        read_options(self.data)

    system = "reference"  # its name in `recjax.systems.SYSTEMS`; no field


def complete(section: Any) -> dict[str, Any]:
    """See `recjax.training.workdir.complete`."""
    config = build(ReferenceConfig, section, "config")
    own = to_plain(read_reference(config.model)[1])
    return filled_in(config, model={"name": config.model["name"], **own})


class ReferenceRun(RankingRun):
    """A reference with its data; see `SavedRun`."""

    config: ReferenceConfig
    packed = False
    vectors = False

    def __init__(self, config: ReferenceConfig, store: Store, workdir: Path | None = None):
        super().__init__(config, store, workdir, config.train.mesh)
        self._module, self._own = read_reference(config.model)
        self.window = self._own.max_length

    @property
    def sequences(self) -> Sequences:
        """The training split."""
        train = self.split.train
        return Sequences(
            np.asarray(self.store.items), train.starts, train.stops, self.store.n_items
        )

    def fit(self) -> dict[str, np.ndarray]:
        """The counts, by name."""
        return self._module.fit(self._own, self.sequences)

    def encode(self, params: Params, batch: dict[str, Array]) -> tuple[Array, None]:
        """`(scores [B I], None)`; a row of the batch is a history."""
        scores = self._module.score(self._own, params, batch["ids"])
        rows = batch["last"] // batch["ids"].shape[1]  # examples stand in rows of their own
        return at_places(lambda row, scores: scores[row], rows, scores[:, None]), None

    @property
    def identity(self) -> dict[str, Any]:
        """The identity of a checkpoint: the reference and the data."""
        model = {"name": self.config.model["name"], **to_plain(self._own)}
        return {"model": model, "data": self.store.fingerprint}

    def describe(self) -> str:
        """One line: reference, data, devices."""
        return (
            f"{self.config.model['name']}: {len(self.split.train):,} training sequences, "
            f"{self.store.n_items - 1:,} items"
        )

    def check(self) -> None:
        """See `Run.check`.

        Raises:
            InputError: too little memory, nothing to evaluate, or a checkpoint of another run.
        """
        if not (self.split.train.stops > self.split.train.starts).any():
            raise InputError("the training split has no interaction")
        self.evaluator("validation").check()
        self.evaluator("test").check()
        key, size = self._module.needed(self._own, self.sequences)
        scores = 4 * self.config.evaluation.batch_size * self.store.n_items
        check_memory({key: size, "config.evaluation.batch_size": scores}, host_bytes())
        self._check_newest()

    def restore(self, step: int) -> Params:
        """See `Run.restore`."""
        meta = self._meta(self.checkpoints, step)
        whole = parallel.replicated(self.mesh)
        abstract = {
            name: jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=whole)
            for name, (shape, dtype) in meta["arrays"].items()
        }
        return self.checkpoints.restore(step, abstract)

    def train(self) -> dict[str, Any]:
        """Counts, or notices that this was done; then tests.

        Returns:
            Test metrics by name, `step` 1, and `finished`: False when a signal stopped it.
        """
        assert self.workdir is not None
        claim = self.claim = self.claim or Claim(self.workdir)
        try:
            with stopping() as stop:
                return self._trained(stop, claim)
        finally:
            claim.release()
            self.claim = None

    def _trained(self, stop: Any, claim: Claim) -> dict[str, Any]:
        assert self.workdir is not None
        checkpoints = Checkpoints(self.workdir / "checkpoints", 1)
        try:
            writer = MetricWriter(self.workdir, 1 if checkpoints.latest() else 0)
            if checkpoints.latest() is None:
                started = time.perf_counter()
                arrays = self.fit()
                seconds = round(time.perf_counter() - started, 2)
                if stop.received:
                    return {"step": 0, "finished": False, "stopped_by": stop.name}
                shapes = {k: [list(a.shape), str(a.dtype)] for k, a in arrays.items()}
                meta = {**self.identity, "arrays": shapes}
                meta["progress"] = dataclasses.asdict(Progress(best_step=1))
                meta["progress"]["best_value"] = 0.0  # JSON has no infinity
                checkpoints.save(1, parallel.replicate(arrays, self.mesh), meta, 1)
                if not checkpoints.wait():
                    raise InputError(f"cannot write {checkpoints.folder}: the disk is full")
                self._take_place(claim, checkpoints)
                size = sum(math.prod(a.shape) * a.itemsize for a in arrays.values())
                writer.write(1, {"fit_seconds": seconds, "bytes": size})
            try:
                values = self.evaluator("test").run(self.restore(1), stop.check)
            except Stopped:
                return {"step": 1, "finished": False, "stopped_by": stop.name}
            writer.write(1, {"final": True, **values})
            writer.flush()
            return {"step": 1, "finished": True, **values}
        finally:
            checkpoints.close()


SYSTEM = System(ReferenceConfig, ReferenceRun, complete)
