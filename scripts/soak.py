#!/usr/bin/env python
"""Kills a training run again and again, and looks whether it comes to the same end.

    python scripts/soak.py --folder soak [--kills 100]                 # one process, kill -9
    python scripts/soak.py --folder soak --processes 2 --kills 40      # kill -9 and SIGTERM of one

A small SASRec on simulated data trains once in peace, then again while it is killed at random
moments: during steps, while a checkpoint is written, while an old one is removed. After each kill
the newest checkpoint must be whole, and none that was complete before may be lost. Of several
processes one gets the signal: after kill -9 the others must end within 30 seconds with a line that
names it, after SIGTERM all must save and exit with status 0. At the end the parameters must be
equal to the bit, and so must all metrics. Exit status 1 where something differs.
"""

import argparse
import json
import logging
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

CONFIG = """
from ml_collections import ConfigDict
def get_config(arg=None):
    config = ConfigDict()
    config.data = {"source": "simulated", "store": STORE,
                   "options": {"users": 200, "mean_length": 10.0, "max_length": 30}}
    config.model = {"name": "sasrec", "dim": 16, "max_length": 20}
    config.evaluation = {"max_examples": 64}
    config.train = {"batch_size": 16, "epochs": EPOCHS, "steps_per_call": 2,
                    "evaluate_every": 0.25, "keep_checkpoints": 1, "mesh": (-1, 1, 1)}
    return config
"""
LONGEST = 30.0  # seconds in which the others must end


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="new folder for the runs")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--epochs", type=float, default=60.0, help="of each run")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    return parser.parse_args()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


class Life:
    """The processes of a run, from a start to an end."""

    def __init__(self, config: Path, workdir: Path, processes: int):
        command = [sys.executable, "-m", "recjax.cli", "train", f"--config={config}"]
        command += [f"--workdir={workdir}", "--json"]
        devices = f"--xla_force_host_platform_device_count={2 // min(processes, 2)}"
        env = {**os.environ, "XLA_FLAGS": devices, "JAX_PLATFORMS": "cpu"}
        port = free_port()
        self.processes = []
        for index in range(processes):
            more = ["--distributed", f"--coordinator=localhost:{port}"]
            more += [f"--processes={processes}", f"--process={index}"]
            self.processes.append(
                subprocess.Popen(
                    command + (more if processes > 1 else []), text=True, env=env,
                    stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                )
            )  # fmt: skip

    @property
    def going(self) -> bool:
        return all(p.poll() is None for p in self.processes)

    def end(self) -> list[tuple[int, str, str]]:
        """(status, stdout, stderr) of each."""
        done = [p.communicate(timeout=600) for p in self.processes]
        return [(p.returncode, *d) for p, d in zip(self.processes, done, strict=True)]


def complete(folder: Path) -> int:
    """The newest step whose checksums are written: what the run may count on."""
    signed = (p.parent.name for p in folder.glob("[0-9]*/checksums.json"))
    found = [int(name) for name in signed if name.isdigit()]
    return max(found, default=-1)


def moment(life: Life, folder: Path, rng: random.Random) -> str:
    """Waits for a moment of some kind; "" where the run ended before."""
    kind, started = rng.choice(("step", "save", "retention")), complete(folder)
    wait = rng.random() * 0.5
    while life.going and complete(folder) <= started:  # it is at work
        time.sleep(0.005)
    if kind == "step":
        time.sleep(wait)
        return kind if life.going else ""
    pattern = {"save": "*orbax-checkpoint-tmp*", "retention": "trash/*"}[kind]
    end = time.monotonic() + 10
    while life.going and time.monotonic() < end:
        if next(folder.glob(pattern), None) is not None:
            time.sleep(rng.choice((0, wait / 50)))
            return kind
    return kind if life.going else ""


