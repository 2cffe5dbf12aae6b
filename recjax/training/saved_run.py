"""A run as a folder: its config, data and checkpoints, and how it is measured."""

import abc
import contextlib
import functools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

import jax

from recjax.data.new_log import read_log
from recjax.data.prepare import DataConfig
from recjax.data.requests import Request, read_request
from recjax.data.store import Store
from recjax.errors import InputError
from recjax.evaluation.protocols import Measured
from recjax.training import parallel
from recjax.training.checkpoint import Checkpoints
from recjax.training.claim import Claim
from recjax.training.criteria import Progress
from recjax.training.group import current
from recjax.typing import Params


class Evaluation(Protocol):
    """Measures one part of the split."""

    @property
    def count(self) -> int:
        """How many examples there are."""

    @property
    def metric_names(self) -> list[str]:
        """Names of the metrics that `run` returns."""

    def check(self) -> None:
        """Raises `InputError` where nothing can be measured."""

    def run(self, params: Any, progress: Callable[[int], Any] = ...) -> dict[str, float]:
        """Metrics by name; `progress` gets the number of examples done."""


class Measurer(Evaluation, Protocol):
    """Measures one part of the split, and keeps the values of each example."""

    def measure(self, params: Any, progress: Callable[[int], Any] = ...) -> Measured:
        """As `run`, with the values of each example."""


