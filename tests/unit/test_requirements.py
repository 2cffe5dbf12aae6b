"""Requirements: each has an upper bound, or names one version."""

import re
import tomllib
from pathlib import Path

import pytest

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"].items()
ALL = [*PROJECT["build-system"]["requires"], *PROJECT["project"]["dependencies"]]
ALL += [requirement for _, extra in EXTRAS for requirement in extra]


@pytest.mark.parametrize("requirement", ALL)
def test_requirements_have_bounds(requirement):
    name, versions = re.fullmatch(r"([\w.-]+(?:\[\w+\])?)([^;]*)(?:;.*)?", requirement).groups()
    if name in ("jax[cuda12]", "jax[tpu]"):  # the version is that of `jax` itself
        assert any(one.startswith("jax==") for one in ALL) and not versions
    else:
        assert "==" in versions or (">=" in versions and "<" in versions), requirement