class Soak:
    def __init__(self, args: argparse.Namespace):
        self.args, self.rng = args, random.Random(args.seed)
        args.folder.mkdir(parents=True)
        self.config = args.folder / "config.py"
        store = repr(str((args.folder / "store").absolute()))
        self.config.write_text(CONFIG.replace("STORE", store).replace("EPOCHS", str(args.epochs)))
        self.faults: list[str] = []
        self.counts: dict[str, int] = {}
        self.slowest = 0.0

    def check(self, holds: bool, what: str) -> None:
        if not holds:
            self.faults.append(what)
            print(f"FAULT: {what}", file=sys.stderr, flush=True)

    def whole(self) -> None:
        """The run in peace; first as one process, which prepares the data."""
        self.peace = self.args.folder / "peace"
        if self.args.processes > 1:
            prepare = [sys.executable, "-m", "recjax.cli", "prepare", f"--config={self.config}"]
            subprocess.run(prepare, check=True, capture_output=True)
        for status, _, err in Life(self.config, self.peace, self.args.processes).end():
            if status:
                raise SystemExit(f"soak.py: the run in peace fails: {err[-500:]}")

    def killed(self, number: int) -> None:
        """One run, killed until it ends or enough have been made."""
        from recjax.training.checksums import damage

        workdir = self.args.folder / f"killed{number}"
        folder, rng = workdir / "checkpoints", self.rng
        while True:
            life = Life(self.config, workdir, self.args.processes)
            kind = "" if self.made >= self.args.kills else moment(life, folder, rng)
            if not kind:
                break
            acknowledged = complete(folder)
            which = rng.randrange(self.args.processes)
            term = self.args.processes > 1 and rng.random() < 0.5
            start = time.monotonic()
            life.processes[which].send_signal(signal.SIGTERM if term else signal.SIGKILL)
            ends = life.end()
            took = time.monotonic() - start
            self.slowest = max(self.slowest, took)
            name = f"{'SIGTERM' if term else 'kill -9'} during {kind}"
            self.counts[name] = self.counts.get(name, 0) + 1
            where = f"{workdir.name}, kill {self.made}, {name} of process {which}"
            for index, (status, _, err) in enumerate(ends):
                if term:
                    self.check(status == 0, f"{where}: process {index} left {status}: {err[-300:]}")
                elif index != which:
                    told = f"process {which} " in err and "is gone" in err
                    self.check(
                        status == 1 and told, f"{where}: {index} left {status}: {err[-300:]}"
                    )
            self.check(took < LONGEST, f"{where}: the others took {took:.1f} s")
            found = sorted(
                int(p.name) for p in folder.iterdir()
                if p.name.isdigit() and (p / "_CHECKPOINT_METADATA").exists()
            )  # fmt: skip
            sound = [step for step in found if damage(folder / str(step)) is None]
            self.check(bool(sound), f"{where}: no checkpoint is whole")
            self.check(bool(sound) and sound[-1] >= acknowledged, f"{where}: {acknowledged} lost")
            print(f"{where}: {took:.1f} s, step {found[-1] if found else None}", file=sys.stderr)
        for index, (status, _, err) in enumerate(life.end()):
            self.check(not status, f"{workdir.name}: process {index} fails at last: {err[-500:]}")
        self.check(same(self.peace, workdir), f"{workdir.name}: ends otherwise than in peace")
        if not self.faults:
            shutil.rmtree(workdir)

    @property
    def made(self) -> int:
        return sum(self.counts.values())


def same(a: Path, b: Path) -> bool:
    """Whether two runs have equal parameters, to the bit, and equal metrics."""
    from recjax.training.metrics import read_metrics
    from recjax.training.workdir import open_run

    runs = [open_run(a), open_run(b)]
    steps = [run.latest_step() for run in runs]
    params = [run.restore(step) for run, step in zip(runs, steps, strict=True)]
    equal = all(
        np.array_equal(np.asarray(params[0][k]), np.asarray(params[1][k])) for k in params[0]
    )
    clock = ("sequences_per_second", "input_wait")
    lines = [
        [{k: v for k, v in line.items() if k not in clock} for line in found]
        for found in (read_metrics(run / "metrics.jsonl") for run in (a, b))
    ]
    return steps[0] == steps[1] and equal and lines[0] == lines[1]


def main() -> int:
    args = parse()
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    soak = Soak(args)
    start = time.monotonic()
    soak.whole()
    runs = 0
    while soak.made < args.kills and not soak.faults:
        soak.killed(runs)
        runs += 1
    told = {
        "processes": args.processes, "kills": soak.made, "by_kind": soak.counts, "runs": runs,
        "slowest_end_s": round(soak.slowest, 1), "faults": soak.faults,
        "seconds": round(time.monotonic() - start),
    }  # fmt: skip
    print(json.dumps(told))
    return 1 if soak.faults else 0


if __name__ == "__main__":
    sys.exit(main())
