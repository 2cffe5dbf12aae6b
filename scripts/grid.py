#!/usr/bin/env python
"""Trains a small grid of settings, one after another, and prints the best by validation.

    python scripts/grid.py --config=configs/recommenders/ml100k_sasrec.py:ce --workdir=runs/grid \
        --vary model.dim=32,64 --vary optim.weight_decay=0,0.01 --vary model.dropout=0.2,0.5

Every combination is an ordinary run in its own folder of the workdir (`recjax train` with
overrides), so rerunning the command resumes an interrupted grid, and several machines may share one
grid with `--part 1/4`. Other overrides (`--config.key=value`) go to every run. The best setting is
chosen by the best validation of `config.train.metric` (of losses and errors the lowest), never by
the test metrics, which are shown for it alone. `grid.json` in the workdir has all rows.
"""

import argparse
import itertools
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

from recjax.arguments import Parser
from recjax.config import load_config
from recjax.errors import InputError, run_script
from recjax.flags import read_overrides
from recjax.paths import flag_path
from recjax.training.criteria import lower_is_better
from recjax.training.metrics import read_metrics
from recjax.training.workdir import build_config, complete


def parse() -> tuple[argparse.Namespace, list[tuple[str, str]]]:
    parser = Parser(description=__doc__.split("\n")[0], keys=True)
    parser.add_argument("--config", required=True, help="FILE.py or FILE.py:ARG")
    parser.add_argument("--workdir", type=flag_path, required=True)
    parser.add_argument("--vary", action="append", default=[], help="key=value,value,...")
    parser.add_argument("--part", default="1/1", help="k/n: every n-th run, from the k-th")
    args, rest = parser.parse_known_args()
    rest = read_overrides(rest)
    if not args.vary:
        parser.error("--vary: expected at least one key=value,value,...")
    numbers = args.part.split("/")
    args.part = tuple(map(int, numbers)) if all(text.isdecimal() for text in numbers) else ()
    if len(args.part) != 2 or not 1 <= args.part[0] <= args.part[1]:
        parser.error(f"--part {'/'.join(numbers)}: expected k/n, 1 <= k <= n")
    return args, rest


def axis(text: str) -> list[tuple[str, str]]:
    """`[(key, value), ...]` of `key=value,value,...`."""
    key, equals, values = text.partition("=")
    if not equals or not values:
        raise InputError(f"--vary {text}: expected key=value,value,...")
    return [(key.removeprefix("config."), value) for value in values.split(",")]


def points_of(vary: list[str]) -> dict[str, dict[str, str]]:
    """Values by key, of each point of the grid, by the point's name."""
    axes = [axis(text) for text in vary]
    keys = [values[0][0] for values in axes]
    if twice := [key for key in keys if keys.count(key) > 1]:
        raise InputError(f"--vary {twice[0]}: given twice; expected all its values in one")
    short = [key.rpartition(".")[2] for key in keys]
    names = [key if short.count(last) > 1 else last for key, last in zip(keys, short, strict=True)]
    return {
        ",".join(f"{name}={value}" for name, (_, value) in zip(names, point, strict=True)): dict(
            point
        )
        for point in itertools.product(*axes)
    }


def best_validation(workdir: Path, metric: str) -> float:
    """The best value of a metric in a run's `metrics.jsonl`; NaN where there is none."""
    found = [line.get(metric) for line in read_metrics(workdir / "metrics.jsonl")]
    values = [value for value in found if value is not None and math.isfinite(value)]
    best = min if lower_is_better(metric) else max
    return best(values, default=math.nan)


def train(
    args: argparse.Namespace, name: str, point: dict[str, str], keys: dict[str, str], metric: str
) -> dict[str, Any]:
    """Trains one point of the grid, or reads it where it is done."""
    workdir = args.workdir / name
    command = [sys.executable, "-m", "recjax", "train", f"--config={args.config}"]
    command += [f"--workdir={workdir}", "--json"]
    command += [f"--config.{key}={value}" for key, value in {**keys, **point}.items()]
    print(f"--- {name}", file=sys.stderr, flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"grid.py: {name}: recjax train ended with status {done.returncode}")
    result = json.loads(done.stdout)
    if not result["finished"]:
        sys.exit(f"grid.py: {name}: stopped; rerun the command to resume")
    row: dict[str, Any] = {"name": name, **point, metric: best_validation(workdir, metric)}
    return row | {key: value for key, value in result.items() if key.startswith("test/")}


def main() -> None:
    args, rest = parse()
    keys, points = dict(rest), points_of(args.vary)
    part, parts = args.part
    mine = list(points.items())[part - 1 :: parts]
    if not mine:
        raise InputError(f"--part {part}/{parts}: the grid has {len(points)} points")
    for _, point in mine:  # all are read before the first is trained
        section = load_config(args.config, {**keys, **point}.items(), complete)[0]
        build_config(section)
    if "metric" not in section.get("train", {}):
        raise InputError(f"--config {args.config}: nothing is trained, so nothing validates")
    metric = section.train.metric
    rows = [train(args, name, point, keys, metric) for name, point in mine]
    sign = 1 if lower_is_better(metric) else -1
    rows.sort(key=lambda row: (math.isnan(row[metric]), sign * row[metric]))
    (args.workdir / f"grid{'' if parts == 1 else f'-{part}-of-{parts}'}.json").write_text(
        json.dumps(rows, indent=2) + "\n"
    )
    for row in rows:
        print(f"{row[metric]:.4f}  {row['name']}")
    test = metric.replace("validation/", "test/")
    print(f"best by {metric}: {rows[0]['name']}; its {test} {rows[0].get(test, float('nan')):.4f}")


if __name__ == "__main__":
    run_script(main)
