#!/usr/bin/env python
"""Prints a paper's table beside finished runs, as Markdown.

    python scripts/table.py sequential --data=beauty \
        --run "SASRec, CE=runs/sasrec/seed*" --run "walk=runs/beauty_walk"
    python scripts/table.py direct --data=beauty --run BPR-MF=runs/bpr

The tables are rating, sequential, direct, explanation and review; `scripts/published.json` has
their rows and sources. A run is NAME=WORKDIRS, a glob pattern; several workdirs are seeds of one
config; their row has the mean and the half-width of its 95 % interval (Student's t over seeds).

Each track has a table of its own, with its protocol's name, and no table mixes two: `test/full`
leaves the history's items out (S3-Rec and those that follow it), `test/full_with_seen` keeps them
(papers with semantic ids). A run without a track's protocol has no row there; a run without any of
them is an error, and so are runs of other data or another split than the first.

    python scripts/table.py guided FILE.jsonl ...

prints the rows of `scripts/study_guided.py`, each file's apart: means over seeds with their range;
how far they are above the base of the same seeds in per cent of it, with paired 95 % intervals (the
row's own value where the base has 0); and that by popularity of the target.
"""

import glob
import json
import math
import statistics
import sys
from pathlib import Path
from typing import Any

from recjax.arguments import Parser
from recjax.compare import POPULARITY
from recjax.config import nearest
from recjax.errors import InputError, run_script
from recjax.json_files import read_object
from recjax.training.metrics import read_metrics
from recjax.training.system import load_system

PUBLISHED = Path(__file__).parent / "published.json"
# Student's t, two-sided, 95 %, by degrees of freedom from 1.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
Run = list[dict[str, float]]  # the test metrics of each seed, by full name


def t_quantile(freedom: int) -> float:
    """Student's t, two-sided, 95 %; beyond the table by Fisher's expansion, to 1e-3."""
    if freedom <= len(_T):
        return _T[freedom - 1]
    z, n = 1.959964, freedom
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
    return z + (z**3 + z) / (4 * n) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2) + third


def final(workdir: Path) -> dict[str, float]:
    """The test metrics of a finished run, by full name."""
    path = workdir / "metrics.jsonl"
    for line in reversed(read_metrics(path)):
        if line.get("final"):
            return line
    raise InputError(f"{path}: no final line; the run has not ended: rerun `recjax train`")


def settings(workdir: Path) -> dict[str, Any]:
    """A run's config without the paths that it reads."""
    path = workdir / "config.json"
    if not path.is_file():
        raise InputError(f"{workdir}: no config.json; expected a workdir of `recjax train`")
    config = read_object(path).get("config")
    if not isinstance(config, dict):
        raise InputError(f"{path}: no key 'config'; expected that of `recjax train`")
    paths = load_system(config.get("system", "recommender")).may_change
    for key in ("data.store", "start", *paths):
        *sections, name = key.split(".")
        part = config
        for section in sections:
            part = part.get(section) or {}
        part.pop(name, None)
    return config


def seeds(workdirs: list[Path]) -> Run:
    """The metrics of each workdir; they must differ in seeds and paths alone."""
    given = [settings(workdir) for workdir in workdirs]
    first = {**given[0], "seed": None}
    for workdir, config in zip(workdirs, given, strict=True):
        own = {**config, "seed": None}
        if own != first:
            keys = [key for key in {**first, **own} if first.get(key) != own.get(key)]
            raise InputError(
                f"{workdir}: another config than {workdirs[0]} ({', '.join(keys)} differ)"
            )
    found = [final(workdir) for workdir in workdirs]
    for number, run in enumerate(zip(given, found, strict=True)):
        for other in range(number):
            if run == (given[other], found[other]):
                raise InputError(f"{workdirs[number]}: the run of {workdirs[other]} once more")
    return found


def check_alike(workdirs: dict[str, Path]) -> None:
    """Runs of one table are of the same data and split."""
    known: dict[str, tuple[str, Any]] = {}
    for name, workdir in workdirs.items():
        manifest = workdir / "manifest.json"
        said = {
            "config.split": settings(workdir).get("split"),
            "data": read_object(manifest).get("counts") if manifest.is_file() else None,
        }
        for what, value in said.items():
            other, expected = known.setdefault(what, (name, value)) if value else (name, value)
            if value != expected:
                raise InputError(
                    f"--run {name}: its {what} is {value}, that of {other} {expected}; a table is "
                    "of one data set and split"
                )


