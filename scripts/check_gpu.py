#!/usr/bin/env python
"""The project's figures on a GPU in one run, as a table and as JSON; `check_gpu.sh` calls it.

    python scripts/check_gpu.py [--out FILE] [--peers PYTHON] [--seconds 600] [--small] [--only ...]

- recommenders: training steps and full-catalogue ranking, with the host's share of a step
  (`bench_device.py`): on Beauty where RECJAX_DATA has it, else simulated users in its number;
- LLaMA-7B's shape in bfloat16, random weights: training of an adapter and of LoRA, generation,
  beside transformers and peft, and the share of the measured matrix-product rate that training
  reaches (`bench_llm.py`);
- interpreters over it: training and reading, beside a straightforward one in PyTorch
  (`bench_interpreter.py`);
- Llama-3.2-1B's shape: items scored on aspects (`bench_score.py`), and a step of the users' policy
  (`bench_policy.py`, where RECJAX_DATA has MovieLens-100K);
- GLM-large's shape: blank infilling over all parameters, and generation, beside the original code
  (`bench_glm.py`);
- the plan of a step against the card's memory at its peak: LoRA on LLaMA-3.2-1B and on GLM-10B
  (`bench_plan.py memory`), with tokens a second;
- training on this card's mesh against meshes of simulated devices (`bench_mesh.py`).

Every stage is a process with a limit of its own, and one that fails or takes too long costs its
rows alone. Nothing is downloaded. Without a GPU, or with `--small`, all run in small sizes on the
CPU, to show that they do: such figures are measured against no target.
"""

import argparse
import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _figures import (
    FASTER,
    Figure,
    glm,
    interpreter,
    language_model,
    memory,
    meshes,
    policy,
    recommender,
    scores,
    show,
)

SCRIPTS = Path(__file__).resolve().parent
# Modules that the stages import, and what brings them.
NEEDED = {
    "jax": "jax", "flax": "flax", "optax": "optax", "orbax.checkpoint": "orbax-checkpoint",
    "numpy": "numpy", "ml_collections": "ml-collections", "tensorboardX": "tensorboardX",
    "tqdm": "tqdm", "safetensors": "safetensors", "tokenizers": "tokenizers",
    "sentencepiece": "sentencepiece", "transformers": "transformers",
}  # fmt: skip
PEERS = ("torch", "transformers", "peft")


@dataclasses.dataclass(frozen=True)
class Stage:
    """A benchmark's process.

    Attributes:
        name: of the stage.
        command: its script and arguments; `OUT` stands for the JSON file that it writes.
        limit: seconds.
        rows: its JSON as figures.
    """

    name: str
    command: list[str]
    limit: float
    rows: Callable[[Any], list[Figure]]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    parser.add_argument("--peers", default=sys.executable, help="python with torch and peft")
    parser.add_argument("--seconds", type=float, default=600.0, help="of all stages together")
    parser.add_argument("--small", action="store_true", help="small sizes, on the CPU")
    parser.add_argument("--only", default="", help="parts of stages' names, with commas")
    parser.add_argument("--missing", action="store_true", help="name what this Python lacks; end")
    args = parser.parse_args()
    if args.out is not None and not args.out.absolute().parent.is_dir():
        parser.error(f"--out: there is no folder {args.out.parent}; make it first")
    return args


def has_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def version(name: str) -> tuple[int, ...]:
    """A package's version as numbers; () where it is not installed."""
    try:
        parts = importlib.metadata.version(name).split(".")
    except importlib.metadata.PackageNotFoundError:
        return ()
    return tuple(int("".join(c for c in part if c.isdigit()) or 0) for part in parts[:3])


def missing() -> list[str]:
    """Packages for pip to install: those this Python lacks, and a flax that fits its jax."""
    out = [package for module, package in NEEDED.items() if not has_module(module)]
    # flax 0.12.8 and 0.12.9 install beside jax 0.11 and fail when they are imported.
    if "flax" not in out and version("jax") >= (0, 11) and version("flax") < (0, 12, 10):
        out.append("flax>=0.12.10")
    return out


