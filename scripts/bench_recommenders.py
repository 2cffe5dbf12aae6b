#!/usr/bin/env python
"""Speed of training and full-ranking evaluation, beside other libraries', in one run.

    RECJAX_DATA=... python scripts/bench_recommenders.py [--peers PYTHON] [--threads 1]

A sample is a sequence (a loss at all its positions), except RecBole's, which is one position; the
ratios are per trained position. All run with the same width, layers, length, batch and threads
(the process is pinned to that many cores). recjax's batches are packed: the same sequences,
without the padding.

The profile takes the parts of a step away one by one (dropout, the optimiser, the backward pass),
so its lines add up only roughly.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peers", help="python of an environment with RecTools and RecBole")
    parser.add_argument("--steps", type=int, default=10, help="steps of a peer's measurement")
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    return parser.parse_args()


def pin(threads: int) -> None:
    """On that many cores; the other environments' processes inherit it."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    os.environ["OMP_NUM_THREADS"] = str(threads)


def median_seconds(call, repeats: int = 7) -> float:
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def matmul_rate(jax, jnp) -> float:
    """FLOP/s of a 1024 x 1024 x 1024 float32 product."""
    x = jnp.ones((1024, 1024), jnp.float32)
    product = jax.jit(lambda a: a @ a)
    return 2 * 1024**3 / median_seconds(lambda: product(x).block_until_ready(), 20)


def make_run(config: str, *overrides: tuple[str, str]):
    from recjax.config import build, load_config
    from recjax.data.prepare import prepare
    from recjax.training.recommender import RecommenderRun, RunConfig, complete

    path = str(ROOT / "configs" / "recommenders" / config)
    section, _ = load_config(path, overrides, complete)
    settings = build(RunConfig, section, "config")
    return RecommenderRun(settings, prepare(settings.data))


def train_seconds(run, jax) -> tuple[float, float]:
    """(seconds a step with its batch, the batch's share of it)."""
    steps, count = run.make_steps(), run.config.train.steps_per_call
    state, times, host = run.init_state(), [], []
    for call in range(8):
        start = time.perf_counter()
        batch = run.place(call * count, count)
        ready = time.perf_counter()
        state, metrics = steps(state, batch)
        jax.block_until_ready(metrics)
        times.append((time.perf_counter() - start) / count)
        host.append((ready - start) / count)
    seconds = statistics.median(times[2:])
    return seconds, statistics.median(host[2:]) / seconds


def profile(run, jax) -> dict[str, float]:
    """Milliseconds of one step's parts, and the arithmetic that the compiler counts in it."""
    import optax

    from recjax.training import objectives

    objective = objectives.Objective(
        run.config.objective, run.store.items, run.split.train, run.store.n_items
    )
    loss = run.loss_fn(objective)
    batch = {k: v[0] for k, v in run.place(0, 1).items()}
    params, data, key = run.init_state().params, objective.data, jax.random.key(0)
    data = jax.tree.map(jax.numpy.asarray, data)
    forward = jax.jit(lambda p: loss(p, batch, data, key)[0])
    both = jax.jit(jax.grad(lambda p: loss(p, batch, data, key)[0]))
    encode = jax.jit(
        lambda p: run.model.merge(p).encode(
            batch["ids"], positions=batch["positions"], segments=batch["segments"]
        )
    )
    grads = both(params)
    state = run.optimizer.init(params)

    def update(grads, state, params):
        updates, state = run.optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    update = jax.jit(update)

    def milliseconds(function, *args) -> float:
        return 1e3 * median_seconds(lambda: jax.block_until_ready(function(*args)), 9)

    parts = {
        "encoder forward, no dropout": milliseconds(encode, params),
        "loss forward (dropout, negatives)": milliseconds(forward, params),
        "loss forward and backward": milliseconds(both, params),
        "optimiser": milliseconds(update, grads, state, params),
    }
    if run.config.model["name"] == "sasrec":  # the compiler counts a loop's body once
        whole, objectives._CHUNK_ELEMENTS = objectives._CHUNK_ELEMENTS, 1 << 40
        unrolled = jax.jit(jax.grad(lambda p: loss(p, batch, data, key)[0]))
        cost = unrolled.lower(params).compile().cost_analysis()
        objectives._CHUNK_ELEMENTS = whole
        parts["GFLOP, forward and backward"] = cost["flops"] / 1e9
    return parts


