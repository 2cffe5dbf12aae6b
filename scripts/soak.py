#!/usr/bin/env python
"""Kills a training run again and again, and looks whether it comes to the same end.

    python scripts/soak.py --folder soak [--kills 100]                 # one process, kill -9
    python scripts/soak.py --folder soak --processes 2 --kills 40      # kill -9 and SIGTERM of one
    python scripts/soak.py --folder soak --run adapter --processes 2   # or glm: of a language model

A small run (`_runs.py`) trains once in peace, then again while it is killed at random moments:
while it compiles, during steps, while a checkpoint is written, while an old one is removed, in the
last validation and test. After each kill the newest checkpoint must be whole, and none that was
complete before may be lost. Of several processes one gets the signal: after kill -9 the others must
end within 30 seconds with a line that names it, after SIGTERM all must save and exit with status 0.
At the end the parameters must be equal to the bit (those of the merged GLM, too), and so must all
metrics. Exit status 1 where something differs.
"""

import argparse
import json
import logging
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _runs import NAMES, differences, end, equal, newest, prepare_runs, read, start, told

from recjax.arguments import Parser, count, positive
from recjax.errors import run_script
from recjax.paths import flag_path

# Of each run: many checkpoints, of which few stay.
TRAIN: dict[str, dict[str, Any]] = {
    "sasrec": {"epochs": 60.0, "evaluate_every": 0.25},
    "adapter": {"epochs": 0.4, "evaluate_every": 0.02, "steps_per_call": 1},
    "glm": {"epochs": 2.0, "evaluate_every": 0.06},
}
KINDS = ("compile", "step", "save", "retention", "end")
LONGEST = 30.0  # seconds in which the others must end after kill -9


def parse() -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=flag_path, required=True, help="new folder for the runs")
    parser.add_argument("--run", choices=NAMES, default="sasrec", help="what is trained (sasrec)")
    parser.add_argument("--kills", type=positive, default=100)
    parser.add_argument("--processes", type=positive, default=1)
    parser.add_argument("--epochs", type=float, help="of each run")
    parser.add_argument("--seed", type=count, default=0, help="of the moments")
    return parser.parse_args()


class Life:
    """The processes of a run, from a start to an end."""

    def __init__(self, config: Path, workdir: Path, processes: int):
        self.workdir = workdir
        self.processes = start(config, workdir, processes)

    @property
    def going(self) -> bool:
        return all(p.poll() is None for p in self.processes)

    def end(self) -> list[tuple[int, str]]:
        """Status and last lines of each."""
        codes = [p.wait(timeout=600) for p in self.processes]
        return [(code, told(self.workdir, k)) for k, code in enumerate(codes)]


def moment(life: Life, last: int, rng: random.Random) -> str:
    """Waits for a moment of some kind; "" where the run ended before.

    Args:
        last: the step of the last checkpoint of a whole run.
    """
    kind, folder = rng.choice(KINDS), life.workdir / "checkpoints"
    started, wait = newest(life.workdir), rng.random()

    def until(happened: Callable[[], Any], seconds: float = 600.0) -> bool:
        limit = time.monotonic() + seconds
        while life.going and time.monotonic() < limit:
            if happened():
                return True
            time.sleep(0.002)
        return False

    until(lambda: "workdir: " in told(life.workdir, 0))  # the processes have met
    if kind == "compile":  # or it restores, or makes its first steps
        time.sleep(wait * 3)
    elif kind == "end":
        until(lambda: newest(life.workdir) >= last)
        time.sleep(wait)
    else:
        until(lambda: newest(life.workdir) > started)  # it is at work
        if kind == "step":
            time.sleep(wait / 2)
        else:
            pattern = {"save": "*orbax-checkpoint-tmp*", "retention": "trash/*"}[kind]
            if until(lambda: next(folder.glob(pattern), None), 10.0):
                time.sleep(rng.choice((0, wait / 100)))
    return kind if life.going else ""


