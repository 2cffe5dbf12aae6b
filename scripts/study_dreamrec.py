#!/usr/bin/env python
"""DreamRec's guidance strength and sampling steps: quality and cost of one trained run.

    python scripts/study_dreamrec.py --workdir runs/beauty_dreamrec [--guidance 0,1,2,4]
        [--samplers ddim:10,ddim:50,ancestral:1000] [--examples 5000] [--out study.json]

Ranks the test examples (or a seeded sample of them) by the run's best checkpoint with every pair
of guidance strength w and sampler, and prints HR@20 and NDCG@20, then users/s of each sampler,
timed on a second pass. Sampling needs no new training: w and the sampler are read at inference.
"""

import argparse
import dataclasses
import json
import logging
import time
from typing import Any

from recjax.arguments import Parser, count
from recjax.errors import InputError, run_script
from recjax.paths import flag_file, flag_path


def parse() -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--workdir", type=flag_path, required=True)
    parser.add_argument("--guidance", default="0,1,2,4,8")
    parser.add_argument("--samplers", default="ddim:10,ddim:50,ancestral:0")
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--examples", type=count, default=0, help="a seeded sample; 0 = all")
    parser.add_argument("--out", type=flag_file, help="also write the rows as JSON")
    return parser.parse_args()


def main() -> None:
    args = parse()
    logging.getLogger("absl").setLevel(logging.ERROR)
    from recjax.training.recommender import RecommenderRun
    from recjax.training.workdir import open_run

    run = open_run(args.workdir, protocols=("full",), cutoffs=(20,), max_examples=args.examples)
    if run.config.system != "recommender" or run.config.model["name"] != "dreamrec":
        raise InputError(f"{args.workdir}: not a run of DreamRec")
    params = run.restore(run.best_step())
    rows: list[dict[str, Any]] = []
    print(f"{'sampler':<12}{'steps':>7}{'w':>6}{'HR@20':>10}{'NDCG@20':>10}{'users/s':>10}")
    for spec in args.samplers.split(","):
        sampler, _, steps = spec.partition(":")
        for w in map(float, args.guidance.split(",")):
            changes = {"sampler": sampler, "sampler_steps": int(steps or 0), "guidance": w}
            config = dataclasses.replace(run.config, model={**run.config.model, **changes})
            evaluator = RecommenderRun(config, run.store).evaluator(args.split)
            metrics = evaluator.run(params)
            start = time.perf_counter()
            # Compiled by the pass before.
            users = sum(len(part["examples"]) for part in evaluator.rank(params))
            rate = users / (time.perf_counter() - start)
            name = f"{args.split}/full"
            row = {"sampler": sampler, "steps": int(steps or 0) or config.model["steps"], "w": w}
            row |= {k: metrics[f"{name}/{k}@20"] for k in ("hr", "ndcg")}
            row |= {"users_per_second": rate}
            rows.append(row)
            print(
                f"{sampler:<12}{row['steps']:>7}{w:>6g}{row['hr']:>10.4f}{row['ndcg']:>10.4f}"
                f"{rate:>10,.0f}",
                flush=True,
            )
    if args.out:
        args.out.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    run_script(main)
