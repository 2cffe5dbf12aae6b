"""`scripts/docs.sh`: the API reference builds without warnings and has every public module."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_the_reference_builds_without_warnings(tmp_path):
    pytest.importorskip("pdoc", reason="pdoc is not installed (the extra 'docs')")
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "_docs.py"), str(tmp_path)],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(
            [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    pages = {path.relative_to(tmp_path).with_suffix("") for path in tmp_path.rglob("*.html")}
    modules = {
        path.parent.relative_to(ROOT) if path.name == "__init__.py" else
        path.relative_to(ROOT).with_suffix("")
        for path in (ROOT / "recjax").rglob("*.py")
        if not (path.name.startswith("_") and path.name != "__init__.py")
        and "testing" not in path.parts
    }  # fmt: skip
    assert modules - pages == set()
    assert "load_llm" in (tmp_path / "recjax.html").read_text(encoding="utf-8")