def absent_peers(python: str) -> list[str]:
    """Which packages of the peers that Python lacks."""
    code = (
        "import importlib.util as u, sys; "
        "print(*[n for n in sys.argv[1:] if u.find_spec(n) is None])"
    )
    done = subprocess.run([python, "-c", code, *PEERS], capture_output=True, text=True)
    return done.stdout.split() if not done.returncode else [f"{python}: no Python"]


def machine() -> dict[str, Any]:
    """The device by jax, and versions; asks another process, since jax would keep the card."""
    code = """
import importlib.metadata as m, json, platform, sys
import jax
device = jax.devices()[0]
out = {"platform": device.platform, "device": f"{jax.device_count()} x {device.device_kind}"}
out["versions"] = {"python": platform.python_version()}
for name in sys.argv[1:]:
    try:
        out["versions"][name] = m.version(name)
    except m.PackageNotFoundError:
        pass
print(json.dumps(out))
"""
    names = ["jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", *PEERS]
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise SystemExit(f"check_gpu.py: jax finds no device: {last}")
    return json.loads(done.stdout.splitlines()[-1])


def run_stage(stage: Stage, limit: float, folder: Path) -> tuple[Any, str]:
    """A stage's JSON, or why there is none. A process that takes too long ends with its peers."""
    out = folder / f"{stage.name.replace(' ', '-')}.json"
    command = [str(out) if word == "OUT" else word for word in stage.command]
    log = out.with_suffix(".log")
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, str(SCRIPTS / command[0]), *command[1:]],
            stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            status = process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return None, f"took more than {limit:.0f} s"
    lines = log.read_text(errors="replace").splitlines()
    if status:
        return None, (lines or [f"exit status {status}"])[-1][:200]
    return json.loads(out.read_text()), ""


def stages(small: bool, peers: str | None, store: Path) -> list[Stage]:
    """All stages; `peers` is the Python of the peers, or None."""
    beside = ["--peers", peers, "--peer-seconds=45"] if peers else []
    root = os.environ.get("RECJAX_DATA")
    real = bool(root) and (Path(root or "") / "amazon-2014-beauty/Beauty.txt").is_file()
    source = "Beauty" if real else "simulated"
    device = ["bench_device.py", "--rank", "--store", str(store), "--out", "OUT"]
    device += [] if real else ["--simulated"]
    if small:
        models, limits = ("sasrec",), (100.0, 200.0, 150.0)
        device += ["--batch=32", "--steps-per-call=2", "--calls=2", "--rounds=1", "--users=256"]
        llm = ["--only=stories-15m", "--threads=2", "--rounds=1", "--repeats=1"]
        llm += ["--train=2x64", "--rows=4", "--new-tokens=8", "--no-flops"]
        parts = {"": "adapter:2x64,lora:2x64,generate:mixed4,generate:shared4"}
        adapter = ["--only=catalogue", "--threads=2", "--rounds=1", "--repeats=1"]
        adapter += ["--answers=64", "--steps=1", "--what=train:residual,read:residual"]
        original = ["--dim=64", "--layers=2", "--train=2x32", "--rows=2", "--new-tokens=4"]
        original += ["--threads=2", "--rounds=1", "--repeats=1"]
        plans = {"glm-tiny": ["--train=lora", "--batch=2", "--length=32"]}
    else:
        models, limits = ("sasrec", "bert4rec", "dreamrec"), (55.0, 75.0, 130.0)
        device += ["--users=4096"]  # a diffusion model ranks slowly
        llm = ["--device=gpu", "--repeats=3"]
        parts = {"adapter": "adapter:8x512", "lora": "lora:8x512",
                 "generation": "generate:mixed64", "questions": "generate:shared64"}  # fmt: skip
        adapter = ["--device=gpu", "--rounds=1", "--repeats=1", "--answers=128", "--steps=4"]
        original = ["--device=gpu"]
        large = ["--train=lora", "--batch=8", "--length=512", "--dtype=bfloat16"]
        plans = {"llama-3.2-1b": large, "glm-10b": [*large, "--remat=full"]}
    out = []
    for spec in models:
        command = [*device, "--models", spec]
        out.append(Stage(f"recommender {spec}", command, limits[0], recommender(spec, source)))
    for name, what in parts.items():
        command = ["bench_llm.py", *llm, *beside, "--what", what, "--out", "OUT"]
        out.append(Stage(f"llm {name}".strip(), command, limits[1], language_model))
    command = ["bench_interpreter.py", *adapter, *beside, "--out", "OUT"]
    out.append(Stage("interpreter", command, limits[2], interpreter))
    rating = ["--preset=llama-3.2-1b", "--dtype=bfloat16", "--items=256", "--batches=64"]
    users = ["--preset=llama-3.2-1b", "--dtype=bfloat16"]
    if small:
        rating = ["--preset=stories-110m", "--items=2", "--batches=2", "--repeats=1", "--brief"]
        users = ["--preset=stories-110m", "--batch=2", "--samples=2", "--repeats=1"]
    out.append(Stage("scores", ["bench_score.py", *rating, "--out", "OUT"], 90.0, scores))
    if root and (Path(root) / "ml-100k").is_dir():
        command = ["bench_policy.py", "--data", root, *users, "--out", "OUT"]
        out.append(Stage("policy", command, 200.0 if small else 60.0, policy))
    if not small or peers:  # a CPU's figures are those beside the original
        command = ["bench_glm.py", *original, *beside, "--out", "OUT"]
        out.append(Stage("glm", command, 60.0, glm))
    for preset, what in plans.items():
        command = ["bench_plan.py", "memory", "--preset", preset, *what, "--out", "OUT"]
        out.append(Stage(f"plan {preset}", command, 40.0, memory))
    command = ["bench_mesh.py", "--out", "OUT"]
    return [*out, Stage("meshes", command, 60.0, meshes)]


