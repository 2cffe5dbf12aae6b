#!/usr/bin/env python
"""Host memory and time of loading a language model.

    python scripts/bench_load.py [--gb 4] [--dtype bfloat16] [--folder /big/disk]

Writes a synthetic LLaMA of Hugging Face's form in a temporary folder, once in bfloat16 and once in
float32, and loads each in a fresh process. Prints by how much the resident memory rose at its peak
(pages of mapped files count), beside the size of the parameters that were asked for.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from _bench import ROOT

from recjax.arguments import Parser
from recjax.convert.llama_hf import RULES, write_config
from recjax.convert.mapping import to_tensors
from recjax.convert.tensors import FLOATS, Tensor, write_folder
from recjax.errors import run_script
from recjax.models.definition import define
from recjax.models.llama import Config, Llama

LOAD = """
import json, sys, time
import jax
from recjax.convert.language_model import read_language_model

def status(key):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

jax.block_until_ready(jax.numpy.ones(8) + 1)
open("/proc/self/clear_refs", "w").write("5")  # the peak starts here
before, start = status("VmRSS"), time.perf_counter()
params = jax.block_until_ready(read_language_model(sys.argv[1], dtype=sys.argv[2]).params)
out = {"seconds": time.perf_counter() - start, "peak": status("VmHWM") - before}
print(json.dumps(out | {"size": sum(a.nbytes for a in params.values())}))
"""


def parse() -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--gb", type=float, default=4.0, help="size of each checkpoint")
    parser.add_argument("--dtype", default="bfloat16", help="of the parameters")
    parser.add_argument("--folder", help="where to write; default: the system's temporary folder")
    return parser.parse_args()


def sized(size: float) -> Config:
    """A model of about so many parameters: LLaMA's proportions, wide enough for large tensors."""
    shape = {"vocab_size": 32000, "dim": 2048, "mlp_dim": 5504, "heads": 16, "head_dim": 128}
    layer = 4 * 2048**2 + 3 * 2048 * 5504
    layers = max(1, round((size - 2 * 32000 * 2048) / layer))
    return Config(**shape, kv_heads=16, layers=layers)


def write(folder: Path, config: Config, dtype: np.dtype) -> int:
    """Writes the checkpoint; its size in bytes."""
    block = np.random.default_rng(0).standard_normal(1 << 20, np.float32).astype(dtype)
    shapes = define(lambda rngs: Llama(config, rngs=rngs)).shapes
    # Shapes alone are enough to name the tensors; their numbers are made when they are written.
    state = {
        key: Tensor(t.shape, dtype, key, lambda index, s=t.shape: np.resize(block, s)[index])
        for key, t in to_tensors(RULES, shapes).items()
    }
    write_folder(folder, state, shard_bytes=10**9)
    (folder / "config.json").write_text(json.dumps(write_config(config, dtype.name)))
    return sum(math.prod(t.shape) * dtype.itemsize for t in state.values())


def main() -> None:
    args = parse()
    for name in ("BF16", "F32"):
        dtype = FLOATS[name]
        with tempfile.TemporaryDirectory(dir=args.folder) as place:
            start = time.perf_counter()
            size = write(Path(place), sized(args.gb * 1e9 / dtype.itemsize), dtype)
            print(f"{dtype.name}: wrote {size / 1e9:.2f} GB in {time.perf_counter() - start:.1f} s")
            done = subprocess.run(
                [sys.executable, "-c", LOAD, place, args.dtype],
                capture_output=True, text=True, cwd=ROOT,
            )  # fmt: skip
        if done.returncode:
            sys.exit(done.stderr)
        found = json.loads(done.stdout)
        print(
            f"  loaded as {args.dtype}: {found['size'] / 1e9:.2f} GB in {found['seconds']:.1f} s; "
            f"memory rose by {found['peak'] / 1e9:.2f} GB, {found['peak'] / found['size']:.3f} "
            "times that size"
        )


if __name__ == "__main__":
    run_script(main)
