"""Systems by name: every kind of run opens from plain Python, whatever was imported before."""

import subprocess
import sys

import pytest

from recjax.errors import InputError
from recjax.training.system import SYSTEMS, System, load_system


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_name_is_a_system(name):
    system = load_system(name)
    assert isinstance(system, System) and system.config.system == name


@pytest.mark.parametrize("name", ["interpretor", 3, ["recommender"], None])
def test_other_names_are_an_error(name):
    with pytest.raises(InputError, match="config.system: no system"):
        load_system(name)


def test_a_fresh_process_knows_all_systems():
    """Nothing of the interpreter is imported before its run is asked for."""
    code = """
import sys
from recjax.training.workdir import complete
assert "recjax.interpreter.run" not in sys.modules
assert complete({"system": "interpreter", "recommender": "a", "llm": "b"})["llm"] == "b"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
