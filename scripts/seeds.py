#!/usr/bin/env python
"""Runs a recipe over seeds and prints the spread of its test metrics.

    python scripts/seeds.py --workdir=runs/seeds --stage llm=configs/llm/catalogue.py@0-9 \
        --stage recommender=configs/interpreter/recommender.py:sample-sasrec@0-2 \
        --stage interpreter=configs/interpreter/adapter.py:sample-sasrec@0 \
        --set interpreter.recommender={recommender} --set interpreter.llm={llm}/hf

A stage is `NAME=CONFIG@SEEDS`; SEEDS are numbers and ranges, such as `0,1,2` or `0-9`. A stage that
reads others names their workdirs in braces, and runs once for each choice of their seeds: in step
(each list of seeds is repeated to the length of the longest), or, with `--all`, in every
combination. Keys of the config are set with `--set STAGE.KEY=VALUE`. The last stage is measured.

Every run is an ordinary `recjax train` in its own folder of the workdir, so an interrupted command
resumes when it is rerun. `seeds.json` in the workdir has all values; the table has, for each
metric, its lowest, mean and highest value and the standard deviation over the runs (and of the
seconds, where no run was interrupted).
"""

import argparse
import dataclasses
import itertools
import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from recjax.arguments import Parser
from recjax.config import load_config
from recjax.errors import InputError, run_script
from recjax.paths import flag_path
from recjax.training.workdir import build_config, complete, plain_config

_NAME = re.compile(r"\{(\w+)\}")  # a stage, in the value of a key


@dataclasses.dataclass
class Stage:
    """One training of the recipe.

    Attributes:
        name: of its folders.
        config: FILE.py or FILE.py:ARG.
        seeds: to run it with.
        keys: of the config, `{NAME}` for the workdir of another stage.
        settings: the whole config, as far as it is known before the other stages.
    """

    name: str
    config: str
    seeds: list[int]
    keys: dict[str, str] = dataclasses.field(default_factory=dict)
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def reads(self) -> list[str]:
        """The stages whose workdirs it reads."""
        return _NAME.findall(" ".join(self.keys.values()))


def seeds(text: str) -> list[int]:
    """`[0, 1, 2, 5]` of "0-2,5"."""
    out: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise InputError(
                f"--stage: seeds '{text}': expected numbers and ranges, such as 0,1,2 or 0-9"
            )
        out += range(int(first), int(last if dash else first) + 1)
    if not out or len(set(out)) < len(out):
        raise InputError(f"--stage: seeds '{text}': expected at least one, and each once")
    return out


def parse() -> tuple[argparse.Namespace, list[Stage]]:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--workdir", type=flag_path, required=True)
    parser.add_argument("--stage", action="append", required=True, metavar="NAME=CONFIG@SEEDS")
    parser.add_argument("--set", action="append", default=[], metavar="STAGE.KEY=VALUE")
    parser.add_argument("--all", action="store_true", help="every combination of seeds")
    args = parser.parse_args()
    stages: dict[str, Stage] = {}
    for text in args.stage:
        name, equals, rest = text.partition("=")
        config, at, numbers = rest.rpartition("@")
        if not equals or not at or not re.fullmatch(r"\w+", name) or name in stages:
            parser.error(f"--stage {text}: expected NAME=CONFIG@SEEDS, and each NAME once")
        stages[name] = Stage(name, config, seeds(numbers))
    for text in args.set:
        key, equals, value = text.partition("=")
        name, _, key = key.partition(".")
        if not equals or not key or name not in stages:
            parser.error(f"--set {text}: expected STAGE.KEY=VALUE, a stage of {', '.join(stages)}")
        stages[name].keys[key] = value
    before: list[str] = []
    for stage in stages.values():
        for other in stage.reads:
            if other not in before:
                parser.error(f"--set {stage.name}: reads {{{other}}}; expected an earlier stage")
        before.append(stage.name)
    return args, list(stages.values())


