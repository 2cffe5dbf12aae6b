#!/usr/bin/env python
"""The rows of guided refinement: what aspect scores do for a recommender, with controls.

    python scripts/study_guided.py ml100k --out=runs/guided.jsonl --seeds=5 \
        sasrec-ce:base,added,items,shuffled sasrec-ce:joined,random,genres,scored

A data set is ml100k, steam or beauty: `configs/guided/DATA_refined.py`. Each further argument is a
wave, MODEL-OBJECTIVE:ROWS, whose rows and seeds are trained side by side (`_stacked.py`). The rows
are those of the config: base, items, joined, added, linear, scored, shuffled, random, genres; and
`wide` alone in a wave (240 learned numbers). A row may have changes: `added@alpha=2` (the weight),
`added@aspects=6` (the first so many), `base@dim=20` (so many learned numbers of the 60).

After a wave with `base` the guided part is also fused late into each trained base: `fused`,
`fused-shuffled`, `fused-random`, and where the data have them `fused-genres`, `fused-both` (aspects
and genres), `fused-scored`; with `--users NAME=FILE` also `fused-NAME` and `fused-NAME-as-items`,
by another file of users' scores (`config.guided.moments`). The weight is chosen by validation.

Each wave appends to --out a line for each row and seed, and one for each row over its seeds, with
paired intervals against the base of the same seeds (the wave's, or an earlier one's) over users.
Ranks of all test examples are kept beside it (`.npz`), so that a rerun goes on after the last wave
that ended. `scripts/table.py guided FILE` prints the table.
"""

import dataclasses
import json
import os
import re
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:  # recjax needs no installation to be measured
    sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "scripts"))

from _stacked import Study  # noqa: E402
from _variants import Row, Variant  # noqa: E402

from recjax.arguments import Parser, count, positive  # noqa: E402
from recjax.compare import by_popularity  # noqa: E402
from recjax.config import build, load_config  # noqa: E402
from recjax.data.prepare import prepare  # noqa: E402
from recjax.errors import InputError, run_script  # noqa: E402
from recjax.evaluation.intervals import paired_bootstrap  # noqa: E402
from recjax.evaluation.ranking import rank_values  # noqa: E402
from recjax.guided.fusion import FusedRunConfig  # noqa: E402
from recjax.guided.sources import GuidedConfig, read_guided  # noqa: E402
from recjax.guided.vectors import RefineConfig  # noqa: E402
from recjax.paths import flag_path  # noqa: E402
from recjax.replace import write_text  # noqa: E402
from recjax.training.recommender import RunConfig  # noqa: E402

CONTROLS = ("none", "shuffled", "random")
CUTOFFS = (1, 5, 10, 20)
METRICS = ("mrr", "recall@1", "recall@5", "recall@10", "recall@20", "ndcg@5", "ndcg@10", "ndcg@20")


def parse(argv=None):
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("data", choices=["ml100k", "steam", "beauty"])
    parser.add_argument("waves", nargs="+", metavar="MODEL-OBJECTIVE:ROWS")
    parser.add_argument("--out", type=flag_path, required=True, help="ends in .jsonl")
    parser.add_argument(
        "--store", type=flag_path, help="of the prepared data; default: beside --out"
    )
    parser.add_argument(
        "--split",
        choices=["leave_one_out", "rolling", "chronological_time"],
        help="default: the config's",
    )
    parser.add_argument("--users", action="append", default=[], metavar="NAME=FILE")
    parser.add_argument("--seeds", type=positive, default=5)
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="of a wave, once compiled"
    )
    parser.add_argument("--epochs", type=float, help="at most; default: the config's")
    parser.add_argument("--examples", type=count, default=0, help="of an evaluation; 0 = all")
    parser.add_argument("--batch", type=positive, default=4096, help="examples evaluated at a time")
    args = parser.parse_args(argv)
    waves = []
    for text in args.waves:
        head, colon, rows = text.partition(":")
        if not colon or not rows:
            parser.error(f"{text}: expected MODEL-OBJECTIVE:ROWS")
        waves.append((head, rows.split(",")))
    for text in args.users:
        name, equals, path = text.partition("=")
        if not (name and equals and Path(path).is_file()):
            parser.error(f"--users {text}: expected NAME=FILE, and the file")
    return args, waves


def section_of(data, argument):
    return load_config(f"{ROOT}/configs/guided/{data}_refined.py:{argument}")[0].to_dict()


