#!/usr/bin/env python
"""Whether several processes train as one does, on this machine's CPU.

    python scripts/check_processes.py --folder NEW [--only sasrec,adapter,glm] [--ways 2,4,4-1-2]

Three small runs: SASRec; an adapter of it into a random LLaMA; LoRA on a random GLM, merged and
written at the end. Each trains on a mesh of 2 x 2 x 1: as one process with four devices, as two
with two each, and as four. Then it begins as four, goes on as one, and ends as two, each stopped by
SIGTERM of one process after its next checkpoint. Every way's losses, test metrics and final
parameters stand beside those of the one process: the largest relative difference of the losses, the
largest absolute ones of the others (the gradient of SASRec's biases of keys is zero, and Adam makes
steps of its rounding errors). Exit status 1 where one of losses or parameters is above 1e-3.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from _bench import ROOT  # recjax needs no installation

MOST = 1e-3
DEVICES = 4
DATA = {"source": "simulated", "options": {"users": 120, "mean_length": 10.0, "max_length": 30}}
TRAIN = {"batch_size": 16, "mesh": (2, 2, 1)}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="new folder for the runs")
    parser.add_argument("--only", default="sasrec,adapter,glm", help="cases, with commas")
    parser.add_argument("--ways", default="2,4,4-1-2", help="numbers of processes, with commas")
    parser.add_argument("--out", type=Path, help="appends a JSON line a row, as it comes")
    return parser.parse_args()


def write_models(folder: Path, store: Any) -> None:
    """A tokenizer of GLM's kind, and a random LLaMA and GLM with it: `llama`, `glm`."""
    from flax import nnx

    from recjax.convert.language_model import language_model, write_language_model
    from recjax.models import glm, llama
    from recjax.models.definition import params_of
    from recjax.recsysllm.spans import COMMANDS, Marks
    from recjax.text.prompts import WORDS, question
    from recjax.text.tasks import RECOVERY, RESIDUAL
    from recjax.text.textualize import item_titles
    from recjax.text.tokenizers import train_bpe

    texts = [question(p, WORDS["book"]) for p in RESIDUAL.prompts + RECOVERY.prompts]
    texts += [f" {title}" for title in item_titles(store.catalog, WORDS["book"])]
    tokenizer = train_bpe(texts * 2, 500).with_controls(COMMANDS)
    marks = Marks.of(tokenizer)
    sizes: dict[str, Any] = {
        "vocab_size": -(-tokenizer.size // 8) * 8, "dim": 32, "layers": 2, "heads": 4,
        "kv_heads": 4, "head_dim": 8, "max_length": 192, "init_std": 0.2,
    }  # fmt: skip
    wide = {"mlp_dim": 128, "tied": True}
    blanks = (marks.mask, marks.document, marks.sentence)
    models: dict[str, tuple[Any, Any]] = {
        "llama": (llama.Config(**sizes, mlp_dim=48), llama.Llama),
        "glm": (glm.Config(**sizes, **wide, start_id=marks.sop, blank_ids=blanks), glm.GLM),
    }
    for name, (config, kind) in models.items():
        params = params_of(kind(config, rngs=nnx.Rngs(0)))
        write_language_model(folder / name, language_model(config, params))
        tokenizer.save(folder / name)


def sections(folder: Path) -> dict[str, dict[str, Any]]:
    """The config of each case."""
    data = {**DATA, "store": str(folder / "store")}
    optim = {"learning_rate": 5e-3}
    return {
        "sasrec": {
            "data": data, "optim": optim, "objective": {"name": "softmax"},
            "split": {"name": "chronological_sequences"},
            "model": {"name": "sasrec", "dim": 16, "max_length": 20, "dropout": 0.0},
            "train": {**TRAIN, "epochs": 6.0, "steps_per_call": 2},
        },
        "adapter": {
            "system": "interpreter", "recommender": str(folder / "sasrec-1"),
            "llm": str(folder / "llama"), "optim": optim, "adapter": {"soft": 1},
            "ask": {"domain": "book", "window": 5, "residual_tokens": 8},
            "train": {**TRAIN, "epochs": 0.3, "evaluate_every": 0.05},
            "evaluation": {"max_examples": 8},
        },
        "glm": {
            "system": "recsysllm", "data": data, "split": {"name": "leave_one_out"},
            "llm": str(folder / "glm"), "method": "lora", "merge": True, "optim": optim,
            "text": {"source": "catalogue", "domain": "book", "items": 1.0, "histories": 1.0},
            "blanks": {"token": 0.5, "sentence": 0.3, "document": 0.2},
            "train": {**TRAIN, "epochs": 1.0, "evaluate_every": 0.2, "steps_per_call": 1},
            "evaluation": {"max_examples": 32},
        },
    }  # fmt: skip


def start(config: Path, workdir: Path, processes: int) -> list[subprocess.Popen]:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    flags = f"--xla_force_host_platform_device_count={DEVICES // processes}"
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": paths}
    out = []
    for index in range(processes):
        command = [sys.executable, "-m", "recjax.cli", "train", f"--config={config}"]
        command += [f"--workdir={workdir}", "--json"]
        if processes > 1:
            command += ["--distributed", f"--coordinator=localhost:{port}"]
            command += [f"--processes={processes}", f"--process={index}"]
        log = (workdir.parent / f"{workdir.name}-{index}.log").open("a")
        out.append(subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=log))
    return out


