#!/usr/bin/env python
"""Plans of large trainings, and a plan beside the memory that its step takes.

    python scripts/bench_plan.py table [--devices 8,64,256] [--only sasrec]
    python scripts/bench_plan.py memory [--preset glm-base --train lora --remat full]

`table`: collectives, FLOPs and memory of a step on each device, as XLA compiles it for simulated
devices, beside the least that H100 and TPU v5p need for it: SASRec over 10 million items, an
adapter into LLaMA-7B, LoRA on GLM-10B. The rows of a step grow with the devices. Sizes are
those of float32 arrays, which a CPU computes; of the language models half of them are shown, those
of bfloat16.

`memory`: a step of SASRec over 200,000 items, or of a language model's preset with zeros as
weights, runs in this process, and what it takes at its peak stands beside the plan: on a CPU by
the kernel's count of what the process grows by, on a GPU by the allocator's. Of a language model
the plan without compilation (`estimated_gb`) is compared, too, and a step is timed.
"""

import argparse
import ctypes
import gc
import json
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _bench import now

from recjax.arguments import Parser, positive
from recjax.errors import run_script
from recjax.paths import flag_file

# name -> (rows a device, {devices: mesh})
CASES: dict[str, tuple[int, dict[int, str]]] = {
    "sasrec-10m": (32, {8: "1,8,1", 64: "8,8,1", 256: "32,8,1"}),
    "sasrec-10m-fsdp": (32, {8: "1,8,1", 64: "1,64,1", 256: "1,256,1"}),
    "llama-7b-adapter": (4, {8: "1,8,1", 64: "8,8,1", 256: "32,8,1"}),
    "llama-7b-adapter-tensor": (4, {8: "1,4,2", 64: "8,4,2", 256: "32,4,2"}),
    "glm-10b-lora": (4, {8: "1,8,1", 64: "8,8,1", 256: "32,8,1"}),
}
LENGTH = 512


def parse() -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("table", "memory", "one"))
    parser.add_argument("--devices", default="8,64,256")
    parser.add_argument("--only", default="", help="cases whose names begin so")
    parser.add_argument("--case", default="", help="of `one`: NAME:DEVICES")
    parser.add_argument("--items", type=positive, default=200_000, help="of `memory`")
    parser.add_argument("--preset", help="of `memory`: a language model")
    parser.add_argument("--train", default="lora", help="adapter, lora or full")
    parser.add_argument("--remat", default="none", help="none, dots or full")
    parser.add_argument("--batch", type=positive, default=4)
    parser.add_argument("--length", type=positive, default=256)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--out", type=flag_file, help="also write the figures of `memory` there")
    args = parser.parse_args()
    if not any(name.startswith(args.only) for name in CASES):
        parser.error(f"--only {args.only}: expected the beginning of {', '.join(CASES)}")
    return args


def sasrec(items: int, batch: int, mesh: tuple[int, int, int], objective: str = "softmax") -> Any:
    """A run over so many items, without a store on the disk."""
    import numpy as np

    from recjax.config import build
    from recjax.training.recommender import RecommenderRun, RunConfig

    section = {
        "data": {"source": "simulated", "store": "none"},
        "model": {"name": "sasrec", "max_length": 50, "dim": 64},
        "objective": {"name": objective} | ({} if objective == "softmax" else {"negatives": 1024}),
        "train": {"batch_size": batch, "mesh": mesh, "packed": False, "steps_per_call": 1},
    }
    rng, users = np.random.default_rng(0), max(batch, 1000)
    store = types.SimpleNamespace(
        n_items=items + 1, n_users=users, items=rng.integers(1, items, users * 53, dtype=np.int32),
        offsets=np.arange(users + 1) * 53, timestamps=None, fingerprint="", manifest={},
    )  # fmt: skip
    return RecommenderRun(build(RunConfig, section, "config"), store)


def one(case: str) -> dict[str, Any]:
    """A case's step, compiled in this process."""
    from recjax.training.compiled import run_step, use_devices
    from recjax.training.plan import find_config, make_plan

    name, _, count = case.partition(":")
    rows, meshes = CASES[name]
    mesh, devices = meshes[int(count)], int(count)
    use_devices(devices)
    if name.startswith("sasrec"):
        sizes = tuple(int(n) for n in mesh.split(","))
        step = run_step(sasrec(10_000_000, rows * devices, sizes))
    else:
        preset, train = ("glm-10b", "lora") if "glm" in name else ("llama-7b", "adapter")
        # The first layer's remat keeps what is kept to the layers' inputs.
        config = find_config(preset, remat="full")
        plan = make_plan(
            config, mesh=mesh, batch=rows * int(devices / int(mesh.split(",")[2])), length=LENGTH,
            train=train, dtype="float32", compiled=True,
        )  # fmt: skip
        step = plan.compiled
    share = 1 if name.startswith("sasrec") else 2
    return {
        "mesh": mesh, "flops": step.flops, "gb": step.peak_bytes / share / 1e9,
        "arguments_gb": step.argument_bytes / share / 1e9,
        "sent_mb": {k: v / share / 1e6 for k, v in step.collectives.items()},
    }  # fmt: skip