def row_of(data, head, name, store):
    """A row by its name."""
    kind, _, change = name.partition("@")
    key, _, value = change.partition("=")
    section = section_of(data, f"{head}-{'base' if kind == 'wide' else kind}")
    refined = "guided" in section
    form = {"alpha": r"\d+(\.\d+)?", "aspects": r"\d+"} if refined else {"dim": r"\d+"}
    if change and not (key in form and re.fullmatch(form[key], value)):
        raise InputError(f"row {name}: expected a change of {' or '.join(form)}, a number")
    if not refined:
        return Row(name, dim=int(value) if key else 0)
    guided = build(GuidedConfig, section["guided"], "config.guided")
    refine = build(RefineConfig, section.get("refine", {}), "config.refine")
    if key == "alpha":
        refine = dataclasses.replace(refine, alpha=float(value))
    elif key == "aspects":
        names = read_guided(guided, store).names[: int(value)]
        guided = dataclasses.replace(guided, columns=names)
    return Row(name, guided, refine)


def late_rows(data, head, store, users):
    """The guided parts that are fused into each trained base."""
    section = section_of(data, "fused")
    base = build(GuidedConfig, section["guided"], "config.guided")
    rows = [
        Row("fused" if c == "none" else f"fused-{c}", dataclasses.replace(base, control=c),
                    late=True)
        for c in CONTROLS
    ]  # fmt: skip
    for kind in ("genres", "scored"):
        try:
            row = row_of(data, head, kind, store)
        except InputError:  # the data have none
            continue
        rows.append(Row(f"fused-{kind}", row.guided, late=True))
        if kind == "genres":
            both = dataclasses.replace(base, items=(*base.items, *row.guided.items))
            rows.append(Row("fused-both", both, late=True))
    for text in users:
        name, _, path = text.partition("=")
        guided = dataclasses.replace(base, vector=f"scores:{Path(path).absolute()}")
        rows.append(Row(f"fused-{name}", guided, late=True))
        as_items = dataclasses.replace(guided, moments="items")
        rows.append(Row(f"fused-{name}-as-items", as_items, late=True))
    return rows


def known_rows(data, head, store):
    """Rows with all columns and users that the config's rows have."""
    trained = []
    for name in ("linear", "added"):
        try:
            trained.append(row_of(data, head, name, store))
        except InputError:
            continue
    return [*trained, *late_rows(data, head, store, [])]


class Results:
    """The file of lines, and the ranks of all test examples beside it."""

    def __init__(self, out: Path):
        self.out, self.ranks = out, {}
        self.lines = []
        if out.exists():
            self.lines = [json.loads(line) for line in out.read_text().splitlines()]
        parts = out.parent.glob(f"{out.stem}.*.npz")
        for path in sorted(parts, key=lambda path: int(path.stem.rpartition(".")[2])):
            with np.load(path) as found:
                self.ranks |= {name: found[name].astype(np.int32) for name in found.files}

    def write(self, lines):
        """Adds lines, in place of those that a wave that was interrupted has left of their rows."""
        rows = {(line["where"], line["row"]) for line in lines}
        kept = [line for line in self.lines if (line["where"], line["row"]) not in rows]
        self.lines = kept + lines
        write_text(self.out, "".join(json.dumps(line) + "\n" for line in self.lines))

    def has(self, where, names, seeds):
        """Whether all seeds of rows are there."""
        done = {(x["where"], x["row"], x["seed"]) for x in self.lines if x["kind"] == "seed"}
        return all((where, name, seed) in done for name in names for seed in seeds)

    def keep(self, ranks):
        self.ranks |= ranks
        number = len(list(self.out.parent.glob(f"{self.out.stem}.*.npz")))
        path = self.out.with_name(f"{self.out.stem}.{number}.npz")
        part = path.with_suffix(".part")
        with part.open("wb") as file:
            small = {name: np.minimum(a, 65535).astype(np.uint16) for name, a in ranks.items()}
            np.savez_compressed(file, **small)
        os.replace(part, path)


def values_of(ranks):
    """[n K] of the metrics."""
    found = rank_values(ranks, CUTOFFS)
    return np.stack([found[name] for name in METRICS], axis=1)


def differences(columns, bases, users, groups):
    """Paired intervals of R rows by group and metric: of their values and the bases', [R][n K]."""
    out = [{} for _ in columns]
    for name, chosen in groups.items():
        a, b = (np.concatenate([c[chosen] for c in cs], axis=1) for cs in (columns, bases))
        found = paired_bootstrap(a, b, users[chosen], seed=0)
        for r, own in enumerate(out):
            part = slice(r * len(METRICS), (r + 1) * len(METRICS))
            numbers = zip(
                *(getattr(found, k)[part] for k in ("a", "b", "low", "high")), strict=True
            )
            own[name] = {"examples": int(chosen.sum())} | {
                metric: [round(float(x), 6) if np.isfinite(x) else None for x in row]
                for metric, row in zip(METRICS, numbers, strict=True)
            }
    return out


