"""Two processes train as one does: `recjax train --distributed` over a local coordinator."""

import json
import os
import re
import socket
import subprocess
import sys
import time

import pytest

CONFIG = """
from ml_collections import ConfigDict
def get_config(arg=None):
    config = ConfigDict()
    config.data = {"source": "simulated", "store": STORE,
                   "options": {"users": 120, "mean_length": 10.0, "max_length": 30}}
    config.model = {"name": "sasrec", "dim": 16, "layers": 1, "max_length": 20,
                    "dropout": 0.0}
    config.objective = {"name": "softmax"}
    config.train = {"batch_size": 16, "epochs": 6.0, "steps_per_call": 4, "mesh": (2, 2, 1)}
    return config
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def start(config, workdir, devices, extra=(), environment=()):
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, "-m", "recjax", "train"]
        + [f"--config={config}", f"--workdir={workdir}", "--json", *extra],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", **dict(environment)},
    )


def finish(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err[-2000:]
    return json.loads(out.splitlines()[-1])  # gloo writes on stdout too


def start_both(config, workdir, extra=()):
    port = free_port()
    which = [["--distributed", f"--coordinator=localhost:{port}", "--processes=2"] for _ in "ab"]
    return [
        start(config, workdir, 2, [*flags, f"--process={index}", *extra])
        for index, flags in enumerate(which)
    ]


def by_variables(config, workdir, extra):
    """As clusters tell it."""
    port = free_port()
    names = {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": "2"}
    return [
        start(
            config,
            workdir,
            2,
            ["--distributed", *extra],
            {**names, "JAX_PROCESS_ID": str(k)}.items(),
        )
        for k in range(2)
    ]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    path = folder / "config.py"
    path.write_text(CONFIG.replace("STORE", repr(str(folder / "store"))))
    return path


@pytest.fixture(scope="module")
def alone(config):
    """The result of one process, which prepares the store too, and its metrics."""
    return finish(start(config, config.parent / "alone", 4)), lines(config.parent / "alone")


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def alike(found, expected):
    """Results and metrics of two runs, but for the order of sums."""
    for name, value in expected[0].items():
        assert found[0][name] == pytest.approx(value, abs=0.03), name
    assert len(found[1]) == len(expected[1])  # one process writes
    for a, b in zip(found[1], expected[1], strict=True):
        if "loss" in b:
            assert a["loss"] == pytest.approx(b["loss"], rel=2e-3)


@pytest.fixture
def ending():
    """Ends processes that a failed test leaves."""
    processes = []
    yield processes
    for process in processes:
        process.kill()


def test_two_processes_train_as_one(config, alone, tmp_path, ending):
    # An axis that splits no rows joins the two: both make all rows of a batch.
    ending += by_variables(config, tmp_path / "both", ["--config.train.mesh=(1,1,4)"])
    results = [finish(p) for p in ending]
    assert results[0] == results[1]
    alike((results[0], lines(tmp_path / "both")), alone)


def wait_for_checkpoint(process, workdir, after):
    end = time.time() + 200
    while time.time() < end:
        steps = [int(p.parent.name) for p in workdir.glob("checkpoints/[0-9]*/checksums.json")]
        if max(steps, default=0) > after:
            return max(steps)
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    raise AssertionError("no checkpoint appeared")


def test_signals_of_one_process_reach_all(config, alone, tmp_path, ending):
    """SIGTERM of one: all save and exit with 0. Kill -9 of one: the others say so, and end. Then
    one process goes on with what two have saved."""
    workdir = tmp_path / "both"
    ending += start_both(config, workdir)
    reached = wait_for_checkpoint(ending[1], workdir, 0)
    ending[1].terminate()
    stopped = [finish(p) for p in ending]
    assert all(not r["finished"] and r["stopped_by"] == "SIGTERM" for r in stopped)
    assert stopped[0]["step"] == stopped[1]["step"] >= reached
    ending += start_both(config, workdir)
    wait_for_checkpoint(ending[2], workdir, stopped[0]["step"])
    ending[3].kill()
    began = time.time()
    _, err = ending[2].communicate(timeout=60)
    assert time.time() - began < 30 and ending[2].returncode == 1
    last = err.strip().splitlines()[-1]
    assert re.fullmatch(
        r"recjax: process 1 \(pid \d+ on .+\) is gone: its connection broke; .*", last
    )
    assert "Start the same command on all hosts again" in last
    result = finish(start(config, workdir, 4))
    alike((result, lines(workdir)), alone)


def test_an_error_of_one_process_ends_both(config, alone, tmp_path, ending):
    ending += start_both(config, tmp_path / "w", ["--config.train.mesh=(3,1,1)"])
    for process in ending:
        _, err = process.communicate(timeout=100)
        assert process.returncode == 2
        assert "config.train.mesh (3, 1, 1) does not fit 4 devices" in err
    with pytest.raises(AssertionError, match="expected with --distributed"):
        finish(start(config, tmp_path / "w", 1, ["--processes=2"]))
