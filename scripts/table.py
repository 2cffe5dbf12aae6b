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
them is an error.

    python scripts/table.py guided FILE.jsonl ...

prints the rows of `scripts/study_guided.py`: means over seeds with their range, paired intervals
of the differences to the base of the same seeds, and both by popularity of the target.
"""

import argparse
import json
import math
import statistics
import sys
from pathlib import Path
from typing import Any

PUBLISHED = Path(__file__).parent / "published.json"
# Student's t, two-sided, 95 %, by degrees of freedom from 1; 1.96 beyond.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def fail(message: str) -> Any:
    sys.exit(f"table.py: {message}")


def final(workdir: Path) -> dict[str, float]:
    """The test metrics of a finished run, by full name."""
    path = workdir / "metrics.jsonl"
    if not path.is_file():
        fail(f"{workdir}: no metrics.jsonl; expected a workdir of `recjax train`")
    for line in reversed(path.read_text(encoding="utf-8").splitlines()):
        try:
            values = json.loads(line)
        except ValueError:
            values = None
        if isinstance(values, dict) and values.get("final"):
            return values
    return fail(f"{path}: no final line; the run has not ended: rerun `recjax train`")


def seeds(workdirs: list[Path]) -> list[dict[str, float]]:
    """The metrics of each workdir; they must differ in the seed alone."""
    configs = []
    for workdir in workdirs:
        try:
            config = json.loads((workdir / "config.json").read_text(encoding="utf-8"))["config"]
        except (OSError, ValueError, KeyError, TypeError):
            fail(f"{workdir}: no config.json of a run; expected a workdir of `recjax train`")
        config.pop("seed", None)
        config.get("data", {}).pop("store", None)
        configs.append(config)
        if config != configs[0]:
            keys = [k for k in {**configs[0], **config} if configs[0].get(k) != config.get(k)]
            fail(f"{workdir}: another config than {workdirs[0]} ({', '.join(keys)} differ)")
    return [final(workdir) for workdir in workdirs]


def cell(values: list[float]) -> str:
    """`mean ± half-width` of the 95 % interval over seeds; one value stands alone."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.4f}"
    t = _T[len(values) - 2] if len(values) - 2 < len(_T) else 1.96
    return f"{mean:.4f} ± {t * statistics.stdev(values) / math.sqrt(len(values)):.4f}"


def markdown(table: dict[str, Any], data: str, runs: dict[str, list[dict[str, float]]]) -> str:
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
        parts.append("\n".join([*lines, "", f"Published: {entry['source']}."]))
    for name in runs.keys() - shown:
        wanted = ", ".join(f"{track}/..." for track in table["tracks"])
        fail(f"--run {name}: its test has none of {wanted} with all cutoffs; see evaluation.*")
    return "\n\n".join(parts)


_GROUPS = ("unseen", "1-5", "6-20", "more")


def guided(paths: list[str]) -> str:
    """Two Markdown tables a model and objective: all targets, and NDCG@10 by their popularity."""
    found: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}
    ranges: dict[tuple[str, str], list[float]] = {}
    for path in paths:
        try:
            lines = [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]
            for line in lines:
                where, row = line["where"], line["row"]
                if line["kind"] == "seed":
                    ranges.setdefault((where, row), []).append(line["test/full/ndcg@10"])
                else:
                    found.setdefault(where, {})[row, line["protocol"]] = line
        except (OSError, ValueError, KeyError, TypeError) as error:
            fail(f"{path}: no lines of scripts/study_guided.py ({error!r})")
    parts = []
    for where, rows in found.items():
        names = list(dict.fromkeys(row for row, _ in rows))
        lines = [
            f"## {where}", "",
            "| | seeds | NDCG@10 (lowest to highest) | MRR | NDCG@10 - base | % | MRR - base | % "
            "| uni100 NDCG@10 | - base |",
            "|---" * 10 + "|",
        ]  # fmt: skip
        for name in names:
            full, sampled = rows[name, "full"], rows.get((name, "uni100"))
            own, own_range = full["all"], ranges[where, name]
            cells = [name, str(full["seeds"])]
            cells += [f"{own['ndcg@10'][0]:.4f} ({min(own_range):.4f} to {max(own_range):.4f})"]
            cells += [f"{own['mrr'][0]:.4f}"]
            for metric in ("ndcg@10", "mrr"):
                cells += (
                    [_interval(own[metric]), _share(own[metric])] if name != "base" else ["", ""]
                )
            other = sampled["all"]["ndcg@10"] if sampled else None
            cells += [f"{other[0]:.4f}" if other else ""]
            cells += [_interval(other) if other and name != "base" else ""]
            lines.append("| " + " | ".join(cells) + " |")
        groups = [g for g in _GROUPS if any(g in line for line in rows.values())]
        sizes = rows[names[0], "full"]
        lines += ["", "| NDCG@10 - base | " + " | ".join(
            f"{g} ({sizes[g]['examples']:,})" for g in groups) + " |",
            "|---" * (len(groups) + 1) + "|",
        ]  # fmt: skip
        for name in names:
            own = rows[name, "full"]
            if name == "base":
                cells = [f"{own[g]['ndcg@10'][0]:.4f}" for g in groups]
            else:
                cells = [_interval(own[g]["ndcg@10"]) for g in groups]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _interval(row: list[float]) -> str:
    """`+.0017 (.0005 to .0029)` of [a, b, low, high]."""
    a, b, low, high = row
    if low is None:
        return f"{a - b:+.4f}"
    return f"{a - b:+.4f} ({low:+.4f} to {high:+.4f})"


def _share(row: list[float]) -> str:
    return f"{100 * (row[0] / row[1] - 1):+.1f}" if row[1] else ""


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["guided"]:
        if not argv[1:]:
            fail("guided: expected files of scripts/study_guided.py")
        print(guided(argv[1:]))
        return
    tables = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("table", choices=tables)
    parser.add_argument("--data", default="beauty", help="name of the data set; default: beauty")
    parser.add_argument("--run", action="append", default=[], metavar="NAME=WORKDIRS")
    args = parser.parse_args(argv)
    runs = {}
    for text in args.run:
        name, equals, pattern = text.rpartition("=")
        if not equals or not name:
            fail(f"--run {text}: expected NAME=WORKDIRS")
        path = Path(pattern)
        workdirs = sorted(Path(path.anchor or ".").glob(str(path.relative_to(path.anchor))))
        workdirs = [folder for folder in workdirs if folder.is_dir()]
        if not workdirs:
            fail(f"--run {text}: no such folder")
        runs[name] = seeds(workdirs)
    print(markdown(tables[args.table], args.data, runs))


if __name__ == "__main__":
    main()