def compared(results, where, names, seeds, users, groups):
    """Lines of rows over their seeds, each against the base of the same seeds."""
    rows, columns, bases = [], [], []
    for protocol in ("full", "uni100"):
        for name in names:
            keys = [f"{where}/{name}/{seed}/{protocol}" for seed in seeds]
            base = [f"{where}/base/{seed}/{protocol}" for seed in seeds]
            if not all(key in results.ranks for key in [*keys, *base]):
                continue
            rows.append((name, protocol))
            columns.append(np.mean([values_of(results.ranks[key]) for key in keys], axis=0))
            bases.append(np.mean([values_of(results.ranks[key]) for key in base], axis=0))
    found = differences(columns, bases, users, groups) if rows else []
    return [
        {
            "kind": "row",
            "where": where,
            "row": name,
            "protocol": protocol,
            "seeds": len(seeds),
            **own,
        }
        for (name, protocol), own in zip(rows, found, strict=True)
    ]


def config_of(args, head, wide):
    """The config of a wave's base."""
    section = section_of(args.data, f"{head}-{'wide' if wide else 'base'}")
    section.pop("system", None)
    section["data"]["store"] = str(args.store or args.out.with_suffix(".store"))
    if args.split:
        section["split"] = {"name": args.split}
    if args.epochs:
        section["train"]["epochs"] = args.epochs
    section["evaluation"]["max_examples"] = args.examples
    return build(RunConfig, section, "config")


def write(results, where, study, tests, told):
    """Lines and ranks of variants that have been tested: {variant: Measured}, {variant: more}."""
    results.keep(
        {
            f"{where}/{v.name}/{protocol}": values["rank"]
            for v, test in tests.items()
            for protocol, values in test.values.items()
        }
    )
    lines = []
    for v, test in tests.items():
        kept = {
            name: round(value, 6)
            for name, value in test.metrics.items()
            if name.rpartition("/")[2] in (*METRICS, "mmr@10")
        }
        lines.append(
            {"kind": "seed", "where": where, "row": v.row.name, "seed": v.seed, **told[v], **kept}
        )
    names = list(dict.fromkeys(v.row.name for v in tests))
    seeds = sorted({v.seed for v in tests})
    one = next(iter(tests.values()))
    groups = {"all": np.ones(len(one.users), bool), **by_popularity(study.run, one.targets)}
    results.write([*lines, *compared(results, where, names, seeds, one.users, groups)])
    for name in names:
        own = [line["test/full/ndcg@10"] for line in lines if line["row"] == name]
        print(f"{where} {name}: NDCG@10 {np.mean(own):.4f}", flush=True)


def trained_rows(results, where, study, rows, seeds, seconds):
    """Trains and tests a wave; returns the parameters, and the place of each base's by seed."""
    variants = [Variant(row, seed) for row in rows for seed in seeds]
    trained = study.train(variants, seconds, lambda text: print(text, flush=True))
    told = {
        v: {"step": step, "validation": value, "ended": end, "seconds": round(trained.seconds, 1)}
        for v, step, value, end in zip(
            variants, trained.steps, trained.values, trained.ended, strict=False
        )
    }
    tests = dict(zip(variants, study.measure(trained.params), strict=False))
    write(results, where, study, tests, told)
    return trained.params, {v.seed: k for k, v in enumerate(variants) if v.row.name == "base"}


def fused_rows(results, where, study, rows, params, bases):
    """Fuses the guided part of late rows into trained bases, and tests that."""
    late = [Variant(row, seed) for row in rows for seed in bases]
    weights, started = sorted({0.0, *FusedRunConfig.weights}), time.perf_counter()
    chosen, values, tests = study.fuse(late, params, [bases[v.seed] for v in late], weights)
    took = round(time.perf_counter() - started, 1)
    told = {
        v: {"weight": weight, "validation": value, "seconds": took}
        for v, weight, value in zip(late, chosen, values, strict=True)
    }
    write(results, where, study, dict(zip(late, tests, strict=True)), told)


def main(argv=None):
    args, waves = parse(argv)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    results, seeds, studies = Results(args.out), list(range(args.seeds)), {}
    short = f"{args.epochs:g}-epochs" if args.epochs else None
    configs = [config_of(args, head, names == ["wide"]) for head, names in waves]
    store = prepare(configs[0].data)
    # All waves are read before the first is trained, so that a wrong name costs no training.
    rows = [[row_of(args.data, head, name, store) for name in names] for head, names in waves]
    for (head, names), config, own in zip(waves, configs, rows, strict=True):
        where = "-".join(filter(None, [args.data, args.split, short])) + f"/{head}"
        late = late_rows(args.data, head, store, args.users) if "base" in names else []
        if results.has(where, [*names, *(row.name for row in late)], seeds):
            continue
        key = (head, names == ["wide"], len(own))
        if key not in studies:  # one at a time
            known = known_rows(args.data, head, store)
            studies = {key: Study(config, store, known, len(own) * len(seeds), args.batch)}
        print(f"--- {where}: {', '.join(names)}; seeds {seeds}", flush=True)
        params, bases = trained_rows(results, where, studies[key], own, seeds, args.seconds)
        if late:
            fused_rows(results, where, studies[key], late, params, bases)


if __name__ == "__main__":
    run_script(main)
