"""Scripts that start commands, with the commands run in this process."""

import contextlib
import importlib.util
import io
import subprocess
import sys
from pathlib import Path

import pytest

from recjax.cli import main
from recjax.errors import InputError

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture(scope="session")
def script():
    """`script(name)`: the module of `scripts/NAME.py`."""

    def load(name):
        if name not in sys.modules:
            spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
            sys.modules[name] = importlib.util.module_from_spec(spec)  # dataclasses look there
            spec.loader.exec_module(sys.modules[name])
        return sys.modules[name]

    return load


@pytest.fixture
def run_script(script, monkeypatch, capsys):
    """`run_script(name, *arguments) -> (exit message or None, its commands, stdout, stderr)`."""

    def run(name, *arguments):
        commands, real = [], subprocess.run

        def here(command, **options):
            if command[:3] != [sys.executable, "-m", "recjax"]:  # git, of a run's records
                return real(command, **options)
            commands.append(command[3:])
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                status = main(command[3:])
            return subprocess.CompletedProcess(command, status, out.getvalue())

        monkeypatch.setattr(script(name).subprocess, "run", here)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        message = None
        try:
            script(name).main()
        except InputError as error:
            message = str(error)
        except SystemExit as end:
            message = end.code
        monkeypatch.undo()
        return message, commands, *capsys.readouterr()

    return run