def end(processes: list[subprocess.Popen], workdir: Path) -> None:
    """Until all have left; an error where one fails."""
    codes = [process.wait(timeout=3600) for process in processes]
    if any(codes):
        logs = [workdir.parent / f"{workdir.name}-{k}.log" for k in range(len(codes))]
        last = [log.read_text().strip().splitlines()[-1:] for log in logs]
        raise SystemExit(f"check_processes.py: {workdir.name}: left {codes}: {last}")


def newest(workdir: Path) -> int:
    signed = (p.parent.name for p in workdir.glob("checkpoints/[0-9]*/checksums.json"))
    return max((int(name) for name in signed if name.isdigit()), default=0)


def chain(config: Path, workdir: Path, counts: tuple[int, ...]) -> list[int]:
    """The run, which other numbers of processes go on with; the steps at which they stopped."""
    stops = []
    for count in counts[:-1]:
        before, going = newest(workdir), start(config, workdir, count)
        while newest(workdir) <= before and all(p.poll() is None for p in going):
            time.sleep(0.02)
        going[-1].send_signal(signal.SIGTERM)
        end(going, workdir)
        stops.append(newest(workdir))
    end(start(config, workdir, counts[-1]), workdir)
    return stops


def read(workdir: Path) -> tuple[list[float], dict[str, float], dict[str, Any]]:
    """Losses, the final metrics, and the final parameters."""
    from recjax.training.metrics import read_metrics
    from recjax.training.workdir import open_run

    lines = read_metrics(workdir / "metrics.jsonl")
    run = open_run(workdir)
    params = {k: np.asarray(v) for k, v in run.restore(run.latest_step()).items()}
    if (workdir / "hf").is_dir():
        from recjax.convert.language_model import read_language_model

        merged = read_language_model(workdir / "hf").params
        params |= {f"hf/{k}": np.asarray(v) for k, v in merged.items()}
    numbers = {k: v for k, v in lines[-1].items() if isinstance(v, float)}
    return [line["loss"] for line in lines if "loss" in line], numbers, params


def differences(found: tuple, expected: tuple) -> dict[str, float]:
    losses, other = np.array(found[0]), np.array(expected[0])
    if len(losses) != len(other) or found[1].keys() != expected[1].keys():
        raise SystemExit(f"check_processes.py: {len(losses)} losses, expected {len(other)}")
    return {
        "losses": float(np.max(np.abs(losses / other - 1))),
        "metrics": max(abs(found[1][k] - v) for k, v in expected[1].items()),
        "parameters": max(float(np.abs(found[2][k] - v).max()) for k, v in expected[2].items()),
    }  # fmt: skip


def main() -> int:
    args = parse()
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={DEVICES}"
    args.folder = args.folder.absolute()
    args.folder.mkdir(parents=True)
    from recjax.config import build
    from recjax.data.prepare import DataConfig, prepare

    store = prepare(build(DataConfig, {**DATA, "store": str(args.folder / "store")}, "data"))
    write_models(args.folder, store)
    wanted, worst = args.only.split(","), 0.0
    ways = [tuple(map(int, way.split("-"))) for way in args.ways.split(",")]
    for name, section in sections(args.folder).items():
        if name not in wanted and not (name == "sasrec" and "adapter" in wanted):
            continue
        config = args.folder / f"{name}.py"
        config.write_text(
            "from ml_collections import ConfigDict\n"
            f"def get_config(arg=None):\n    return ConfigDict({section!r})\n"
        )
        began, one = time.monotonic(), args.folder / f"{name}-1"
        end(start(config, one, 1), one)
        expected = read(one)
        for way in ways if name in wanted else ():
            workdir = args.folder / f"{name}-{'-'.join(map(str, (0, *way)))}"
            stops = chain(config, workdir, way)
            row = {"case": name, "processes": way, "stopped_at": stops, "losses": len(expected[0])}
            found = differences(read(workdir), expected)
            row |= {"differences": found, "seconds": round(time.monotonic() - began, 1)}
            worst = max(worst, found["losses"], found["parameters"])
            print(json.dumps(row), flush=True)
            if args.out:
                with args.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
    return int(worst > MOST)


if __name__ == "__main__":
    sys.exit(main())
