"""Shared fixtures. Eight CPU devices, so that meshes are tested everywhere; most tests see one."""

import collections
import gc
import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
_FLAGS = "--xla_force_host_platform_device_count=8"
# Most of the tests' time is XLA's, on programs that run once or twice: compiled in a hurry, they
# take half of it. Most commands that tests/e2e starts compile as users' do; so does everything
# where torch is, since the tests against it look at the last digits.
if importlib.util.find_spec("torch") is None:
    # One part a program: a small one gains nothing by threads, and loses a fifth of the time.
    _FLAGS += " --xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
    if sys.version_info < (3, 12):  # jax 0.10; later ones do not know the flag
        _FLAGS += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", _FLAGS)
gc.set_threshold(100_000, 50, 100)  # tracing makes many objects: 5 % of the time at the default
ROOT = Path(__file__).resolve().parent.parent
# The processes that tests start keep compiled programs here, for each other; this process has
# those of `_remember_programs`.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")
_COUNT = None


def _remember_programs():
    """A program that another test has compiled is taken as it is: runs of one config share it.

    JAX's own cache of programs keeps bytes in files, which takes a third of their compilation
    again. Its functions are private: where a newer JAX lacks them, tests take longer.
    """
    import jax
    from jax._src import compilation_cache

    programs, most = collections.OrderedDict(), 400

    def get(key, *_):
        if key in programs:
            programs.move_to_end(key)
        return programs.get(key, (None, None))

    def put(key, name, executable, backend, seconds):
        programs[key] = executable, seconds
        if len(programs) > most:
            programs.popitem(last=False)

    compilation_cache.get_executable_and_time = get
    compilation_cache.put_executable_and_time = put
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def pytest_collection_finish(session):
    """What was imported stays: the collector need not walk through it again and again."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """A run's mesh has all devices, and over eight it takes half as long again: in unit/ and e2e/
    there is one device, unless a test is marked."""
    import jax

    global _COUNT
    if _COUNT is None:
        _COUNT = jax.device_count
        _remember_programs()
    few = any(item.path.is_relative_to(ROOT / "tests" / name) for name in ("unit", "e2e"))
    alone = few and not item.get_closest_marker("devices")
    jax.device_count = (lambda *_: 1) if alone else _COUNT


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real research data; tests that need it are skipped, visibly, without it."""
    root = os.environ.get("RECJAX_DATA")
    if not root:
        pytest.skip("RECJAX_DATA is not set: this test reads real data")
    return Path(root)


@pytest.fixture(scope="session")
def sample_store(tmp_path_factory):
    """A small simulated data set, prepared."""
    from recjax.data.prepare import DataConfig, prepare

    folder = tmp_path_factory.mktemp("sample")
    options = {"users": 120, "mean_length": 10.0, "max_length": 30}
    return prepare(DataConfig("simulated", str(folder / "store"), options=options))


@pytest.fixture
def recjax(capsys):
    """The command in this process: `recjax(*args) -> (status, JSON of stdout or None, stderr)`."""
    from recjax.cli import main

    def run(*args):
        status = main([str(a) for a in args])
        out, err = capsys.readouterr()
        return status, json.loads(out) if out.strip() else None, err

    return run
