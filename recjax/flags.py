"""Flags of the `recjax` command."""

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import recjax
from recjax.arguments import Parser
from recjax.errors import InputError
from recjax.lazy import resolve
from recjax.paths import flag_path, flag_text
from recjax.prompting import add_generate_flags
from recjax.systems import COMMANDS

# (arguments, [(key, value)] of --config.KEY=VALUE) -> result
Run = Callable[[argparse.Namespace, list[tuple[str, str]]], dict[str, Any]]


def make_parser(runs: Mapping[str, Run]) -> argparse.ArgumentParser:
    """The parser of all commands; the parsed `run` is the command's function.

    Args:
        runs: functions of all commands, by name.
    """
    parser = Parser(prog="recjax", description="LLMs in sequential recommendation")
    parser.add_argument("--version", action="version", version=f"recjax {recjax.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, help: str, *, config: str) -> argparse.ArgumentParser:
        """`config`: "required", "optional", "keys" (`--config.KEY` alone) or "none"."""
        sub = commands.add_parser(name, help=help, description=help, keys=config != "none")
        sub.set_defaults(run=runs[name])
        if config in ("required", "optional"):
            sub.add_argument(
                "--config", required=config == "required", type=flag_text, metavar="FILE[:ARG]",
                help="a Python file with get_config(arg); --config.KEY=VALUE sets a key",
            )  # fmt: skip
        sub.add_argument(
            "--json", action="store_true", help="print the result as one JSON line on stdout"
        )
        sub.add_argument("--debug", action="store_true", help="show tracebacks")
        return sub

    overwrite: dict[str, Any] = {"action": "store_true", "help": "replace an earlier result"}
    sub = command("prepare", "make a raw log ready for training", config="required")
    sub.add_argument("--overwrite", **overwrite)
    sub.add_argument(
        "--skip-bad-rows", type=int, metavar="N", help="tolerate up to N malformed rows"
    )

    sub = command("train", "train a model, or resume its training", config="optional")
    sub.add_argument(
        "--workdir", required=True, type=flag_path, metavar="DIR",
        help="folder of the run; an existing run needs no --config",
    )  # fmt: skip
    sub.add_argument("--overwrite", **overwrite)
    sub.add_argument(
        "--distributed",
        action="store_true",
        help="this is one of several processes; Slurm, TPU pods and GKE say which one",
    )
    sub.add_argument("--coordinator", metavar="HOST:PORT", help="elsewhere: where process 0 is")
    sub.add_argument("--processes", type=int, metavar="N", help="elsewhere: how many there are")
    sub.add_argument(
        "--process", type=int, metavar="K", help="elsewhere: which one this is, from 0"
    )

    sub = command("evaluate", "measure a trained model", config="none")
    sub.add_argument(
        "--workdir", required=True, type=flag_path, metavar="DIR", help="folder of the run"
    )
    sub.add_argument(
        "--split",
        choices=("validation", "test"),
        default="test",
        help="part of the data (test)",
    )
    sub.add_argument(
        "--protocols", metavar="A,B", help="use these protocols (full, full_with_seen, uni100)"
    )
    sub.add_argument("--step", type=int, metavar="N", help="checkpoint; default: the best one")
    sub.add_argument(
        "--against", type=flag_path, metavar="DIR",
        help="compare with another run of the same data, with intervals by a paired bootstrap",
    )  # fmt: skip
    sub.add_argument(
        "--per-user", type=flag_path, metavar="FILE",
        help="also write each user's rank and metrics to .csv, .jsonl or .parquet",
    )  # fmt: skip

    sub = command("recommend", "list the best items for users or histories", config="none")
    sub.add_argument(
        "--workdir", required=True, type=flag_path, metavar="DIR", help="a recommender's run"
    )
    sub.add_argument(
        "--users",
        type=flag_path,
        metavar="FILE",
        help="a file with one user per line; default: all users",
    )
    sub.add_argument(
        "--history", action="append", default=[], metavar="A,B",
        help="items, newest last, in place of a user; repeat the flag for more histories",
    )  # fmt: skip
    sub.add_argument("--k", type=int, default=10, metavar="N", help="items per list (10)")
    sub.add_argument(
        "--out", type=flag_path, metavar="FILE",
        help="a .csv, .jsonl or .parquet file; default: print a few lists",
    )  # fmt: skip
    sub.add_argument(
        "--among",
        type=flag_path,
        metavar="FILE",
        help="a file with one item per line: recommend only these",
    )
    sub.add_argument("--with-seen", action="store_true", help="also recommend items of the history")
    sub.add_argument("--step", type=int, metavar="N", help="checkpoint; default: the best one")
    sub.add_argument("--overwrite", **overwrite)

    for name, place in COMMANDS.items():
        found = resolve(place)
        sub = command(name, found.help, config="none")
        found.add_flags(sub)

    sub = command("generate", "answer prompts with a language model", config="none")
    add_generate_flags(sub)

    sub = command(
        "convert", "read or write the weights of language models and of PyTorch's SASRec",
        config="optional",
    )  # fmt: skip
    sub.add_argument(
        "--from", dest="source", type=flag_text, metavar="PATH",
        help="folder of a language model; with --workdir, a state dict that starts the run: "
        ".safetensors, .npz, or .pt where torch is installed",
    )  # fmt: skip
    sub.add_argument(
        "--to", dest="target", type=flag_path, metavar="PATH",
        help="a new folder for the language model; with --workdir, a file for the run's weights",
    )  # fmt: skip
    sub.add_argument("--overwrite", **overwrite)
    group = sub.add_argument_group("language models")
    group.add_argument(
        "--form", metavar="NAME", help="form of --to: hf (default), recjax, flax, meta"
    )
    group.add_argument(
        "--dtype", metavar="NAME", help="float32, bfloat16 or float16; default: keep"
    )
    group.add_argument(
        "--adapter",
        type=flag_path,
        metavar="DIR",
        help="merge this LoRA adapter of peft into the weights",
    )
    group.add_argument(
        "--check", action="store_true", help="compare logits with transformers; needs torch"
    )
    group = sub.add_argument_group("recommenders")
    group.add_argument("--workdir", type=flag_path, metavar="DIR", help="folder of the run")
    group.add_argument(
        "--variant",
        metavar="NAME",
        help="with --from: the version of the code that trained the state dict",
    )
    group.add_argument("--heads", type=int, metavar="N", help="with --from: attention heads (1)")
    group.add_argument(
        "--step", type=int, metavar="N", help="with --to: checkpoint; default: the best one"
    )

    sub = command(
        "plan", "estimate the cost of a model on a mesh; allocate nothing",
        config="optional",
    )  # fmt: skip
    sub.add_argument("--preset", metavar="NAME", help="a published model's sizes, by its name")
    sub.add_argument(
        "--from", dest="source", type=flag_text, metavar="DIR", help="a folder with config.json"
    )
    sub.add_argument(
        "--mesh", default="1,1,1", metavar="D,F,T", help="devices on the axes data, fsdp and tensor"
    )
    # Of fine-tuning, --config tells these.
    sub.add_argument("--batch", type=int, metavar="N", help="rows per step (8)")
    sub.add_argument("--length", type=int, metavar="N", help="tokens per row (512)")
    sub.add_argument(
        "--train", metavar="NAME", help="adapter, lora (default), full; or none: a forward pass",
    )  # fmt: skip
    sub.add_argument("--rank", type=int, metavar="N", help="rank of LoRA (8)")
    sub.add_argument(
        "--dtype", metavar="NAME", help="type of parameters and activations (bfloat16)"
    )
    sub.add_argument("--remat", metavar="NAME", help="none (default), dots or full")
    sub.add_argument("--quant", metavar="NAME", help="of a frozen model: int8 or nf4")
    sub.add_argument(
        "--compiled", action="store_true",
        help="also compile a step for the mesh, simulated on this CPU: memory and collectives",
    )  # fmt: skip
    sub.add_argument(
        "--device", metavar="NAME", help="whether it fits: h100, v5p, ..., or a size as 24GB"
    )

    sub = command("report", "make one HTML page of a run", config="none")
    sub.add_argument(
        "--workdir", required=True, type=flag_path, metavar="DIR", help="folder of the run"
    )
    sub.add_argument("--out", type=flag_path, metavar="FILE", help="default: WORKDIR/report.html")

    sub = command("simulate", "write a simulated raw log", config="keys")
    sub.add_argument(
        "--workdir", required=True, type=flag_path, metavar="DIR", help="new folder for the log"
    )
    sub.add_argument("--overwrite", **overwrite)
    return parser


def read_overrides(unknown: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs (key, value) from `--config.key=value` and `--config.key value`."""
    out, rest = [], list(unknown)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--config."):
            raise InputError(f"unknown argument '{word}'; a value with blanks needs quotes")
        key, equals, value = word.removeprefix("--config.").partition("=")
        if not equals:
            if not rest:
                raise InputError(f"argument '{word}' has no value")
            value = rest.pop(0)
        if value.startswith("~/"):  # no shell replaces it behind "="
            value = os.path.expanduser(value)
        out.append((key, value))
    return out
