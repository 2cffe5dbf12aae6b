"""`recjax interpret`: its flags, and the study they ask for.

Functions import JAX themselves: every command's parser reads the flags.
"""

import argparse
from collections.abc import Callable
from typing import Any

from recjax.errors import InputError, printable
from recjax.paths import flag_path, flag_text, names
from recjax.systems import Command

# Flags that --hidden does not read.
_OF_A_STUDY = (
    "split", "decoding", "controls", "oracle", "judge", "judge_model", "judge_key", "versus",
)  # fmt: skip


def add_interpret_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own flags."""
    add = parser.add_argument
    add("--workdir", required=True, type=flag_path, metavar="DIR", help="an interpreter's run")
    add(
        "--hidden", type=flag_text, metavar="FILE",
        help="answer for states in this .npz: before and after, or hidden",
    )  # fmt: skip
    add("--split", choices=("validation", "test"), help="part of the data (test)")
    add("--decoding", metavar="A,B", help="any of greedy, beam, constrained")
    add("--controls", action="store_true", help="also measure states that carry no information")
    add(
        "--oracle", action="store_true",
        help="also name the oracle items of a generative recommender (DreamRec)",
    )  # fmt: skip
    add(
        "--judge", type=flag_text, metavar="MODEL",
        help="ask this language model (a folder or an endpoint's URL) which of three "
        "recommendations a user prefers",
    )  # fmt: skip
    add("--judge-model", metavar="NAME", help="with a URL: the name of the model")
    add(
        "--judge-key", metavar="VARIABLE",
        help="with a URL: the environment variable that holds the key",
    )  # fmt: skip
    add(
        "--versus", type=flag_text, metavar="DIR",
        help="with --judge: the workdir of another recommender of the same data",
    )  # fmt: skip
    add("--step", type=int, metavar="N", help="checkpoint; default: the best one")


def interpret(args: argparse.Namespace, say: Callable[..., Any]) -> dict[str, Any]:
    """Answers about states in a file, or the figures of a study.

    Raises:
        InputError: a flag that nothing would read, beside those that are given.
    """
    from recjax.interpreter.study import StudyConfig
    from recjax.interpreter.workdirs import examine, read_hidden, recommender_of
    from recjax.training.metrics import format_table

    _check(args)
    if args.hidden is not None:
        answers = read_hidden(args.workdir, args.hidden, args.step)
        say(*(printable(next(iter(answer.values()))) for answer in answers))
        return {"answers": answers}
    decodings: Any = ("greedy",) if args.decoding is None else names(args.decoding) or ("",)
    metrics = examine(
        args.workdir,
        StudyConfig(
            split=args.split or "test",
            decodings=decodings,
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


COMMAND = Command("say in words what a recommender's states hold", add_interpret_flags, interpret)


def _check(args: argparse.Namespace) -> None:
    """Raises `InputError` for flags that do not go together."""
    study = [name for name in _OF_A_STUDY if getattr(args, name) not in (None, False)]
    if args.hidden is not None and study:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in study)
        raise InputError(f"--hidden goes without {flags}")
    if (args.judge is None) != (args.versus is None):
        raise InputError("--judge and --versus go together")
    url = _is_url(args.judge)
    if url and not args.judge_model:
        raise InputError("--judge URL needs --judge-model NAME")
    if not url and (args.judge_model, args.judge_key) != (None, None):
        raise InputError("--judge-model and --judge-key go with --judge URL")


def _is_url(judge: str | None) -> bool:
    return judge is not None and "://" in judge


def _judge(args: argparse.Namespace) -> Any:
    if args.judge is None:
        return None
    if _is_url(args.judge):
        from recjax.interpreter.judge import EndpointJudge
        from recjax.scoring.endpoint import Endpoint

        key = args.judge_key or ""
        return EndpointJudge(Endpoint(args.judge, args.judge_model, api_key_env=key))
    from recjax.interpreter.judge import LikelihoodJudge
    from recjax.llm_folders import load_llm
    from recjax.training.parallel import mesh_here

    return LikelihoodJudge(load_llm(args.judge, mesh=mesh_here("1,-1,1")))