def peers(args: argparse.Namespace, data: Path) -> list[dict]:
    rows = []
    for peer, what in (
        ("rectools", "bce"),
        ("rectools", "softmax"),
        ("rectools", "rank"),
        ("recbole", "softmax"),
        ("recbole", "rank"),
    ):
        command = [args.peers, str(ROOT / "scripts" / "bench_peers.py"), "--peer", peer]
        command += ["--what", what, "--data", str(data), "--threads", str(args.threads)]
        command += ["--steps", str(args.steps)]
        with tempfile.TemporaryDirectory() as folder:  # they leave logs where they run
            done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
        if done.returncode:
            print(f"{peer} {what}: failed\n{done.stderr[-500:]}", file=sys.stderr)
            continue
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    return rows


def main() -> None:
    args = parse()
    pin(args.threads)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax
    import jax.numpy as jnp

    rate = matmul_rate(jax, jnp)
    print(f"{args.threads} core(s); float32 matrix product {rate / 1e9:.1f} GFLOP/s")
    figures: dict = {"threads": args.threads, "matmul_gflops": rate / 1e9, "recjax": {}}
    ours = figures["recjax"]
    for name, config in (
        ("bce", "beauty_sasrec.py"),
        ("softmax", "beauty_sasrec.py:ce"),
        ("gru4rec bpr_max", "beauty_gru4rec.py"),
        ("gru4rec softmax", "beauty_gru4rec.py:ce"),
    ):
        run = make_run(config)
        seconds, host = train_seconds(run, jax)
        parts = profile(run, jax)
        flops = parts.get("GFLOP, forward and backward", 0.0) * 1e9
        targets = run.batches(0, 16)["targets"]
        positions = float((targets > 0).sum() / 16 / run.config.train.batch_size)
        ours[name] = {
            "step_seconds": seconds,
            "samples_per_second": run.config.train.batch_size / seconds,
            "positions_per_second": positions * run.config.train.batch_size / seconds,
            "host_share": host,
            "matmul_share": flops / seconds / rate,
            "profile": parts,
        }
        print(f"\nrecjax {name}: {ours[name]['samples_per_second']:,.0f} sequences/s")
        print(f"  {1e3 * seconds:.1f} ms a step, {host:.1%} of it the host's batch", end="")
        print(f"; {flops / seconds / rate:.0%} of the matmul rate" if flops else "")
        for part, value in parts.items():
            print(f"    {part:<36}{value:8.2f}")
    run = make_run("beauty_sasrec.py")
    evaluator = run.evaluator("test")
    params = run.init_state().params
    seconds = median_seconds(lambda: evaluator.run(params), 3)
    ours["rank"] = {"users_per_second": len(evaluator.examples) / seconds}
    print(f"\nrecjax full ranking, all metrics: {ours['rank']['users_per_second']:,.0f} users/s")
    if args.peers:
        from recjax.data.prepare import resolve

        rows = peers(args, resolve("amazon-2014-beauty/Beauty.txt").absolute())
        figures["peers"] = rows
        print("\npeer      what       a second    times faster    a sample is")
        for row in rows:
            key = "users_per_second" if row["what"] == "rank" else "positions_per_second"
            ratio = ours[row["what"]][key] / row[key]
            shown = row.get("samples_per_second", row[key])
            print(f"{row['peer']:<10}{row['what']:<9}{shown:>10,.0f}{ratio:>14.1f} x", end="")
            print(f"{'':9}{row['sample']}")
    if args.out:
        args.out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
