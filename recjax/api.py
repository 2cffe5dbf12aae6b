"""The commands `prepare`, `train` and `evaluate` as functions.

A config is a file (`"FILE.py"` or `"FILE.py:ARG"`, as on the command line), or what such a file
returns: a `ConfigDict`, or a plain dict of the same sections. Every key that it leaves out has its
default, and an unknown one is an error that names the nearest.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from ml_collections import ConfigDict

from recjax.config import load_config
from recjax.data.prepare import prepare as prepare_data
from recjax.data.store import Store
from recjax.errors import InputError, TrainingStopped
from recjax.paths import home
from recjax.ranges import short
from recjax.training.metrics import progress_bar
from recjax.training.workdir import (
    build_config,
    complete,
    open_run,
    plain_config,
    read_run_config,
    start_run,
)

Config: TypeAlias = str | Path | Mapping[str, Any] | ConfigDict


def prepare(
    config: Config, *, changes: Mapping[str, Any] | None = None, overwrite: bool = False
) -> Store:
    """Makes the raw log of a config's section `data` ready for training.

    >>> import recjax
    >>> config = {
    ...     "data": {"source": "simulated", "store": "prepared/sample", "options": {"users": 60}},
    ...     "model": {"name": "sasrec"},
    ... }
    >>> store = recjax.prepare(config)
    >>> len(store.user_keys), len(store.offsets)
    (60, 61)
    >>> recjax.prepare(config, changes={"data.options.users": 50, "data.store": "prepared/50"}).path
    PosixPath('prepared/50')

    Args:
        config: see `recjax.api`.
        changes: dotted keys of the config and their values, as `--config.KEY=VALUE`.
        overwrite: replace a store made from other data or options.

    Returns:
        The store: `offsets` [U+1] and `items` [N] (user u has items[offsets[u]:offsets[u+1]]),
        `timestamps` [N], `user_keys` [U], `catalog` [I], `titles` [I].

    Raises:
        InputError: one line that names the key, or the file and line, and what was expected.
    """
    built = _read(config, changes)
    if not hasattr(built, "data"):
        raise InputError(f"config.system: '{built.system}' reads its recommender's data")
    return prepare_data(built.data, overwrite=overwrite)


def train(
    config: Config | None,
    workdir: str | Path,
    *,
    changes: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Trains a model, or goes on where its training stopped; then tests the best checkpoint.

    >>> import recjax
    >>> config = {
    ...     "data": {"source": "simulated", "store": "prepared/sample", "options": {"users": 60}},
    ...     "model": {"name": "sasrec", "dim": 8, "max_length": 12},
    ...     "train": {"epochs": 2.0},
    ... }
    >>> result = recjax.train(config, "runs/sample")
    >>> result["finished"], 0 <= result["test/full/ndcg@10"] <= 1
    (True, True)
    >>> recjax.train(None, "runs/sample") == result  # all is done: the test again
    True

    Args:
        config: see `recjax.api`; None = that of the workdir, where a run is already.
        workdir: the run's folder.
        changes: dotted keys of the config and their values, as `--config.KEY=VALUE`.
        overwrite: replace the run in `workdir`, as soon as the new one has a checkpoint.

    Returns:
        Test metrics by name; `step` of the best checkpoint; `finished`, True.

    Raises:
        InputError: one line that names the key or file and what was expected; the workdir belongs
            to a run with another config.
        TrainingStopped: SIGINT or SIGTERM stopped the training early. All is saved; called again,
            it goes on. Uncaught, it ends the program.
    """
    workdir = home(workdir)
    if config is None:
        config = plain_config(read_run_config(workdir))
    result = start_run(_read(config, changes), workdir, overwrite=overwrite).train()
    if not result["finished"]:
        by, step = result["stopped_by"], result["step"]
        raise TrainingStopped(
            f"{workdir}: stopped by {by} at step {step}; train again to resume", step
        )
    return result


def evaluate(
    workdir: str | Path,
    *,
    split: str = "test",
    protocols: Sequence[str] | None = None,
    step: int | None = None,
    mesh: tuple[int, int, int] = (-1, 1, 1),
) -> dict[str, float]:
    """Metrics of a trained model.

    >>> import recjax
    >>> metrics = recjax.evaluate("runs/sample", split="validation")
    >>> sorted(metrics)[:2]
    ['validation/full/coverage@1', 'validation/full/coverage@10']

    Args:
        workdir: of the run.
        split: "validation" or "test".
        protocols: of a recommender's run, in place of those of its config: "full",
            "full_with_seen", "uni100" (`recjax.evaluation.protocols`).
        step: checkpoint; None = the best one.
        mesh: see `open_run`.

    Returns:
        Metrics by name (`test/full/ndcg@10`), means over the examples.

    Raises:
        InputError: no run, no checkpoint, an unknown split or protocol.
    """
    if split not in ("validation", "test"):
        raise InputError(f"split: expected 'validation' or 'test', got {split!r}")
    if isinstance(protocols, str):
        raise InputError(f"protocols: expected a list of names, got {protocols!r}")
    if step is not None and not isinstance(step, int | np.integer):
        raise InputError(f"step: expected a whole number, got {step!r}")
    changes = {} if protocols is None else {"protocols": tuple(protocols)}
    run = open_run(workdir, mesh, **changes)
    params = run.restore(run.best_step() if step is None else step)
    evaluator = run.evaluator(split)
    with progress_bar(evaluator.count, 0, f"evaluating {split}", "example") as bar:
        return evaluator.run(params, bar.update)


def _read(config: Config, changes: Mapping[str, Any] | None) -> Any:
    """The config's dataclass."""
    if not isinstance(config, str | Path | Mapping | ConfigDict):
        raise InputError(f"config: expected a file or a dict of sections, got {short(config)}")
    changes = {} if changes is None else changes
    if not isinstance(changes, Mapping) or not all(isinstance(key, str) for key in changes):
        raise InputError(f"changes: expected a dict of dotted keys, got {short(changes)}")
    texts = [(key, _as_text(value)) for key, value in changes.items()]
    spec = str(home(config)) if isinstance(config, str | Path) else config
    return build_config(load_config(spec, texts, complete)[0])


def _as_text(value: Any) -> str:
    """A value as on the command line."""
    if isinstance(value, str | os.PathLike):
        return os.fspath(value)
    return repr(value.tolist() if hasattr(value, "tolist") else value)
