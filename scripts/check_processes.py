#!/usr/bin/env python
"""Whether several processes train as one does, on this machine's CPU.

    python scripts/check_processes.py --folder NEW [--only sasrec,adapter,glm] [--ways 2,4,4-1-2]

Three small runs: SASRec; an adapter of it into a random LLaMA; LoRA on a random GLM, merged and
written at the end. Each trains on a mesh of 2 x 2 x 1: as one process with four devices, as two
with two each, and as four. Then it begins as four, goes on as one, and ends as two, each stopped by
SIGTERM of one process after its next checkpoint. Every way's losses, test metrics and final
parameters stand beside those of the one process: the largest relative difference of the losses, the
largest absolute ones of the others (the gradient of SASRec's biases of keys is zero, and Adam makes
steps of its rounding errors). Exit status 1 where one of losses or parameters is above 1e-3.
"""

import argparse
import json
import re
import signal
import time
from pathlib import Path

from _runs import NAMES, differences, end, newest, prepare_runs, read, start

from recjax.arguments import Parser
from recjax.errors import run_script
from recjax.paths import flag_file, flag_path

MOST = 1e-3


def parse() -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=flag_path, required=True, help="new folder for the runs")
    parser.add_argument("--only", default=",".join(NAMES), help="runs, with commas")
    parser.add_argument("--ways", default="2,4,4-1-2", help="numbers of processes, with commas")
    parser.add_argument("--out", type=flag_file, help="appends a JSON line a row, as it comes")
    args = parser.parse_args()
    if not re.fullmatch(r"[1-9](-[1-9])*(,[1-9](-[1-9])*)*", args.ways):
        parser.error(f"--ways {args.ways}: expected numbers of processes, such as 2,4,4-1-2")
    return args


def chain(config: Path, workdir: Path, counts: tuple[int, ...]) -> list[int]:
    """The run, which other numbers of processes go on with; the steps at which they stopped."""
    stops = []
    for count in counts[:-1]:
        before, going = newest(workdir), start(config, workdir, count)
        while newest(workdir) <= before and all(p.poll() is None for p in going):
            time.sleep(0.02)
        going[-1].send_signal(signal.SIGTERM)
        end(going, workdir)
        stops.append(newest(workdir))
    end(start(config, workdir, counts[-1]), workdir)
    return stops


def main() -> int:
    args = parse()
    folder, worst = args.folder.absolute(), 0.0
    ways = [tuple(map(int, way.split("-"))) for way in args.ways.split(",")]
    for name, config in prepare_runs(folder, args.only.split(",")).items():
        began, one = time.monotonic(), folder / f"{name}-1"
        if not one.is_dir():  # SASRec's may stand there for the adapter
            end(start(config, one, 1), one)
        expected = read(one)
        for way in ways:
            workdir = folder / f"{name}-{'-'.join(map(str, (0, *way)))}"
            stops = chain(config, workdir, way)
            found = differences(read(workdir), expected)
            row = {
                "case": name, "processes": way, "stopped_at": stops,
                "losses": sum("loss" in line for line in expected[0]), "differences": found,
                "seconds": round(time.monotonic() - began, 1),
            }  # fmt: skip
            worst = max(worst, found["losses"], found["parameters"])
            print(json.dumps(row), flush=True)
            if args.out:
                with args.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
    return int(worst > MOST)


if __name__ == "__main__":
    run_script(main)
