"""Two processes train as one does: `recjax train --distributed` over a local coordinator."""

import json
import os
import socket
import subprocess
import sys

import pytest

CONFIG = """
from ml_collections import ConfigDict
def get_config(arg=None):
    config = ConfigDict()
    config.data = {"source": "simulated", "store": STORE,
                   "options": {"users": 120, "mean_length": 10.0, "max_length": 30}}
    config.model = {"name": "sasrec", "dim": 16, "max_length": 20, "dropout": 0.0}
    config.objective = {"name": "softmax"}
    config.train = {"batch_size": 16, "epochs": 2.0, "steps_per_call": 4, "mesh": (2, 2, 1)}
    return config
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def start(config, workdir, devices, extra=(), environment=()):
    flags = f"--xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, "-m", "recjax.cli", "train"]
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


def test_two_processes_train_as_one(tmp_path):
    config = tmp_path / "config.py"
    config.write_text(CONFIG.replace("STORE", repr(str(tmp_path / "store"))))
    alone = finish(start(config, tmp_path / "alone", 4))  # prepares the store too
    port = free_port()
    processes = [
        start(
            config,
            tmp_path / "both",
            2,
            ["--distributed"],
            {
                "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
                "JAX_NUM_PROCESSES": "2",
                "JAX_PROCESS_ID": str(index),
            }.items(),
        )
        for index in range(2)
    ]
    try:
        results = [finish(p) for p in processes]
    finally:
        for process in processes:
            process.kill()
    assert results[0] == results[1]
    for name, value in alone.items():
        assert results[0][name] == pytest.approx(value, abs=0.03), name
    lines = (tmp_path / "both" / "metrics.jsonl").read_text().splitlines()
    ours = [json.loads(line) for line in lines]
    theirs = [
        json.loads(line) for line in (tmp_path / "alone" / "metrics.jsonl").read_text().splitlines()
    ]
    assert len(ours) == len(theirs)  # one process writes
    for a, b in zip(ours, theirs, strict=True):
        if "loss" in b:
            assert a["loss"] == pytest.approx(b["loss"], rel=2e-3)
