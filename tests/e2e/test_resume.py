"""Killed and resumed runs end with the numbers of the uninterrupted one."""

import functools
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from recjax.training.metrics import read_metrics

CONFIG = """
from ml_collections import ConfigDict
def get_config(arg):
    config = ConfigDict()
    config.data = {"source": "simulated", "store": STORE,
                   "options": {"users": 300, "mean_length": 12.0, "max_length": 40}}
    config.model = {"name": arg, "dim": 16, "layers": 1, "max_length": 20}
    config.objective = OBJECTIVE[arg]
    config.train = {"batch_size": 32, "epochs": 12.0, "steps_per_call": 4}
    return config
OBJECTIVE = {"sasrec": {"name": "bce"}, "gru4rec": {"name": "bpr_max", "negatives": 32}}
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    path = folder / "config.py"
    path.write_text(CONFIG.replace("STORE", repr(str(folder / "store"))))
    return path


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """`whole(model) -> (workdir, result)` of a run that nothing interrupted, once a model."""

    @functools.cache
    def trained(model):
        workdir = tmp_path_factory.mktemp(model) / "whole"
        return workdir, finish(start(config, model, workdir))[0]

    return trained


def start(config, model, workdir):
    command = [sys.executable, "-m", "recjax", "train", f"--config={config}:{model}"]
    # One device: the tests' eight would only cost time here. Compiled with less optimisation than
    # users' runs, which takes half as long.
    flags = os.environ["XLA_FLAGS"].replace("optimization_level=0", "optimization_level=1").split()
    flags = [flag for flag in flags if "device_count" not in flag]
    environment = {**os.environ, "XLA_FLAGS": " ".join(flags)}
    return subprocess.Popen(
        [*command, f"--workdir={workdir}", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def finish(process):
    out, err = process.communicate(timeout=500)
    assert process.returncode == 0, err
    return json.loads(out), err


def wait_for_checkpoint(process, workdir, after):
    """Until there is a complete checkpoint of a step beyond `after`."""
    end = time.time() + 300
    while time.time() < end:
        steps = [int(p.name) for p in (workdir / "checkpoints").glob("[0-9]*") if p.name.isdigit()]
        if max(steps, default=0) > after:
            return max(steps)
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.02)
    raise AssertionError("no checkpoint appeared")


def numbers(workdir):
    """All that was measured, but for the clock."""
    clock = ("sequences_per_second", "input_wait")
    lines = read_metrics(workdir / "metrics.jsonl")
    return [{k: v for k, v in line.items() if k not in clock} for line in lines]


@pytest.mark.parametrize("model", ["sasrec", "gru4rec"])
def test_kill_9_twice_and_resume(config, whole, tmp_path, model):
    workdir, result = whole(model)
    killed = tmp_path / "killed"
    rng, reached = random.Random(model), 0
    for _ in range(2):
        process = start(config, model, killed)
        reached = wait_for_checkpoint(process, killed, reached)
        time.sleep(rng.random() * 0.6)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not any(line.get("final") for line in read_metrics(killed / "metrics.jsonl"))
    resumed, _ = finish(start(config, model, killed))
    assert resumed == result
    assert numbers(killed) == numbers(workdir)


def test_sigterm_saves_and_exits_0(config, whole, tmp_path):
    stopped = tmp_path / "stopped"
    process = start(config, "sasrec", stopped)
    wait_for_checkpoint(process, stopped, 0)
    process.terminate()
    result, err = finish(process)
    assert not result["finished"] and "rerun the command to resume" in err
    assert (stopped / "checkpoints" / str(result["step"])).is_dir()
    assert finish(start(config, "sasrec", stopped))[0] == whole("sasrec")[1]
