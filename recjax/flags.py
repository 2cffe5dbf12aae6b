"""Flags of the `recjax` command: a function for each subcommand that is no system's."""

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import recjax
from recjax.arguments import Parser, add_mesh
from recjax.errors import InputError
from recjax.lazy import resolve
from recjax.paths import flag_path, flag_text
from recjax.prompting import add_generate_flags
from recjax.systems import COMMANDS

# (arguments, [(key, value)] of --config.KEY=VALUE) -> result
Run = Callable[[argparse.Namespace, list[tuple[str, str]]], dict[str, Any]]


class _Flags(NamedTuple):
    """The flags of a command; `config`: "required", "optional", "keys" (`--config.KEY` alone) or
    "none"."""

    help: str
    add: Callable[[argparse.ArgumentParser], None]
    config: str = "none"


def make_parser(runs: Mapping[str, Run]) -> argparse.ArgumentParser:
    """The parser of all commands; the parsed `run` is the command's function.

    Args:
        runs: functions of all commands, by name.
    """
    parser = Parser(prog="recjax", description="LLMs in sequential recommendation")
    parser.add_argument("--version", action="version", version=f"recjax {recjax.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (help, add_flags, config) in _all_flags().items():
        sub = commands.add_parser(name, help=help, description=help, keys=config != "none")
        sub.set_defaults(run=runs[name], takes_keys=config != "none")
        if config in ("required", "optional"):
            sub.add_argument(
                "--config", required=config == "required", type=flag_text, metavar="FILE[:ARG]",
                help="a Python file with get_config(arg); --config.KEY=VALUE sets a key",
            )  # fmt: skip
        sub.add_argument(
            "--json", action="store_true", help="print the result as one JSON line on stdout"
        )
        sub.add_argument("--debug", action="store_true", help="show tracebacks")
        add_flags(sub)
    return parser


def _all_flags() -> dict[str, _Flags]:
    """All flags by name, in the order of `recjax --help`."""
    systems = {name: resolve(place) for name, place in COMMANDS.items()}
    return {
        "prepare": _Flags("make a raw log ready for training", _prepare, "required"),
        "train": _Flags("train a model, or resume its training", _train, "optional"),
        "evaluate": _Flags("measure a trained model", _evaluate),
        "recommend": _Flags("list the best items for users or histories", _recommend),
        **{name: _Flags(own.help, own.add_flags) for name, own in systems.items()},
        "generate": _Flags("answer prompts with a language model", add_generate_flags),
        "convert": _Flags(
            "read or write the weights of language models and of PyTorch's SASRec",
            _convert, "optional",
        ),
        "plan": _Flags(
            "estimate the cost of a model on a mesh; allocate nothing", _plan, "optional"
        ),
        "report": _Flags("make one HTML page of a run", _report),
        "simulate": _Flags("write a simulated raw log", _simulate, "keys"),
    }  # fmt: skip


def _workdir(parser: argparse.ArgumentParser, help: str = "folder of the run") -> None:
    parser.add_argument("--workdir", required=True, type=flag_path, metavar="DIR", help=help)


def _overwrite(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier result")


def _step(parser: Any, help: str = "checkpoint; default: the best one") -> None:
    parser.add_argument("--step", type=int, metavar="N", help=help)


def _prepare(parser: argparse.ArgumentParser) -> None:
    _overwrite(parser)
    parser.add_argument(
        "--skip-bad-rows", type=int, metavar="N", help="tolerate up to N malformed rows"
    )


def _train(parser: argparse.ArgumentParser) -> None:
    _workdir(parser, "folder of the run; an existing run needs no --config")
    _overwrite(parser)
    parser.add_argument(
        "--distributed", action="store_true",
        help="this is one of several processes; Slurm, TPU pods and GKE say which one",
    )  # fmt: skip
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="elsewhere: where process 0 is")
    parser.add_argument("--processes", type=int, metavar="N", help="elsewhere: how many there are")
    parser.add_argument(
        "--process", type=int, metavar="K", help="elsewhere: which one this is, from 0"
    )


def _evaluate(parser: argparse.ArgumentParser) -> None:
    _workdir(parser)
    parser.add_argument(
        "--split", choices=("validation", "test"), default="test", help="part of the data (test)"
    )
    parser.add_argument(
        "--protocols", metavar="A,B", help="use these protocols (full, full_with_seen, uni100)"
    )
    _step(parser)
    parser.add_argument(
        "--against", type=flag_path, metavar="DIR",
        help="compare with another run of the same data, with intervals by a paired bootstrap",
    )  # fmt: skip
    parser.add_argument(
        "--per-user", type=flag_path, metavar="FILE",
        help="also write each user's rank and metrics to .csv, .jsonl or .parquet",
    )  # fmt: skip
    add_mesh(parser)


def _recommend(parser: argparse.ArgumentParser) -> None:
    _workdir(parser, "a recommender's run")
    parser.add_argument(
        "--users", type=flag_path, metavar="FILE",
        help="a file with one user per line; default: all users",
    )  # fmt: skip
    parser.add_argument(
        "--history", action="append", default=[], metavar="A,B",
        help="items, newest last, in place of a user; repeat the flag for more histories",
    )  # fmt: skip
    parser.add_argument(
        "--log", type=flag_path, metavar="PATH",
        help="a newer log: its users and their histories, read as the run's own log was",
    )  # fmt: skip
    parser.add_argument(
        "--skip-unknown", action="store_true",
        help="leave out and count unknown users and items; default: an error",
    )  # fmt: skip
    parser.add_argument("--k", type=int, default=10, metavar="N", help="items per list (10)")
    parser.add_argument(
        "--out", type=flag_path, metavar="FILE",
        help="a .csv, .jsonl or .parquet file; default: print a few lists",
    )  # fmt: skip
    parser.add_argument(
        "--among", type=flag_path, metavar="FILE",
        help="a file with one item per line: recommend only these",
    )  # fmt: skip
    parser.add_argument(
        "--with-seen", action="store_true", help="also recommend items of the history"
    )
    add_mesh(parser)
    _step(parser)
    _overwrite(parser)


def _convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--from", dest="source", type=flag_text, metavar="PATH",
        help="folder of a language model; with --workdir, a state dict that starts the run: "
        ".safetensors, .npz, or .pt where torch is installed",
    )  # fmt: skip
    parser.add_argument(
        "--to", dest="target", type=flag_path, metavar="PATH",
        help="a new folder for the language model; with --workdir, a file for the run's weights",
    )  # fmt: skip
    _overwrite(parser)
    models = parser.add_argument_group("language models")
    models.add_argument(
        "--form", metavar="NAME", help="form of --to: hf (default), recjax, flax, meta"
    )
    models.add_argument(
        "--dtype", metavar="NAME", help="float32, bfloat16 or float16; default: keep"
    )
    models.add_argument(
        "--adapter", type=flag_path, metavar="DIR",
        help="merge this LoRA adapter of peft into the weights",
    )  # fmt: skip
    models.add_argument(
        "--check", action="store_true", help="compare logits with transformers; needs torch"
    )
    runs = parser.add_argument_group("recommenders")
    runs.add_argument("--workdir", type=flag_path, metavar="DIR", help="folder of the run")
    runs.add_argument(
        "--variant", metavar="NAME",
        help="with --from: the version of the code that trained the state dict",
    )  # fmt: skip
    runs.add_argument("--heads", type=int, metavar="N", help="with --from: attention heads (1)")
    _step(runs, "with --to: checkpoint; default: the best one")


