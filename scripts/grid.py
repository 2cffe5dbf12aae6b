#!/usr/bin/env python
"""Trains a small grid of settings, one after another, and prints the best by validation.

    python scripts/grid.py --config=configs/recommenders/ml100k_sasrec.py:ce --workdir=runs/grid \
        --vary model.dim=32,64 --vary optim.weight_decay=0,0.01 --vary model.dropout=0.2,0.5

Every combination is an ordinary run in its own folder of the workdir (`recjax train` with
overrides), so rerunning the command resumes an interrupted grid, and several machines may
share one grid with `--part 1/4`. Other overrides (`--config.key=value`) go to
every run. The best setting is chosen by the best validation, never by the test metrics, which are
shown for it alone. `grid.json` in the workdir has all rows.
"""

import argparse
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from recjax.arguments import Parser
from recjax.errors import run_script


def parse() -> tuple[argparse.Namespace, list[str]]:
    parser = Parser(description=__doc__.split("\n")[0], keys=True)
    parser.add_argument("--config", required=True, help="FILE.py or FILE.py:ARG")
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--vary", action="append", default=[], help="key=value,value,...")
    parser.add_argument("--part", default="1/1", help="k/n: every n-th run, from the k-th")
    args, rest = parser.parse_known_args()
    for text in rest:
        if not text.startswith("--config."):
            parser.error(f"{text}: expected --config.key=value")
    if not args.vary:
        parser.error("--vary: expected at least one key=value,value,...")
    return args, rest


def axis(text: str) -> list[tuple[str, str]]:
    """`[(key, value), ...]` of `key=value,value,...`."""
    key, equals, values = text.partition("=")
    if not equals or not values:
        sys.exit(f"grid.py: --vary {text}: expected key=value,value,...")
    return [(key.removeprefix("config."), value) for value in values.split(",")]


def best_validation(workdir: Path, metric: str) -> float:
    """The best value of a metric in a run's `metrics.jsonl`."""
    with (workdir / "metrics.jsonl").open() as file:
        values = [json.loads(line).get(metric) for line in file]
    return max(value for value in values if value is not None)


def train(args: argparse.Namespace, point: list[tuple[str, str]], rest: list[str]) -> dict:
    """Trains one point of the grid, or reads it where it is done."""
    name = ",".join(f"{key.rpartition('.')[2]}={value}" for key, value in point)
    workdir = args.workdir / name
    command = [sys.executable, "-m", "recjax", "train", f"--config={args.config}"]
    command += [f"--workdir={workdir}", "--json", *rest]
    command += [f"--config.{key}={value}" for key, value in point]
    print(f"--- {name}", file=sys.stderr, flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"grid.py: {name}: recjax train ended with status {done.returncode}")
    result = json.loads(done.stdout)
    if not result["finished"]:
        sys.exit(f"grid.py: {name}: stopped; rerun the command to resume")
    metric = json.loads((workdir / "config.json").read_text())["config"]["train"]["metric"]
    row: dict[str, Any] = {"name": name, **dict(point), metric: best_validation(workdir, metric)}
    return row | {key: value for key, value in result.items() if key.startswith("test/")}


def main() -> None:
    args, rest = parse()
    points = [list(p) for p in itertools.product(*map(axis, args.vary))]
    numbers = args.part.split("/")
    if not all(text.isdecimal() for text in numbers) or len(numbers) != 2:
        sys.exit(f"grid.py: --part {args.part}: expected k/n, 1 <= k <= n")
    part, parts = map(int, numbers)
    if not 1 <= part <= parts:
        sys.exit(f"grid.py: --part {args.part}: expected k/n, 1 <= k <= n")
    rows = [train(args, point, rest) for point in points[part - 1 :: parts]]
    metric = next(key for key in rows[0] if key.startswith("validation/"))
    rows.sort(key=lambda row: -row[metric])
    (args.workdir / f"grid{'' if parts == 1 else f'-{part}-of-{parts}'}.json").write_text(
        json.dumps(rows, indent=2) + "\n"
    )
    for row in rows:
        print(f"{row[metric]:.4f}  {row['name']}")
    test = metric.replace("validation/", "test/")
    print(f"best by {metric}: {rows[0]['name']}; its {test} {rows[0].get(test, float('nan')):.4f}")


if __name__ == "__main__":
    run_script(main)
