#!/usr/bin/env python
"""Speed of training and ranking on this machine's device (GPU, TPU or CPU), and the host's share.

    python scripts/bench_device.py [--data FOLDER] [--models sasrec,bert4rec,dreamrec] [--json]
    python scripts/bench_device.py --simulated --rank

Trains SASRec, BERT4Rec and DreamRec on Beauty (`configs/recommenders/beauty_*.py`; `sasrec:ce`
names a config's argument) on what `jax.devices()` gives. It needs the repository, its packages and
`amazon-2014-beauty/Beauty.txt` under `--data` or RECJAX_DATA, or `--simulated` users in Beauty's
number and over as many items; it keeps nothing but the `--store` that it is given.

- loop: the training loop's own order. A thread makes and sends the next batch while a call of
  `steps_per_call` steps runs; then the metrics of the call before are read.
- device: the same calls back to back over batches that lie on the device already, one wait at the
  end.
- host share: 1 - device / loop, what the host adds to a step.
- ranked: with `--rank`, test users a second over the whole catalogue, with all metrics.
"""

import argparse
import json
import os
import statistics
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from _bench import LIKE_BEAUTY, make_run, median_seconds, now

from recjax.arguments import Parser, count, positive
from recjax.errors import run_script
from recjax.paths import flag_file, flag_path


def parse() -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=flag_path, help="folder of the raw data; else RECJAX_DATA")
    parser.add_argument("--models", default="sasrec,bert4rec,dreamrec", help="configs, with commas")
    parser.add_argument("--batch", type=positive, default=256, help="sequences a step")
    parser.add_argument("--steps-per-call", type=positive, default=16)
    parser.add_argument("--calls", type=positive, default=8, help="calls of a round")
    parser.add_argument("--rounds", type=positive, default=5, help="of each way, in turns")
    parser.add_argument("--simulated", action="store_true", help="users and items like Beauty's")
    parser.add_argument("--store", type=flag_path, help="folder of the prepared data, made once")
    parser.add_argument("--rank", action="store_true", help="time ranking, too")
    parser.add_argument("--users", type=count, default=0, help="to rank; 0 = all")
    parser.add_argument("--json", action="store_true", help="one JSON object in place of the table")
    parser.add_argument("--out", type=flag_file, help="also write the figures as JSON")
    return parser.parse_args()


def measure(run: Any, calls: int, rounds: int) -> dict[str, Any]:
    """Figures of one run; see the module's docstring."""
    import jax
    import numpy as np

    count, batch_size = run.config.train.steps_per_call, run.config.train.batch_size
    steps, state = run.make_steps(), run.init_state()
    start = now()
    placed = [run.place(call * count, count) for call in range(calls)]
    jax.block_until_ready(placed)
    making = (now() - start) / (calls * count)
    start = now()
    state, metrics = steps(state, placed[0])
    jax.block_until_ready(metrics)
    first = now() - start
    for batch in placed:  # a batch of another shape is compiled here
        state, metrics = steps(state, batch)
    jax.block_until_ready(metrics)
    shapes = {batch["ids"].shape for batch in placed}
    device, loop, maker = [], [], ThreadPoolExecutor(1)
    for _ in range(rounds):
        start = now()
        for batch in placed:
            state, metrics = steps(state, batch)
        jax.block_until_ready((state, metrics))
        device.append((now() - start) / (calls * count))

        batch = run.place(0, count)
        jax.block_until_ready((state, batch))
        start = now()
        last = None
        for call in range(1, calls + 1):
            made = maker.submit(run.place, call % calls * count, count)
            state, metrics = steps(state, batch)
            batch = made.result()
            if last is not None:
                losses = {key: np.asarray(value) for key, value in last.items()}
            last = metrics
        losses = {key: np.asarray(value) for key, value in metrics.items()}
        loop.append((now() - start) / (calls * count))
    assert np.isfinite(losses["loss"]).all()
    on_device, in_loop = statistics.median(device), statistics.median(loop)
    return {
        "objective": run.config.objective.name,
        "batch_size": batch_size,
        "steps_per_call": count,
        "rows": max(shape[1] for shape in shapes),
        "sequences_per_second": batch_size / in_loop,
        "positions_per_second": float(losses["weight"].mean()) / in_loop,
        "loop_step_seconds": in_loop,
        "device_step_seconds": on_device,
        "host_share": 1 - on_device / in_loop,
        "host_batch_seconds": making,
        "compile_seconds": first - count * on_device,
    }


def rank(run: Any, repeats: int) -> dict[str, float]:
    """Users a second by the run's evaluator; weights do not matter to its speed."""
    evaluator, params = run.evaluator("test"), run.init_state().params
    users = sum(len(part["examples"]) for part in evaluator.rank(params))
    return {"ranked_per_second": users / median_seconds(lambda: evaluator.run(params), repeats)}


def main() -> None:
    args = parse()
    if args.data:
        os.environ["RECJAX_DATA"] = str(args.data.absolute())
    import jax

    device = jax.devices()[0]
    name = f"{jax.device_count()} x {device.device_kind} ({device.platform})"
    overrides = [
        ("train.batch_size", str(args.batch)),
        ("train.steps_per_call", str(args.steps_per_call)),
        ("evaluation.max_examples", str(args.users)),
    ]
    if not args.json:
        print(f"{name}, jax {jax.__version__}; {args.batch} sequences a step, ", end="")
        print(f"{args.steps_per_call} steps a call, medians of {args.rounds} rounds")
        print(
            f"{'model':<14}{'objective':<11}{'sequences/s':>12}{'ms/step':>9}{'device ms':>11}"
            f"{'host share':>12}{'batch ms':>10}{'compile s':>11}{'ranked/s':>11}"
        )
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for spec in args.models.split(","):
            store = args.store or Path(folder) / "store"
            run = make_run(spec, store, overrides, LIKE_BEAUTY if args.simulated else None)
            row = {"model": spec, **measure(run, args.calls, args.rounds)}
            if args.rank:
                row |= rank(run, 2)
            rows.append(row)
            if not args.json:
                print(
                    f"{spec:<14}{row['objective']:<11}{row['sequences_per_second']:>12,.0f}"
                    f"{1e3 * row['loop_step_seconds']:>9.2f}"
                    f"{1e3 * row['device_step_seconds']:>11.2f}{row['host_share']:>12.1%}"
                    f"{1e3 * row['host_batch_seconds']:>10.2f}{row['compile_seconds']:>11.1f}"
                    + (f"{row['ranked_per_second']:>11,.0f}" if args.rank else f"{'-':>11}"),
                    flush=True,
                )
    text = json.dumps({"device": name, "jax": jax.__version__, "rows": rows}, indent=2)
    if args.json:
        print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    run_script(main)
