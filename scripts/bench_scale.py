#!/usr/bin/env python
"""Load test: a million users, a million items, fifty million interactions.

    python scripts/bench_scale.py --store /big/disk/scale [--users N --items N --threads N]

Simulates and prepares (skipped when the store is up to date), trains 100 steps of SASRec with
sampled softmax, and ranks 10,000 users over the whole catalogue. Prints the seconds of each stage,
compilation included, and the peak of resident memory after it.
"""

import argparse
import os
import time

from _bench import peak_gb

from recjax.arguments import Parser, count, positive
from recjax.errors import run_script

CALL = 10  # steps


def parse() -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--store", required=True, help="folder of the prepared data")
    parser.add_argument("--users", type=positive, default=1_000_000)
    parser.add_argument("--items", type=positive, default=1_000_000)
    parser.add_argument("--mean-length", type=float, default=50.0)
    parser.add_argument("--steps", type=positive, default=100, help="a multiple of 10")
    parser.add_argument("--examples", type=positive, default=10_000)
    parser.add_argument("--threads", type=count, default=0, help="cores; 0 = all")
    args = parser.parse_args()
    if args.steps % CALL:
        parser.error(f"--steps {args.steps}: expected a multiple of {CALL}")
    return args


class Stages:
    """Prints what each stage took."""

    def __init__(self):
        self.start = time.perf_counter()

    def done(self, what: str) -> None:
        seconds = time.perf_counter() - self.start
        print(f"{what:<46}{seconds:8.1f} s   peak memory so far {peak_gb():6.2f} GB", flush=True)
        self.start = time.perf_counter()


def main() -> None:
    args = parse()
    if args.threads:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    from recjax.config import build
    from recjax.data.prepare import prepare
    from recjax.training.recommender import RecommenderRun, RunConfig

    options = {
        "users": args.users,
        "items": args.items,
        "mean_length": args.mean_length,
        "max_length": 200,
    }
    section = {
        "data": {"source": "simulated", "store": args.store, "options": options},
        "model": {"name": "sasrec", "max_length": 50},
        "objective": {"name": "sampled_softmax", "negatives": 1024, "popularity_power": 0.5},
        "train": {"batch_size": 256, "steps_per_call": CALL},
        "evaluation": {"max_examples": args.examples},
    }
    stages = Stages()
    config = build(RunConfig, section, "config")
    store = prepare(config.data)
    counts = store.manifest["counts"]
    print(", ".join(f"{n:,} {what}" for what, n in counts.items()))
    stages.done("simulate and prepare")

    run = RecommenderRun(config, store)
    steps, state = run.make_steps(), run.init_state()
    stages.done("split, negatives, weights")
    for step in range(0, args.steps, CALL):
        state, metrics = steps(state, run.place(step, CALL))
    loss = float(metrics["loss"][-1])
    stages.done(f"{args.steps} training steps (loss {loss:.3f})")
    evaluator = run.evaluator("test")
    values = evaluator.run(state.params)
    stages.done(f"{args.examples:,} users ranked over the catalogue")
    print(f"test/full/hr@20 {values['test/full/hr@20']:.5f}")


if __name__ == "__main__":
    run_script(main)
