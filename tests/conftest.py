"""Shared fixtures. Eight CPU devices, so that sharding tests run everywhere."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real research data; tests that need it are skipped, visibly, without it."""
    root = os.environ.get("RECJAX_DATA")
    if not root:
        pytest.skip("RECJAX_DATA is not set: this test reads real data")
    return Path(root)
