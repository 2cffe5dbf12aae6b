"""The command `recjax plan`: a language model's step by counting, another run's by compiling."""

import argparse
import math
from collections.abc import Callable
from typing import Any

from recjax.errors import InputError
from recjax.training.compiled import use_devices
from recjax.training.devices import Device, find_device
from recjax.training.parallel import mesh_sizes
from recjax.training.plan import find_config, make_plan, planned
from recjax.training.run_plan import plan_run
from recjax.training.system import load_system


def plan(args: argparse.Namespace, run: Any, say: Callable[..., None]) -> dict[str, Any]:
    """Runs the command.

    Args:
        args: its flags.
        run: a run's config; None for a preset or a folder.
        say: prints lines.
    """
    device = None if args.device is None else find_device(args.device)
    sizes = mesh_sizes(args.mesh, rest=False)
    own = run is not None and load_system(run.system).plan is None  # its own step is compiled
    if args.compiled or own:
        use_devices(math.prod(sizes))
    names = ("batch", "length", "train", "dtype", "rank", "quant")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if own:
        for name in (n for n in (*given, "remat") if getattr(args, n) is not None):
            raise InputError(
                f"--{name}: of presets, finetune and recsysllm; expected --config.KEY=VALUE"
            )
        return _fitting(plan_run(run, sizes), device, say)
    if run is None:
        options = {"config": find_config(args.preset, args.source, remat=args.remat)}
    else:
        options = planned(run, args.mesh, remat=args.remat)
    if "lora" in options and "rank" in given:
        raise InputError("--rank: expected --config.lora.rank=N")
    if "rank" in given and given.get("train", options.get("train", "lora")) != "lora":
        raise InputError("--rank: of adapters; expected --train=lora")
    defaults = {"batch": 8, "length": 512, "train": "lora", "dtype": "bfloat16"}
    options = {**defaults, **options, **given}
    counted = make_plan(mesh=args.mesh, compiled=args.compiled, **options)
    if options["length"] > options["config"].max_length:
        say(
            f"rows of {options['length']:,}; the model was trained on "
            f"{options['config'].max_length:,}"
        )
    return _fitting(counted, device, say)


def _fitting(plan: Any, device: Device | None, say: Callable[..., None]) -> dict[str, Any]:
    """Says what a plan takes, and whether a device has it."""
    result = plan.as_dict()
    say(plan.table(device))
    if device is not None:
        needed, memory = result["total_bytes"] / 1e9, device.memory / 1e9
        result["fits"] = needed <= memory
        verdict = "fits" if result["fits"] else "does NOT fit"
        say(f"{verdict} {device.name}: {needed:.1f} GB of {memory:.1f} GB on each device")
    return result
