"""`recjax interpret`: its flags, and what they ask for.

What is heavy is imported when it runs: the flags are part of every command's parser.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recjax.errors import InputError


def add_interpret_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own flags."""
    parser.add_argument(
        "--workdir", required=True, type=Path, metavar="DIR", help="of an interpreter"
    )
    parser.add_argument(
        "--hidden", metavar="FILE", help=".npz with before and after, or hidden: answers to those"
    )
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument(
        "--decoding", default="greedy", metavar="A,B", help="greedy, beam, constrained"
    )
    parser.add_argument("--controls", action="store_true", help="states that say nothing, too")
    parser.add_argument("--oracle", action="store_true", help="DreamRec's oracle items, too")
    parser.add_argument(
        "--judge", metavar="WHAT", help="a language model's folder, or an endpoint's URL: which of "
        "three recommendations a user prefers",
    )  # fmt: skip
    parser.add_argument("--judge-model", metavar="NAME", help="with a URL: the model's name there")
    parser.add_argument(
        "--judge-key", default="", metavar="VARIABLE", help="with a URL: what holds the key"
    )
    parser.add_argument(
        "--versus", metavar="DIR", help="with --judge: another recommender's workdir"
    )
    parser.add_argument("--step", type=int, metavar="N", help="checkpoint; default: the best one")


def interpret(args: argparse.Namespace, say: Callable[..., Any]) -> dict[str, Any]:
    """Answers about states in a file, or the figures of a study.

    Args:
        args: of the flags.
        say: gets lines for people.
    """
    from recjax.interpreter.study import StudyConfig
    from recjax.interpreter.workdirs import examine, read_hidden, recommender_of
    from recjax.training.metrics import format_table

    if args.hidden:
        answers = read_hidden(args.workdir, args.hidden)
        say(*(next(iter(answer.values())) for answer in answers))
        return {"answers": answers}
    if (args.judge is None) != (args.versus is None):
        raise InputError("--judge and --versus go together")
    metrics = examine(
        args.workdir,
        StudyConfig(
            split=args.split,
            decodings=tuple(args.decoding.split(",")),
            controls=args.controls,
            oracle=args.oracle or args.judge is not None,
            judge=_judge(args),
            versus=recommender_of(args.versus, args.workdir) if args.versus else None,
        ),
        args.step,
        say,
    )
    say(format_table(metrics), f"{args.workdir / 'results.json'}: `recjax report` shows it")
    return metrics


def _judge(args: argparse.Namespace) -> Any:
    if args.judge is None:
        return None
    if "://" in args.judge:
        from recjax.interpreter.endpoint import EndpointJudge

        if not args.judge_model:
            raise InputError("--judge URL needs --judge-model NAME")
        return EndpointJudge(args.judge, args.judge_model, api_key_env=args.judge_key)
    from recjax.interpreter.judge import LikelihoodJudge
    from recjax.llm import load_llm

    return LikelihoodJudge(load_llm(args.judge))