def cell(values: list[float]) -> str:
    """`mean ± half-width` of the 95 % interval over seeds; one value stands alone."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.4f}"
    half = t_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:.4f} ± {half:.4f}"


def markdown(table: dict[str, Any], data: str, runs: dict[str, Run]) -> str:
    """One Markdown table a track."""
    parts, shown = [], set()
    for track, entry in table["tracks"].items():
        metrics = entry["metrics"]
        names = [f"{track}/{metric}" for metric in metrics]
        lines = [f"## {table['title']}, {data}, `{track}`", "", entry.get("note", ""), ""]
        lines += ["| | seeds | " + " | ".join(metrics) + " |", "|---" * (len(metrics) + 2) + "|"]
        for name, *values in entry["rows"].get(data, []):
            cells = ["" if value is None else f"{value:.4f}" for value in values]
            lines.append(f"| published: {name} | | " + " | ".join(cells) + " |")
        for name, found in runs.items():
            if all(key in values for values in found for key in names):
                shown.add(name)
                cells = [cell([values[key] for values in found]) for key in names]
                lines.append(f"| {name} | {len(found)} | " + " | ".join(cells) + " |")
        lines += ["", f"Published: {entry['source']}."] if data in entry["rows"] else []
        parts.append("\n".join(lines))
    for name in runs:
        if name not in shown:
            wanted = ", ".join(f"{track}/..." for track in table["tracks"])
            raise InputError(
                f"--run {name}: its test has none of {wanted} with all cutoffs; see evaluation.*"
            )
    return "\n\n".join(parts)


def guided(paths: list[str]) -> str:
    """Two Markdown tables a file, model and objective: all targets, and NDCG@10 by popularity."""
    return "\n\n".join(part for path in paths for part in _guided(path, len(paths) > 1))


def _guided(path: str, named: bool) -> list[str]:
    found: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}
    values: dict[tuple[str, str], list[float]] = {}
    try:
        for text in Path(path).read_text("utf-8").splitlines():
            line = json.loads(text)
            where, row = line["where"], line["row"]
            rows = found.setdefault(where, {})
            if line["kind"] == "seed":
                values.setdefault((where, row), []).append(line["test/full/ndcg@10"])
            else:
                rows[row, line["protocol"]] = line
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: no lines of scripts/study_guided.py ({error!r})") from None
    parts = []
    for where, rows in found.items():
        names = list(dict.fromkeys(row for row, _ in rows))
        if lost := {row for place, row in values if place == where} - {*names}:
            raise InputError(
                f"{path}: {where}: no base of the same seeds beside {', '.join(sorted(lost))}; "
                "expected a wave with 'base'"
            )
        head = ["", "seeds", "NDCG@10 (lowest to highest)", "%", "MRR", "%"]
        head += ["uni100 NDCG@10", "%", "uni100 MRR", "%"]
        title = f"## {where}, {Path(path).name}" if named else f"## {where}"
        lines = [title, "", _row(head), "|---" * len(head) + "|"]
        for name in names:
            own = values[where, name]
            cells = [name, str(rows[name, "full"]["seeds"])]
            for protocol in ("full", "uni100"):
                for metric in ("ndcg@10", "mrr"):
                    one = rows[name, protocol]["all"][metric]
                    spread = f" ({min(own):.4f} to {max(own):.4f})" if len(cells) == 2 else ""
                    cells += [f"{one[0]:.4f}{spread}", _above(one, name)]
            lines.append(_row(cells))
        sizes = rows[names[0], "full"]
        groups = [group for group in POPULARITY if group in sizes]
        head = ["NDCG@10, %", *(f"{group} ({sizes[group]['examples']:,})" for group in groups)]
        lines += ["", _row(head), "|---" * len(head) + "|"]
        for name in names:
            by_group = [rows[name, "full"][group]["ndcg@10"] for group in groups]
            told = [f"{f[0]:.4f}" if name == "base" else _above(f, name) for f in by_group]
            lines.append(_row([name, *told]))
        parts.append("\n".join(lines))
    return parts


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _above(found: list[float], name: str) -> str:
    """`+1.5 (+0.4 to +2.5)`: per cent of the base's mean, of [a, b, low, high]; a where b is 0."""
    a, b, low, high = found
    if name == "base" or not b:
        return "" if name == "base" else f"{a:.4f}"
    ends = "" if low is None else f" ({100 * low / b:+.1f} to {100 * high / b:+.1f})"
    return f"{100 * (a - b) / b:+.1f}{ends}"


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["guided"]:
        if not argv[1:]:
            raise InputError("guided: expected files of scripts/study_guided.py")
        print(guided(argv[1:]))
        return
    tables = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("table", choices=tables)
    parser.add_argument("--data", default="beauty", help="name of the data set; default: beauty")
    parser.add_argument("--run", action="append", default=[], metavar="NAME=WORKDIRS")
    args = parser.parse_args(argv)
    table = tables[args.table]
    known = {data for entry in table["tracks"].values() for data in entry["rows"]}
    if args.data not in known:
        parser.error(f"--data {args.data}: no published rows; {nearest(args.data, known)}")
    runs: dict[str, list[Path]] = {}
    for text in args.run:
        name, equals, pattern = text.partition("=")  # those of grid.py have "="
        if not equals or not name or name in runs:
            parser.error(f"--run {text}: expected NAME=WORKDIRS, and each NAME once")
        runs[name] = [Path(found) for found in sorted(glob.glob(pattern)) if Path(found).is_dir()]
        if not runs[name]:
            parser.error(f"--run {text}: no such folder")
    measured = {name: seeds(workdirs) for name, workdirs in runs.items()}
    check_alike({name: workdirs[0] for name, workdirs in runs.items()})
    print(markdown(table, args.data, measured))


if __name__ == "__main__":
    run_script(main)