def choices(stages: list[Stage], every: bool) -> list[dict[str, int]]:
    """A seed of each stage, for each run of the recipe."""
    if every:
        combined = itertools.product(*(stage.seeds for stage in stages))
    else:
        longest = max(len(stage.seeds) for stage in stages)
        combined = zip(*((s.seeds * longest)[:longest] for s in stages), strict=True)
    return [dict(zip((s.name for s in stages), some, strict=True)) for some in combined]


def train(workdir: Path, stage: Stage, stages: list[Stage], chosen: dict[str, int]) -> dict:
    """Trains one stage with its seeds, or reads its result where it has ended."""
    names = {stage.name: [stage.name]}  # those whose seeds it depends on
    for one in stages[: stages.index(stage) + 1]:
        names[one.name] = sorted({one.name, *(n for other in one.reads for n in names[other])})
    folders = {
        name: workdir / name / "-".join(f"{n}{chosen[n]}" for n in some)
        for name, some in names.items()
    }
    folder = folders[stage.name]
    keys = {"seed": str(chosen[stage.name])}
    for key, value in stage.keys.items():
        keys[key] = _NAME.sub(lambda found: str(folders[found[1]]), value)
    command = [sys.executable, "-m", "recjax", "train", f"--config={stage.config}"]
    command += [f"--workdir={folder}", *(f"--config.{k}={v}" for k, v in keys.items()), "--json"]
    result = folder.with_name(f"{folder.name}.json")
    asked = {"config": stage.config, **keys}
    if result.exists():
        values = json.loads(result.read_text(encoding="utf-8"))
        if values.get("asked", asked) != asked:
            raise InputError(
                f"{result}: the result of {values['asked']}, expected one of {asked}; choose "
                "another --workdir"
            )
        if settings(values.get("settings") or stage.settings) != stage.settings:
            raise InputError(
                f"{result}: the result of other settings than {stage.config} has now; choose "
                "another --workdir"
            )
        return values
    print(f"--- {folder.relative_to(workdir)}", file=sys.stderr, flush=True)
    started, resumed = time.perf_counter(), folder.exists()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"seeds.py: {folder}: recjax train ended with status {done.returncode}")
    values = json.loads(done.stdout)
    if not values["finished"]:
        sys.exit(f"seeds.py: {folder}: stopped; rerun the command to resume")
    if not resumed:
        values["seconds"] = round(time.perf_counter() - started, 1)
    record = {**values, "asked": asked, "settings": stage.settings}
    result.write_text(json.dumps(record) + "\n", encoding="utf-8")
    return values


def settings(section: Any) -> dict[str, Any]:
    """A config with all its defaults, as JSON has it."""
    return json.loads(json.dumps(plain_config(build_config(section)))) if section else {}


def table(rows: list[dict]) -> str:
    """Lowest, mean and highest value of each test metric, and its standard deviation."""
    names = [key for key in rows[0]["values"] if key.startswith("test/") or key == "seconds"]
    names = [name for name in names if all(name in row["values"] for row in rows)]
    width = max(map(len, names))
    lines = [f"{'':<{width}}" + "".join(f"{h:>10}" for h in ("lowest", "mean", "highest", "sd"))]
    for name in names:
        values = [row["values"][name] for row in rows]
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        figures = (min(values), statistics.fmean(values), max(values), deviation)
        lines.append(f"{name:<{width}}" + "".join(f"{figure:>10.4f}" for figure in figures))
    return "\n".join(lines)


def main() -> None:
    args, stages = parse()
    for stage in stages:  # all are read before the first is trained
        try:
            stage.settings = settings(load_config(stage.config, stage.keys.items(), complete)[0])
        except InputError as error:
            raise InputError(f"--stage {stage.name}: {error}") from None
    rows = []
    for chosen in choices(stages, args.all):
        for stage in stages:
            values = train(args.workdir, stage, stages, chosen)
        rows.append({"seeds": chosen, "values": values})
        text = json.dumps(rows, indent=2) + "\n"
        (args.workdir / "seeds.json").write_text(text, encoding="utf-8")
    missed = [row["seeds"] for row in rows if row["values"].get("goals_met") is False]
    print(table(rows))
    print(
        f"{len(rows)} runs; {len(missed)} did not meet their goals"
        + (f": {missed}" if missed else "")
    )


if __name__ == "__main__":
    run_script(main)