def table(args: argparse.Namespace) -> None:
    from recjax.training.devices import DEVICES

    least = "H100 ms: products, links | v5p ms: products, links"
    print(f"| case | devices (data, fsdp, tensor) | TFLOPs | GB | MB sent | {least} |")
    print("|---|---|---|---|---|---|---|")
    for name, (_, meshes) in CASES.items():
        if not name.startswith(args.only):
            continue
        for count in map(int, args.devices.split(",")):
            command = [sys.executable, __file__, "one", f"--case={name}:{count}"]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                print(f"| {name} | {count} | {done.stderr.strip().splitlines()[-1][:150]} |")
                continue
            row = json.loads(done.stdout.splitlines()[-1])
            sent = sum(row["sent_mb"].values())
            cells = []
            for device in (DEVICES["h100"], DEVICES["v5p"]):
                products, links = device.seconds(row["flops"], sent * 1e6)
                cells.append(f"{1e3 * products:.2f}, {1e3 * links:.2f}")
            kinds = ", ".join(f"{k} {v:,.0f}" for k, v in sorted(row["sent_mb"].items()) if v >= 1)
            print(f"| {name} | {count} ({meshes[count]}) | {row['flops'] / 1e12:.3f} | "
                  f"{row['gb']:.2f} | {sent:,.0f} ({kinds}) | {cells[0]} | {cells[1]} |",
                  flush=True)  # fmt: skip


def resident(field: str) -> int:
    """Bytes by the kernel's count; VmHWM is the peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"bench_plan.py: /proc has no {field}")


def peak_of(call: Callable[[], None], held: int = 0) -> int:
    """Bytes that a call takes at its peak, and those of the arrays that are `held` before it."""
    import jax

    device = jax.devices()[0]
    if device.platform == "gpu":
        call()
        return device.memory_stats()["peak_bytes_in_use"]
    call()  # pages that the allocator takes once
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    call()
    return held + resident("VmHWM") - before


def recommender_memory(args: argparse.Namespace) -> dict[str, Any]:
    import jax

    from recjax.training.compiled import run_step

    run = sasrec(args.items, 8, (1, 1, 1))
    planned = run_step(run)
    steps, batch = run.make_steps(), run.place(0, 1)
    jax.block_until_ready(batch)

    # Made before, since making it takes memory that is none of the step's.
    state = jax.block_until_ready(run.init_state())

    def train() -> None:
        nonlocal state
        for _ in range(2):
            state, metrics = steps(state, batch)
        jax.block_until_ready((state, metrics))

    grown = peak_of(train, sum(array.nbytes for array in jax.tree.leaves((state, batch))))
    return {
        "case": f"sasrec, {args.items} items", "planned_gb": planned.peak_bytes / 1e9,
        "measured_gb": grown / 1e9, "ratio": planned.peak_bytes / grown,
    }  # fmt: skip


def language_memory(args: argparse.Namespace) -> dict[str, Any]:
    import jax
    import jax.numpy as jnp

    from recjax.training.compiled import step_of
    from recjax.training.parallel import make_mesh
    from recjax.training.plan import find_config, make_plan
    from recjax.training.planned_step import planned_step

    config = find_config(args.preset, remat=args.remat)
    told = {name: getattr(args, name) for name in ("batch", "length", "train", "dtype")}
    plan = make_plan(config, **told)
    mesh = make_mesh((1, 1, 1))
    steps, (*arguments, key) = planned_step(config, **told).lowerable(mesh)
    compiled = steps.lower(*arguments, key).compile()
    planned = step_of(compiled, arguments[1], mesh).peak_bytes
    places = jax.tree.map(lambda a: a.sharding, arguments)
    zeros = jax.jit(
        lambda: jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), arguments), out_shardings=places
    )
    state, batch, given = jax.block_until_ready(zeros())
    seconds = []

    def train() -> None:
        nonlocal state
        for _ in range(4):
            start = now()
            state, metrics = compiled(state, batch, given, key)
            jax.block_until_ready(metrics)
            seconds.append(now() - start)

    held = sum(array.nbytes for array in jax.tree.leaves((state, batch, given)))
    measured = peak_of(train, held)
    step = min(seconds)
    return {
        "case": f"{args.preset} {args.train} {args.batch}x{args.length} {args.dtype}, "
        f"remat {args.remat}",
        "estimated_gb": plan.total_bytes / 1e9, "planned_gb": planned / 1e9,
        "measured_gb": measured / 1e9, "estimated_ratio": plan.total_bytes / measured,
        "ratio": planned / measured, "step_seconds": step,
        "tokens_per_second": plan.tokens / step,
        "flops_per_second": plan.flops_per_token * plan.tokens / step,
    }  # fmt: skip


def main() -> None:
    args = parse()
    if args.what == "one":
        print(json.dumps(one(args.case)))
    elif args.what == "memory":
        found = language_memory(args) if args.preset else recommender_memory(args)
        print(json.dumps(found))
        if args.out:
            args.out.write_text(json.dumps(found) + "\n")
    else:
        table(args)


if __name__ == "__main__":
    run_script(main)