class SavedRun(abc.ABC):
    """A run in its workdir. A system's subclass gives its parameters and its measurements.

    Args:
        config: the run's.
        store: the data, with a `manifest` and a `fingerprint`.
        workdir: the run's folder, or None for a run that keeps nothing.
        mesh: sizes of the axes `data`, `fsdp`, `tensor`.

    Attributes:
        config, store, workdir: see above.
        mesh: the devices.
    """

    config: Any
    store: Any
    # Key of `identity` -> its description in errors, where the key alone says too little.
    identity_words: ClassVar[Mapping[str, str]] = {}

    def __init__(self, config: Any, store: Any, workdir: Path | None, mesh: tuple[int, int, int]):
        self.config, self.store = config, store
        self.workdir = None if workdir is None else workdir.absolute()  # the process may move
        self.mesh = parallel.make_mesh(mesh)
        self.claim: Claim | None = None  # while it trains; `start_run` makes it

    @abc.abstractmethod
    def train(self) -> dict[str, Any]:
        """Trains, or resumes, or notices that all is done; then tests the best checkpoint."""

    @abc.abstractmethod
    def restore(self, step: int) -> Params:
        """All parameters of the model, from a checkpoint."""

    @property
    @abc.abstractmethod
    def identity(self) -> dict[str, Any]:
        """The model and the data, as a record in each checkpoint: only a run with the same record
        may read it."""

    @abc.abstractmethod
    def evaluator(self, name: Any) -> Evaluation:
        """The evaluator of one of `parts`."""

    def measurer(self, name: Any) -> Measurer:
        """The evaluator of one of `parts` that keeps each example's values.

        Raises:
            InputError: a run whose examples are no items of a split.
        """
        del name
        raise InputError(
            f"{self.workdir}: a run of another kind; expected a recommender's, a run of ratings or "
            "explanations, or one of RecSysLLM or P5 with tasks"
        )

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the split that can be measured. When training ends, the best parameters are
        measured on the last one."""
        return ("validation", "test")

    @abc.abstractmethod
    def describe(self) -> str:
        """One line: model, parameters, data, devices."""

    def request(
        self,
        asked: Iterable[Any] | None = None,
        among: Iterable[Any] | None = None,
        named: Mapping[str, str] | None = None,
        *,
        log: str | Path | None = None,
        skip_unknown: bool = False,
    ) -> Request:
        """Whom to recommend to, checked against the run's data: see `read_request`.

        Args:
            asked, among, named, skip_unknown: see there; `named` has "log", too.
            log: path of a new log, which is read as `recjax.data.new_log.read_log` says.
        """
        named = named or {}
        new = None
        if log is not None:
            new = read_log(self.store, self.reading, log, named.get("log", "log"))
        return read_request(
            self.store, asked, among, named=named, log=new, skip_unknown=skip_unknown
        )

    @property
    def reading(self) -> DataConfig:
        """How the store was read."""
        return self.config.data

    def recommend(self, *asked: Any, **options: Any) -> Any:
        """Lists of items from a recommender's run (`RecommenderRun.recommend`).

        Raises:
            InputError: a run of another kind.
        """
        del asked, options
        raise InputError(
            f"{self.workdir}: a run of another kind; expected a recommender's, which `recjax train`"
            " makes of a config with a `model`"
        )

    def finish(self, params: Params) -> dict[str, Any]:
        """A system's own work with the best parameters, after the test; returns more results.

        Args:
            params: all of the model, the frozen ones too.
        """
        del params
        return {}

    @property
    def devices(self) -> str:
        """The devices in words."""
        return f"{self.mesh.size} {jax.devices()[0].platform} device(s)"

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
        best = Progress(**self._meta(self.checkpoints, latest)["progress"]).best_step
        # The best step is gone when a later, better one is damaged.
        return latest if best is None or best not in self.checkpoints.steps() else best

    def _begun(self) -> bool:
        """Whether there is a checkpoint, as process 0 sees it."""
        folder = (self.workdir or Path()) / "checkpoints"
        own = self.workdir is not None and folder.is_dir()
        own = own and any(step.name.isdecimal() for step in folder.iterdir())
        return current().gather("whether there is a checkpoint", own)[0]

    def _check_newest(self) -> None:
        """Raises `InputError` where the newest checkpoint is of another model or other data."""
        folder = None if self.workdir is None else self.workdir / "checkpoints"
        # Of several processes one may have made the folder already, and all open it together.
        if folder is not None and folder.is_dir() and jax.process_count() == 1:
            with contextlib.closing(Checkpoints(folder, read_only=True)) as checkpoints:
                step = checkpoints.latest()
                if step is not None:
                    self._meta(checkpoints, step)

    def _meta(self, checkpoints: Checkpoints, step: int) -> dict[str, Any]:
        meta = checkpoints.meta(step)
        for key, expected in self.identity.items():
            if meta.get(key) != expected:
                # RecSysLLM's data are more than its store.
                if isinstance(self.store, Store) and expected == self.store.fingerprint:
                    raise InputError(
                        f"{checkpoints.folder / str(step)}: the store {self.store.path} was "
                        "prepared anew, from other data, after this run was trained; a new store "
                        "(config.data.store) and a new --workdir for the new data keep this run "
                        "in use, `recjax train --overwrite` trains it anew"
                    )
                subject = self.identity_words.get(key, key)
                raise InputError(
                    f"{checkpoints.folder / str(step)}: a checkpoint of another {subject} "
                    f"({_contrast(meta.get(key), expected)}); `recjax train --overwrite` "
                    "trains anew, another --workdir keeps both"
                )
        return meta

    def _take_place(self, claim: Claim, checkpoints: Checkpoints) -> None:
        """Replaces the run in the workdir by this one, as soon as this one has a checkpoint."""
        if not claim.pending or not checkpoints.wait():
            return
        with checkpoints.moving(claim.workdir / "checkpoints"):
            claim.stands()
        self.workdir = claim.workdir.absolute()


def _contrast(found: Any, expected: Any) -> str:
    """The difference in a few words."""
    if isinstance(found, dict) and isinstance(expected, dict):
        keys = [k for k in {**expected, **found} if found.get(k) != expected.get(k)]
        keys = ["name"] if "name" in keys else keys
        return "; ".join(f"{k} {found.get(k)}, expected {expected.get(k)}" for k in keys)
    return f"{str(found)[:12]}, expected {str(expected)[:12]}"