class Soak:
    def __init__(self, args: argparse.Namespace):
        self.args, self.rng = args, random.Random(args.seed)
        train = {**TRAIN[args.run], "keep_checkpoints": 1}
        train |= {"epochs": args.epochs} if args.epochs else {}
        self.folder = args.folder.absolute()
        self.config = prepare_runs(self.folder, [args.run], {args.run: train})[args.run]
        self.faults: list[str] = []
        self.counts: dict[str, int] = {}
        self.slowest = 0.0

    def check(self, holds: bool, what: str) -> None:
        if not holds:
            self.faults.append(what)
            print(f"FAULT: {what}", file=sys.stderr, flush=True)

    def whole(self) -> None:
        """The run in peace."""
        peace = self.folder / "peace"
        end(start(self.config, peace, self.args.processes), peace)
        self.peace, self.last = read(peace), newest(peace)

    def killed(self, number: int) -> None:
        """One run, killed until it ends or enough have been made."""
        from recjax.training.checksums import damage

        workdir = self.folder / f"killed{number}"
        folder, rng = workdir / "checkpoints", self.rng
        while True:
            life = Life(self.config, workdir, self.args.processes)
            kind = "" if self.made >= self.args.kills else moment(life, self.last, rng)
            if not kind:
                break
            acknowledged = newest(workdir)
            which = rng.randrange(self.args.processes)
            term = self.args.processes > 1 and rng.random() < 0.5
            sent = time.monotonic()
            life.processes[which].send_signal(signal.SIGTERM if term else signal.SIGKILL)
            ends = life.end()
            took = time.monotonic() - sent
            if not term and ends[which][0] != -signal.SIGKILL:
                break  # it had ended
            self.slowest = max(self.slowest, took)
            name = f"{'SIGTERM' if term else 'kill -9'} during {kind}"
            self.counts[name] = self.counts.get(name, 0) + 1
            where = f"{workdir.name}, kill {self.made}, {name} of process {which}"
            for index, (status, err) in enumerate(ends):
                if term:
                    self.check(status == 0, f"{where}: process {index} left {status}: {err[-300:]}")
                elif index != which:
                    named = f"process {which} " in err and "is gone" in err
                    self.check(
                        status == 1 and named, f"{where}: {index} left {status}: {err[-300:]}"
                    )
            self.check(term or took < LONGEST, f"{where}: the others took {took:.1f} s")
            found = sorted(
                int(p.name) for p in folder.glob("[0-9]*")
                if p.name.isdigit() and (p / "_CHECKPOINT_METADATA").exists()
            )  # fmt: skip
            sound = max((s for s in found if damage(folder / str(s)) is None), default=0)
            self.check(sound >= acknowledged, f"{where}: {acknowledged} lost, {sound} is whole")
            print(f"{where}: {took:.1f} s, step {sound}", file=sys.stderr, flush=True)
        for index, (status, err) in enumerate(life.end()):
            self.check(not status, f"{workdir.name}: process {index} fails at last: {err[-500:]}")
        if not self.faults:
            found = read(workdir)
            if not equal(found, self.peace):
                off = differences(found, self.peace)
                self.check(False, f"{workdir.name}: ends otherwise than in peace: {off}")
        if not self.faults:
            shutil.rmtree(workdir)

    @property
    def made(self) -> int:
        return sum(self.counts.values())


def main() -> int:
    args = parse()
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    soak = Soak(args)
    began = time.monotonic()
    soak.whole()
    runs = 0
    while soak.made < args.kills and not soak.faults:
        soak.killed(runs)
        runs += 1
    row = {
        "run": args.run, "processes": args.processes, "kills": soak.made,
        "by_kind": soak.counts, "runs": runs, "slowest_end_s": round(soak.slowest, 1),
        "faults": soak.faults,
        "seconds": round(time.monotonic() - began),
    }  # fmt: skip
    print(json.dumps(row))
    return 1 if soak.faults else 0


if __name__ == "__main__":
    run_script(main)
