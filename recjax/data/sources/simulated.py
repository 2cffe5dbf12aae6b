"""Simulated logs as a source: no file, the options alone make the data."""

from pathlib import Path

from recjax.data.interactions import BadRows, Catalog, InteractionLog
from recjax.data.simulate import SimulateConfig, simulate


class Options(SimulateConfig):
    """The simulator's own options; errors name them as they stand in a run's config."""

    _where = "config.data.options"


def files(path: Path, options: Options) -> list[Path]:
    """None: nothing is read."""
    del path, options
    return []


def read(path: Path, options: Options, bad: BadRows) -> tuple[InteractionLog, Catalog]:
    """Simulates; the path takes no part."""
    del path, bad
    return simulate(options)
