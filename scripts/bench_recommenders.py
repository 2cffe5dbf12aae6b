#!/usr/bin/env python
"""Speed of training, ranking and sampling, beside other libraries', in one run.

    RECJAX_DATA=... python scripts/bench_recommenders.py [--peers PYTHON] [--only sasrec,caser]
    RECJAX_DATA=... python scripts/bench_recommenders.py --peers PYTHON --peers-only --turns 3

Trains every recommender on Beauty with its paper's objective and its modern one, ranks the test
users over the whole catalogue, and times DreamRec's sampler. A sample is a sequence, except
RecBole's, which is a prefix of one; ratios are per trained position (a loss that is computed: a
masked item of BERT4Rec, each of the next items of Caser's paper objective). All run with the same
width, layers, length, batch and threads (the process is pinned to that many cores). recjax's
batches are packed: the same sequences, without the padding.

The profile takes the parts of a step away one by one (dropout, the optimiser, the backward pass),
so its lines add up only roughly.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import _bench
from _bench import make_run, median_seconds, pin, profile, train_figures

from recjax.arguments import Parser, positive
from recjax.errors import run_script
from recjax.paths import flag_file

# The arguments of beauty_<model>.py: the paper's objective, then later ones.
TRAINING = {
    "sasrec": ("", "ce"),
    "gru4rec": ("", "plus", "ce"),
    "caser": ("", "ce"),
    "bert4rec": ("", "modern"),
    "dreamrec": ("", "guided"),
    "hgn": ("", "ce"),
    "fdsa": ("", "ce"),
    "s3rec": ("pretrain", "ce"),
    "bpr": ("",),
    "simplex": ("",),
    "modern": ("esasrec",),
}
# (peer, what, its further options), and the argument of ours that its training is compared with.
PEERS = {
    "sasrec": (
        ("rectools", "bce", (), ""),
        ("rectools-fast", "bce", (), ""),
        ("rectools", "softmax", (), "ce"),
        ("rectools-fast", "softmax", (), "ce"),
        ("recbole", "softmax", (), "ce"),
        ("rectools", "rank", (), ""),
        ("recbole", "rank", (), ""),
    ),
    "gru4rec": (("recbole", "softmax", (), "ce"), ("recbole", "rank", (), "")),
    "caser": (
        ("recbole", "softmax", ("--length", "5"), "ce"),
        ("recbole", "softmax", ("--length", "50"), "ce"),
        ("recbole", "rank", ("--length", "5"), ""),
    ),
    "bert4rec": (
        ("rectools", "softmax", (), ""),
        ("recbole", "softmax", (), ""),
        ("rectools", "rank", (), ""),
        ("recbole", "rank", (), ""),
    ),
    "dreamrec": (),
    "hgn": (
        ("recbole", "bpr", ("--length", "5"), ""),
        ("recbole", "softmax", ("--length", "5"), "ce"),
    ),
    "fdsa": (("recbole", "softmax", (), "ce"),),
    "s3rec": (("recbole", "pretrain", (), "pretrain"), ("recbole", "softmax", (), "ce")),
    "bpr": (("recbole", "bpr", (), ""),),
    "simplex": (("recbole", "ccl", (), ""), ("recbole", "ccl", ("--negatives", "64"), "")),
    "modern": (("rectools", "sampled_softmax", ("--negatives", "256"), "esasrec"),),
}
SAMPLERS = (("ddim", 10), ("ddim", 50), ("ancestral", 1000))  # ranked with
SAMPLER_STEPS = (10, 50, 200, 1000)  # timed alone
TARGET = 2.0  # times faster than the fastest peer


def parse() -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=positive, default=1)
    parser.add_argument("--only", default=",".join(TRAINING), help="models, with commas")
    parser.add_argument("--peers", help="python of an environment with RecTools and RecBole")
    parser.add_argument("--steps", type=positive, default=10, help="steps of a peer's measurement")
    parser.add_argument(
        "--turns", type=positive, default=1, help="a peer's training and ours, measured in turns"
    )
    parser.add_argument(
        "--peers-only", action="store_true", help="training beside the peers, and nothing else"
    )
    parser.add_argument("--out", type=flag_file, help="also write the figures as JSON")
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: seconds of the process on the core; for a core that others use too",
    )
    args = parser.parse_args()
    args.only = args.only.split(",")
    for name in args.only:
        if name not in TRAINING:
            parser.error(f"--only: no recommender '{name}'; known: {', '.join(TRAINING)}")
    if args.peers_only and not args.peers:
        parser.error("--peers-only: needs --peers PYTHON")
    if args.clock == "cpu" and args.threads != 1:
        parser.error("--clock cpu: needs --threads 1 (it adds up the time of all threads)")
    return args


def matmul_rate(jax: Any, jnp: Any) -> float:
    """FLOP/s of a 1024 x 1024 x 1024 float32 product."""
    x = jnp.ones((1024, 1024), jnp.float32)
    product = jax.jit(lambda a: a @ a)
    return 2 * 1024**3 / median_seconds(lambda: product(x).block_until_ready(), 20)


def attempt(spec: str, store: Path, overrides: Any = ()) -> Any:
    """The run, or None where its config refuses."""
    from recjax.errors import InputError

    try:
        return make_run(spec, store, overrides)
    except InputError as error:
        print(f"\nrecjax {spec}: left out: {error}")
        return None


def training(model: str, store: Path, rate: float) -> list[dict[str, Any]]:
    rows = []
    for argument in TRAINING[model]:
        spec = f"{model}:{argument}" if argument else model
        run = attempt(spec, store)
        if run is None:
            continue
        row = {"model": model, "argument": argument, "objective": run.config.objective.name}
        row |= train_figures(run)
        parts = profile(run)
        flops = parts.get("GFLOP, forward and backward", 0.0) * 1e9
        row |= {"matmul_share": flops / row["step_seconds"] / rate, "profile": parts}
        rows.append(row)
        print(f"\nrecjax {spec} ({row['objective']}): {row['samples_per_second']:,.0f} sequences/s")
        print(f"  {row['positions_per_second']:,.0f} positions/s", end="")
        print(f", {1e3 * row['step_seconds']:.1f} ms a step", end="")
        print(f", {row['host_share']:.1%} of it the host's batch", end="")
        print(f", {row['matmul_share']:.0%} of the matmul rate" if flops else "")
        for part, value in parts.items():
            print(f"    {part:<42}{value:8.2f}", flush=True)
    return rows


def ranking(model: str, store: Path) -> list[dict[str, Any]]:
    """Users ranked over the catalogue a second, with all metrics."""
    rows = []
    for sampler, steps in SAMPLERS if model == "dreamrec" else (("", 0),):
        changes = []
        if sampler:  # slow: a sample of the users
            changes = [("model.sampler", sampler), ("model.sampler_steps", str(steps))]
            changes.append(("evaluation.max_examples", "5120"))
        run = attempt(model, store, changes)
        if run is None:
            continue
        evaluator, params = run.evaluator("test"), run.whole(run.init_state().params)
        users = sum(len(part["examples"]) for part in evaluator.rank(params))
        seconds = median_seconds(lambda e=evaluator, p=params: e.run(p), 2 if sampler else 3)
        name = f"{sampler} {steps}".strip() if sampler else ""
        rows.append({"model": model, "sampler": name, "users_per_second": users / seconds})
        label = f"{model}, {name}" if name else model
        print(f"recjax full ranking, {label}: {users / seconds:,.0f} users/s", flush=True)
    return rows


def sampling(store: Path) -> list[dict[str, Any]]:
    """DreamRec's sampler alone: vectors a second, by steps."""
    import jax

    rows = []
    wanted = [
        (f"dreamrec:{argument}".rstrip(":"), sampler, steps)
        for argument in TRAINING["dreamrec"]
        for steps in SAMPLER_STEPS
        for sampler in ("ddim", "ancestral")
    ]
    for spec, sampler, steps in wanted:
        changes = [("model.sampler", sampler), ("model.sampler_steps", str(steps))]
        run = attempt(spec, store, changes)
        if run is None:
            continue
        users, dim = run.config.evaluation.batch_size, run.config.model["dim"]
        guidance = jax.random.normal(jax.random.key(0), (users, dim))
        generate = jax.jit(lambda p, g, k, run=run: run.model.merge(p).generate(g, k))
        inputs = (run.init_state().params, guidance, jax.random.key(1))
        seconds = median_seconds(lambda f=generate, x=inputs: f(*x).block_until_ready(), 5)
        row = {"config": spec, "dim": dim, "sampler": sampler, "steps": steps}
        rows.append({**row, "users_per_second": users / seconds})
        print(
            f"recjax sampler alone, D {dim:>3}, {sampler:<9} {steps:>4} steps: "
            f"{users / seconds:>9,.0f} users/s, {1e6 * seconds / steps:6.0f} us a step of {users}",
            flush=True,
        )
    return rows


