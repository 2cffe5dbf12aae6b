"""`scripts/check_processes.py`: what it compares. The runs themselves take minutes."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture(scope="module")
def check():
    sys.path.insert(0, str(SCRIPTS))
    spec = importlib.util.spec_from_file_location("check_processes", SCRIPTS / "check_processes.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(SCRIPTS))


def test_differences(check):
    one = ([4.0, 2.0], {"hr": 0.5}, {"a": np.array([1.0, -4.0]), "b": np.zeros(2)})
    other = ([4.0, 2.002], {"hr": 0.4}, {"a": np.array([1.02, -4.0]), "b": np.zeros(2)})
    found = check.differences(other, one)
    assert found == pytest.approx({"losses": 1e-3, "metrics": 0.1, "parameters": 0.02})
    with pytest.raises(SystemExit, match="1 losses, expected 2"):
        check.differences(([4.0], *other[1:]), one)


def test_the_newest_checkpoint_is_one_whose_sums_are_written(check, tmp_path):
    assert check.newest(tmp_path) == 0
    for step, whole in ((4, True), (8, True), (12, False)):
        (tmp_path / "checkpoints" / str(step)).mkdir(parents=True)
        if whole:
            (tmp_path / "checkpoints" / str(step) / "checksums.json").touch()
    assert check.newest(tmp_path) == 8


def test_the_configs_are_those_of_runs(check, tmp_path):
    """Every case is built as its system builds it; all train on one mesh."""
    from recjax.training.workdir import build_config

    for name, section in check.sections(tmp_path).items():
        config = build_config(section)
        assert config.train.mesh == (2, 2, 1), name
