#!/usr/bin/env python
"""Training on this machine's one device against meshes of eight simulated ones.

    python scripts/bench_mesh.py [--steps 4] [--out FILE]

A small LLaMA (all parameters) and a small GLM (LoRA) train some steps in float32 from the same
weights on the same tokens: here on a mesh of 1x1x1 by the kernels of this device, and in another
process on meshes 2x2x2 and 1x8x1 of eight simulated CPU devices. Each row is the largest relative
difference of losses and gradient norms: it should be at most 1e-4.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from typing import Any

from _bench import ROOT  # recjax needs no installation

from recjax.arguments import Parser, positive
from recjax.errors import run_script
from recjax.paths import flag_file

MESHES = ("2,2,2", "1,8,1")
CASES = (("llama", "full"), ("glm-tiny", "lora"))


def parse() -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=positive, default=4)
    parser.add_argument("--simulated", action="store_true", help="the other process's part")
    parser.add_argument("--out", type=flag_file, help="also write the figures as JSON")
    return parser.parse_args()


def train(name: str, kind: str, mesh: str, steps: int) -> list[list[float]]:
    """Losses and gradient norms of some steps."""
    import jax
    import numpy as np
    from flax import nnx

    from recjax.models.definition import params_of
    from recjax.models.language import family_for
    from recjax.models.llama import Config
    from recjax.nn.lora import LoRAConfig, add_lora
    from recjax.training.parallel import make_mesh, param_shardings, shard_batch
    from recjax.training.plan import find_config, mesh_sizes
    from recjax.training.planned_step import planned_step
    from recjax.training.state import state_of

    small = Config(vocab_size=512, dim=128, mlp_dim=256, layers=2, heads=8, kv_heads=8, head_dim=16)
    config = small if name == "llama" else dataclasses.replace(find_config(name), vocab_size=512)
    family, devices = family_for(config), make_mesh(mesh_sizes(mesh))
    step = planned_step(config, batch=8, length=64, train=kind)
    call, _ = step.lowerable(devices)

    @jax.jit
    def build() -> Any:
        model = family.build(config, rngs=nnx.Rngs(0), dtype=np.float32)
        adapters = LoRAConfig(8, targets=family.lora_targets)
        return params_of(add_lora(model, adapters, nnx.Rngs(1)) if kind == "lora" else model)

    params = build()
    trained = {path: params[path] for path in step.trained}
    frozen = {path: params[path] for path in step.frozen}
    frozen = jax.device_put(frozen, param_shardings(frozen, step.axes, devices))
    state = state_of(trained, step.optimizer, step.axes, devices)
    rng, out = np.random.default_rng(0), []
    states = np.zeros((1, *step.inputs[1].shape), np.float32)
    for _ in range(steps):
        tokens = rng.integers(1, 512, (1, 8, 64)).astype(np.int32)
        batch = shard_batch({"tokens": tokens, "states": states}, devices, 1)
        placed = (batch["tokens"], batch["states"])
        state, metrics = call(state, placed, frozen, jax.random.key(0))
        out.append([float(metrics["loss"][0]), float(metrics["grad_norm"][0])])
    return out


def simulated(steps: int) -> subprocess.Popen:
    """The other process, which prints its numbers as JSON."""
    env = {
        **os.environ, "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    }  # fmt: skip
    command = [sys.executable, __file__, "--simulated", f"--steps={steps}"]
    return subprocess.Popen(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def main() -> None:
    args = parse()
    if args.simulated:
        out = {f"{n} {k} {m}": train(n, k, m, args.steps) for n, k in CASES for m in MESHES}
        print(json.dumps(out))
        return
    other = simulated(args.steps)
    import jax
    import numpy as np

    jax.config.update("jax_default_matmul_precision", "highest")
    here = {f"{n} {k}": train(n, k, "1,1,1", args.steps) for n, k in CASES}
    said, _ = other.communicate()
    if other.returncode:
        raise SystemExit("bench_mesh.py: the simulated meshes failed")
    rows = []
    for name, numbers in json.loads(said.splitlines()[-1]).items():
        own = np.array(here[name.rpartition(" ")[0]])
        gap = float(np.max(np.abs(np.array(numbers) / own - 1)))
        rows.append({"name": name, "difference": gap, "losses": own[:, 0].tolist()})
        print(f"{name}: losses and gradient norms differ by {gap:.1e} at most")
    if args.out:
        device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
        args.out.write_text(json.dumps({"device": device, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    run_script(main)