def _plan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", metavar="NAME", help="a published model's sizes, by its name")
    parser.add_argument(
        "--from", dest="source", type=flag_text, metavar="DIR", help="a folder with config.json"
    )
    parser.add_argument(
        "--mesh", default="1,1,1", metavar="D,F,T", help="devices on the axes data, fsdp and tensor"
    )
    # Of fine-tuning, --config tells these.
    parser.add_argument("--batch", type=int, metavar="N", help="rows per step (8)")
    parser.add_argument("--length", type=int, metavar="N", help="tokens per row (512)")
    parser.add_argument(
        "--train", metavar="NAME", help="adapter, lora (default), full; or none: a forward pass"
    )
    parser.add_argument("--rank", type=int, metavar="N", help="rank of LoRA (8)")
    parser.add_argument(
        "--dtype", metavar="NAME", help="type of parameters and activations (bfloat16)"
    )
    parser.add_argument("--remat", metavar="NAME", help="none (default), dots or full")
    parser.add_argument("--quant", metavar="NAME", help="of a frozen model: int8 or nf4")
    parser.add_argument(
        "--compiled", action="store_true",
        help="also compile a step for the mesh, simulated on this CPU: memory and collectives",
    )  # fmt: skip
    parser.add_argument(
        "--device", metavar="NAME", help="whether it fits: h100, v5p, ..., or a size as 24GB"
    )


def _report(parser: argparse.ArgumentParser) -> None:
    _workdir(parser)
    parser.add_argument(
        "--out", type=flag_path, metavar="FILE", help="default: WORKDIR/report.html"
    )


def _simulate(parser: argparse.ArgumentParser) -> None:
    _workdir(parser, "new folder for the log")
    _overwrite(parser)


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