def main() -> None:
    args = parse()
    lacking = missing()
    if args.missing:
        print(*lacking, sep="\n", end="\n" if lacking else "")
        return
    if lacking:
        raise SystemExit(
            f"check_gpu.py: {sys.executable} lacks {', '.join(lacking)}; a folder with their "
            "wheels as WHEELS=folder provides them"
        )
    started = time.monotonic()
    if args.small:
        os.environ["JAX_PLATFORMS"] = "cpu"
    found: dict[str, Any] = machine()
    small = found["platform"] != "gpu"
    if small:  # compiled in a hurry
        os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
    absent = absent_peers(args.peers)
    note = f"{', '.join(absent)} not installed" if absent else ""
    print(f"{found['device']} ({found['platform']}); ", end="")
    print(", ".join(f"{name} {number}" for name, number in found["versions"].items()))
    if small:
        print("no GPU: small sizes on the CPU, which show that the stages run, and no more")
    if note:
        print(f"no peer's figures: {note}")
    figures: list[Figure] = []
    done: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        todo = stages(small, None if absent else args.peers, Path(folder) / "store")
        if args.only:
            names = args.only.split(",")
            todo = [stage for stage in todo if any(name in stage.name for name in names)]
            if not todo:
                raise SystemExit(f"check_gpu.py: --only {args.only}: no stage has such a name")
        for stage in todo:
            left = args.seconds - (time.monotonic() - started)
            begun = time.monotonic()
            if left < 5:
                result, why = None, f"no time left of {args.seconds:.0f} s"
            else:
                result, why = run_stage(stage, min(stage.limit, left), Path(folder))
            seconds = time.monotonic() - begun
            done[stage.name] = {"seconds": round(seconds, 1), "failed": why or None}
            print(f"{stage.name}: {seconds:.0f} s{': ' + why if why else ''}", file=sys.stderr)
            if result is None:
                figures.append(Figure(stage.name, None, "", note=f"no figure: {why}"))
                continue
            for row in stage.rows(result):
                if row.target == ("at least", FASTER) and row.peer is None:
                    row = dataclasses.replace(row, note=note or "the peer failed")
                if small:
                    row = dataclasses.replace(row, target=None)
                if row.name not in {other.name for other in figures}:
                    figures.append(row)
    show(figures)
    seconds = time.monotonic() - started
    print(f"{seconds:.0f} s in all")
    if args.out:
        out = {**found, "small": small, "seconds": round(seconds, 1), "stages": done}
        out["peers"] = note or "measured"
        out["figures"] = [
            {**dataclasses.asdict(row), "ratio": row.ratio, "met": row.met} for row in figures
        ]
        args.out.write_text(json.dumps(out, indent=2) + "\n")
    if all(row.value is None for row in figures):
        raise SystemExit("check_gpu.py: no stage gave a figure")


if __name__ == "__main__":
    main()
