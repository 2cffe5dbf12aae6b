"""`scripts/soak.py` and `check_processes.py`: what they start, wait for and compare. The runs
themselves take minutes."""

import importlib
import random
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from recjax.training.train_config import total_steps, validation_steps
from recjax.training.workdir import build_config

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture(scope="module")
def scripts():
    """The modules, by name."""
    names = ("_bench", "_runs", "soak", "check_processes")
    sys.path.insert(0, str(SCRIPTS))
    yield types.SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    sys.path.remove(str(SCRIPTS))
    for name in names:
        del sys.modules[name]


def test_differences(scripts):
    lines = [{"loss": 4.0}, {"loss": 2.0}, {"final": True, "hr": 0.5}]
    others = [{"loss": 4.0}, {"loss": 2.002}, {"final": True, "hr": 0.4}]
    one = (lines, {"a": np.array([1.0, -4.0]), "b": np.zeros(2)})
    other = (others, {"a": np.array([1.02, -4.0]), "b": np.zeros(2)})
    found = scripts._runs.differences(other, one)
    assert found == pytest.approx({"losses": 1e-3, "metrics": 0.1, "parameters": 0.02})
    with pytest.raises(SystemExit, match="1 losses, expected 2"):
        scripts._runs.differences(([*others[1:]], other[1]), one)


def test_equal_is_to_the_bit(scripts):
    equal, lines = scripts._runs.equal, [{"loss": 4.0, "nothing": float("nan")}]
    params = {"a": np.array([0.0, np.nan], np.float32)}
    assert equal((lines, params), ([dict(lines[0])], {"a": params["a"].copy()}))
    assert not equal((lines, params), ([{**lines[0], "loss": 4.0000000000000009}], params))
    for other in (np.array([-0.0, np.nan], np.float32), params["a"].astype(np.float64)):
        assert not equal((lines, params), (lines, {"a": other}))
    assert not equal((lines, params), (lines, {**params, "b": params["a"]}))


def checkpoint(workdir, step, whole=True):
    folder = workdir / "checkpoints" / str(step)
    folder.mkdir(parents=True)
    if whole:
        (folder / "checksums.json").touch()


def test_the_newest_checkpoint_is_one_whose_sums_are_written(scripts, tmp_path):
    assert scripts._runs.newest(tmp_path) == 0
    for step, whole in ((4, True), (8, True), (12, False)):
        checkpoint(tmp_path, step, whole)
    assert scripts._runs.newest(tmp_path) == 8


def test_the_configs_are_those_of_runs(scripts, tmp_path):
    """Every run is built as its system builds it; all train on one mesh, in the soak with many
    checkpoints."""
    for name, section in scripts._runs.sections(tmp_path).items():
        config = build_config(section)
        assert config.train.mesh == (2, 2, 1), name
        section["train"] |= scripts.soak.TRAIN[name]
        train = build_config(section).train
        assert total_steps(train.epochs, 30) / validation_steps(train, 30) > 8, name
    assert set(scripts.soak.TRAIN) == set(scripts._runs.NAMES)
    with pytest.raises(SystemExit, match="runs .'bert'.: expected some of sasrec, adapter, glm"):
        scripts._runs.prepare_runs(tmp_path / "new", ["bert"])


def test_given_flags_stay(scripts, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_a=1 --xla_force_host_platform_device_count=8")
    assert scripts._runs._flags(2).endswith(
        "device_count=8 --xla_force_host_platform_device_count=2"
    )
    monkeypatch.delenv("XLA_FLAGS")
    assert scripts._runs._flags(2) == "--xla_force_host_platform_device_count=2"


class Going:
    """A life that makes a checkpoint, is in the midst of another and removes an old one."""

    def __init__(self, workdir, looks=3):
        self.workdir, self.looks, self.begun = workdir, looks, False

    @property
    def going(self):
        self.looks -= 1
        if self.looks and not self.begun:
            self.begun = True
            checkpoint(self.workdir, 4)
            for name in ("8.orbax-checkpoint-tmp", "trash/2"):
                (self.workdir / "checkpoints" / name).mkdir(parents=True)
            (self.workdir.parent / f"{self.workdir.name}-process0.log").write_text("workdir: x\n")
        return self.looks > 0


@pytest.mark.parametrize("kind", ["compile", "step", "save", "retention", "end"])
def test_moments(scripts, tmp_path, monkeypatch, kind):
    """Each kind is seen where it happens; a run that has ended has none."""
    monkeypatch.setattr(scripts.soak.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(scripts.soak, "KINDS", (kind,))
    (tmp_path / "run-process0.log").touch()
    going = Going(tmp_path / "run", looks=10)
    assert scripts.soak.moment(going, 4, random.Random(0)) == kind
    assert going.begun and going.looks > 0
    (tmp_path / "short-process0.log").touch()
    assert scripts.soak.moment(Going(tmp_path / "short", looks=1), 4, random.Random(0)) == ""
