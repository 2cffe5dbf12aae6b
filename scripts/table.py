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

prints the rows of `scripts/study_guided.py`: means over seeds with their range; how far they are
above the base of the same seeds in per cent of it, with paired 95 % intervals (the row's own value
where the base has 0); and that by popularity of the target.
"""

import json
import math
import statistics
import sys
from pathlib import Path
from typing import Any

from recjax.arguments import Parser
from recjax.errors import run_script

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
    values: dict[tuple[str, str], list[float]] = {}
    for path in paths:
        try:
            for text in Path(path).read_text("utf-8").splitlines():
                line = json.loads(text)
                where, row = line["where"], line["row"]
                if line["kind"] == "seed":
                    values.setdefault((where, row), []).append(line["test/full/ndcg@10"])
                else:
                    found.setdefault(where, {})[row, line["protocol"]] = line
        except (OSError, ValueError, KeyError, TypeError) as error:
            fail(f"{path}: no lines of scripts/study_guided.py ({error!r})")
    parts = []
    for where, rows in found.items():
        names = list(dict.fromkeys(row for row, _ in rows))
        head = ["", "seeds", "NDCG@10 (lowest to highest)", "%", "MRR", "%"]
        head += ["uni100 NDCG@10", "%", "uni100 MRR", "%"]
        lines = [f"## {where}", "", _row(head), "|---" * len(head) + "|"]
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
        groups = [group for group in _GROUPS if group in sizes]
        head = ["NDCG@10, %", *(f"{group} ({sizes[group]['examples']:,})" for group in groups)]
        lines += ["", _row(head), "|---" * len(head) + "|"]
        for name in names:
            by_group = [rows[name, "full"][group]["ndcg@10"] for group in groups]
            told = [f"{f[0]:.4f}" if name == "base" else _above(f, name) for f in by_group]
            lines.append(_row([name, *told]))
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


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
            fail("guided: expected files of scripts/study_guided.py")
        print(guided(argv[1:]))
        return
    tables = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    parser = Parser(description=__doc__.split("\n")[0])
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
    run_script(main)
