"""Small runs in processes of their own, for the scripts that stop and start them.

SASRec; an adapter of it into a random LLaMA; LoRA on a random GLM, merged and written at the end.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from _bench import ROOT  # recjax needs no installation

DEVICES = 4
NAMES = ("sasrec", "adapter", "glm")
DATA = {"source": "simulated", "options": {"users": 120, "mean_length": 10.0, "max_length": 30}}
TRAIN = {"batch_size": 16, "mesh": (2, 2, 1)}


def write_models(folder: Path, store: Any) -> None:
    """A tokenizer of GLM's kind, and a random LLaMA and GLM with it: `llama`, `glm`."""
    from flax import nnx

    from recjax.convert.language_model import language_model
    from recjax.convert.writing import write_language_model
    from recjax.models import glm, llama
    from recjax.models.definition import params_of
    from recjax.recsysllm.spans import COMMANDS, Marks
    from recjax.text.bpe import train_bpe
    from recjax.text.prompts import WORDS, question
    from recjax.text.tasks import RECOVERY, RESIDUAL
    from recjax.text.textualize import item_titles

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
    """The config of each run; the adapter reads SASRec's run in one process."""
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


def prepare_runs(
    folder: Path, names: list[str], train: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Path]:
    """What runs read: the data, the models, SASRec's run `sasrec-1`; in a new folder.

    Args:
        folder: an absolute path.
        names: of the runs.
        train: changes of the section `train`, by run.

    Returns:
        The runs' config files.
    """
    if unknown := set(names) - set(NAMES):
        raise SystemExit(f"runs {sorted(unknown)}: expected some of {', '.join(NAMES)}")
    if folder.exists():
        raise SystemExit(f"{folder}: is there already; expected a new folder")
    folder.mkdir(parents=True)
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = _flags(DEVICES)
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "compiled"))
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"  # a start costs little
    from recjax.config import build
    from recjax.data.prepare import DataConfig, prepare

    store = prepare(build(DataConfig, {**DATA, "store": str(folder / "store")}, "data"))
    if names != ["sasrec"]:
        write_models(folder, store)
    out: dict[str, Path] = {}
    for name, section in sections(folder).items():
        section["train"] |= (train or {}).get(name, {})
        out[name] = folder / f"{name}.py"
        out[name].write_text(
            "from ml_collections import ConfigDict\n"
            f"def get_config(arg=None):\n    return ConfigDict({section!r})\n"
        )
    if "adapter" in names:
        end(start(out["sasrec"], folder / "sasrec-1", 1), folder / "sasrec-1")
    return {name: out[name] for name in names}


def _flags(devices: int) -> str:
    """`XLA_FLAGS` as they are, with so many devices: of two the last counts."""
    given = os.environ.get("XLA_FLAGS", "")
    return f"{given} --xla_force_host_platform_device_count={devices}".strip()


def start(config: Path, workdir: Path, processes: int) -> list[subprocess.Popen]:
    """The processes of a run, on `DEVICES` devices together; `told` has what they say."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    env = {
        **os.environ,
        "XLA_FLAGS": _flags(DEVICES // processes),
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": paths,
    }
    out = []
    for index in range(processes):
        command = [sys.executable, "-m", "recjax", "train", f"--config={config}"]
        command += [f"--workdir={workdir}", "--json"]
        if processes > 1:
            command += ["--distributed", f"--coordinator=localhost:{port}"]
            command += [f"--processes={processes}", f"--process={index}"]
        with _log(workdir, index).open("w") as log:
            out.append(subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=log))
    return out


def _log(workdir: Path, index: int) -> Path:
    return workdir.parent / f"{workdir.name}-process{index}.log"


def told(workdir: Path, index: int) -> str:
    """All that a process of the newest start has said."""
    return _log(workdir, index).read_text(errors="replace").strip()


def end(processes: list[subprocess.Popen], workdir: Path) -> None:
    """Until all have left; an error where one fails."""
    codes = [process.wait(timeout=3600) for process in processes]
    if any(codes):
        last = [told(workdir, k).splitlines()[-1:] for k in range(len(codes))]
        raise SystemExit(f"{workdir.name}: left {codes}: {last}")


def newest(workdir: Path) -> int:
    """The newest step whose checksums are written: what the run may count on; 0 = none."""
    signed = (p.parent.name for p in workdir.glob("checkpoints/[0-9]*/checksums.json"))
    return max((int(name) for name in signed if name.isdigit()), default=0)


def read(workdir: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The lines of a run's metrics, without those of the clock, and its newest parameters."""
    from recjax.training.metrics import read_metrics
    from recjax.training.workdir import open_run

    lines = [
        {k: v for k, v in line.items() if not k.endswith("_per_second") and k != "input_wait"}
        for line in read_metrics(workdir / "metrics.jsonl")
    ]
    run = open_run(workdir)
    params = {k: np.asarray(v) for k, v in run.restore(run.latest_step()).items()}
    if (workdir / "hf").is_dir():
        from recjax.convert.language_model import read_language_model

        merged = read_language_model(workdir / "hf").params
        params |= {f"hf/{k}": np.asarray(v) for k, v in merged.items()}
    return lines, params


def differences(found: tuple, expected: tuple) -> dict[str, float]:
    """Of two runs that were `read`: the largest relative one of losses, and the largest absolute
    ones of final metrics and of parameters."""
    losses, other = (
        np.array([x["loss"] for x in run[0] if "loss" in x]) for run in (found, expected)
    )
    last, final = found[0][-1], expected[0][-1]
    if len(losses) != len(other) or last.keys() != final.keys():
        raise SystemExit(f"{len(losses)} losses, expected {len(other)}; or other metrics")
    numbers = [k for k, v in final.items() if isinstance(v, float)]
    return {
        "losses": float(np.max(np.abs(losses / other - 1))),
        "metrics": max(abs(last[k] - final[k]) for k in numbers),
        "parameters": max(float(np.abs(found[1][k] - v).max()) for k, v in expected[1].items()),
    }  # fmt: skip


def equal(found: tuple, expected: tuple) -> bool:
    """Whether two runs that were `read` have equal metrics, and parameters equal to the bit."""
    (lines, params), (others, old) = found, expected
    same = params.keys() == old.keys() and all(
        params[k].dtype == v.dtype and params[k].tobytes() == v.tobytes() for k, v in old.items()
    )
    return same and json.dumps(lines) == json.dumps(others)