def ask_peer(args: argparse.Namespace, command: list[str]) -> dict[str, Any] | None:
    """A peer's figures, or None where it fails."""
    with tempfile.TemporaryDirectory() as folder:  # they leave logs where they run
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    if done.returncode:
        print(f"{' '.join(command[3:7])}: failed\n{done.stderr[-500:]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def peers(args: argparse.Namespace, data: Path, store: Path, ours: dict) -> list[dict[str, Any]]:
    """The peers' figures; training in turns with ours, each with the argument it is compared with.

    A row's `ours` are our positions a second (users, of a ranking), and `times_faster` the median
    over the turns, `fastest` and `slowest` the ends.
    """
    rows = []
    ranked = {row["model"]: row["users_per_second"] for row in ours["ranking"]}
    wanted = [(model, *measurement) for model in args.only for measurement in PEERS[model]]
    for model, peer, what, options, argument in wanted:
        if what == "rank" and not ranked:
            continue
        command = [args.peers, str(_bench.ROOT / "scripts" / "bench_peers.py"), "--peer", peer]
        command += ["--model", model, "--what", what, "--data", str(data), "--clock", args.clock]
        command += ["--threads", str(args.threads), "--steps", str(args.steps), *options]
        rank = what == "rank"
        run = None if rank else attempt(f"{model}:{argument}".rstrip(":"), store)
        turns = []
        for _ in range(1 if rank else args.turns):
            row = ask_peer(args, command)
            if row is None or (run is None and not rank):
                break
            mine = ranked[model] if rank else train_figures(run, 6.0)["positions_per_second"]
            theirs = row["users_per_second" if rank else "positions_per_second"]
            turns.append((mine / theirs, mine, row))
        if not turns:
            continue
        ratios = [ratio for ratio, *_ in turns]
        middle = min(turns, key=lambda turn: abs(turn[0] - statistics.median(ratios)))
        rows.append(
            {
                **middle[2],
                "argument": argument,
                "options": list(options),
                "ours": middle[1],
                "times_faster": statistics.median(ratios),
                "slowest": min(ratios),
                "fastest": max(ratios),
            }
        )
        print_rows(rows[-1:])
    return rows


_LAYOUT = "{:<10}{:<9}{:<10}{:>9}{:>10}{:>9}{:>8}{:>14}  {}"


def print_rows(rows: list[dict[str, Any]]) -> None:
    """Prints lines of the table of peers."""
    for row in rows:
        rank = row["what"] == "rank"
        step = "" if rank else f"{1e3 * row['step_seconds']:,.0f}"
        theirs = row["users_per_second" if rank else "positions_per_second"]
        print(
            _LAYOUT.format(
                row["model"],
                row["what"],
                row["peer"],
                step,
                f"{theirs:,.0f}",
                f"{row['ours']:,.0f}",
                f"{row['times_faster']:.1f}x",
                f"{row['slowest']:.1f} to {row['fastest']:.1f}",
                row["sample"],
            ),
            flush=True,
        )


def compare(rows: list[dict[str, Any]]) -> None:
    """Prints the table, and what is not fast enough."""
    print()
    print(
        _LAYOUT.format(
            *("model", "what", "peer", "ms/step", "a second", "ours", "ratio", "turns", "a sample")
        )
    )
    print_rows(rows)
    print("(positions a second in training, users a second in ranking)")
    least: dict[tuple[str, str], float] = {}
    for row in rows:
        which = (row["model"], row["what"])
        least[which] = min(least.get(which, math.inf), row["times_faster"])
    for (model, what), ratio in least.items():
        if ratio < TARGET:
            print(f"under {TARGET:g} times the fastest peer: {model} {what}, {ratio:.2f}")


def main() -> None:
    args = parse()
    pin(args.threads)
    _bench.use_clock(args.clock)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax
    import jax.numpy as jnp

    from recjax.data.prepare import resolve

    rate = matmul_rate(jax, jnp)
    print(f"{args.threads} core(s); float32 matrix product {rate / 1e9:.1f} GFLOP/s", flush=True)
    wall, busy = time.perf_counter(), time.process_time()
    ours: dict[str, list] = {"training": [], "ranking": [], "sampling": []}
    figures: dict[str, Any] = {"threads": args.threads, "clock": args.clock}
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        if not args.peers_only:
            for model in args.only:
                ours["training"] += training(model, store, rate)
            print()
            for model in args.only:
                ours["ranking"] += ranking(model, store)
            if "dreamrec" in args.only:
                ours["sampling"] += sampling(store)
            share = (time.process_time() - busy) / (time.perf_counter() - wall)
            if args.clock == "wall" and share < 0.95:
                print(f"only {share:.2f} cores were had: are others at work here? (--clock cpu)")
            figures["cores_had"] = share
        figures |= {"matmul_gflops": rate / 1e9, "recjax": ours}
        if args.peers:
            data = resolve("amazon-2014-beauty/Beauty.txt").absolute()
            figures["peers"] = peers(args, data, store, ours)
            compare(figures["peers"])
    if args.out:
        args.out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    run_script(main)
