#!/usr/bin/env python
"""Serving speed of a refined recommender against its base, of equal total width.

    python scripts/bench_guided.py --store=prepared/ml-100k

Untrained models of `configs/guided/ml100k_refined.py` make lists of 10 for all users, in turns; the
ratio is that of the fastest turns, and the median of the turns' ratios.
"""

import statistics
import time
from pathlib import Path

import jax

from recjax.arguments import Parser, positive
from recjax.config import load_config
from recjax.data.requests import read_request
from recjax.errors import run_script
from recjax.training.system import load_system
from recjax.training.workdir import build_config, complete

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "guided" / "ml100k_refined.py"


def main() -> None:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--store", required=True, help="of MovieLens-100K; made where missing")
    parser.add_argument("--rows", default="base,items,joined,added", help="of the config")
    parser.add_argument("--turns", type=positive, default=7)
    args = parser.parse_args()
    calls = {}
    for row in args.rows.split(","):
        spec = f"{CONFIG}:sasrec-ce-{row}"
        config = build_config(load_config(spec, [("data.store", args.store)], complete)[0])
        system = load_system(config.system)
        run = system.run(config, system.store(config, True))
        params, request = run.whole(run.init_state().params), read_request(run.store)

        def call(run=run, params=params, request=request) -> float:
            started = time.perf_counter()
            for ids, _ in run.lists.stream(params, request, 10):
                jax.block_until_ready(ids)
            return time.perf_counter() - started

        call()  # compiles
        calls[row] = call
    seconds: dict[str, list[float]] = {row: [] for row in calls}
    for _ in range(args.turns):
        for row, call in calls.items():
            seconds[row].append(call())
    base = seconds["base"]
    for row, found in seconds.items():
        ratios = [one / other for one, other in zip(found, base, strict=True)]
        print(
            f"{row:<8} {min(found):.3f} s, ratio {min(found) / min(base):.3f}, "
            f"median of ratios {statistics.median(ratios):.3f}"
        )


if __name__ == "__main__":
    run_script(main)
