"""`recjax explain`: why items are recommended, and what a changed taste would be recommended.

Functions import JAX themselves: every command's parser reads the flags.
"""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np

from recjax.errors import InputError, printable
from recjax.paths import flag_path
from recjax.systems import Command


def add_explain_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own flags."""
    add = parser.add_argument
    add("--workdir", required=True, type=flag_path, metavar="DIR", help="a guided or fused run")
    add("--user", metavar="KEY", help="a user of the data")
    add("--history", metavar="A,B", help="items, newest last, in place of a user")
    add("--item", action="append", default=[], metavar="KEY", help="explain this item; repeatable")
    add("--k", type=int, default=5, metavar="N", help="items, unless --item names them (5)")
    add(
        "--change", metavar="TEXT",
        help="a changed taste: 'more tension, less pace', or by the aspects' ends: 'shorter'",
    )  # fmt: skip


def explain_command(args: argparse.Namespace, say: Callable[..., Any]) -> dict[str, Any]:
    """Explains, and writes the sections of the run's report."""
    from recjax.guided.explain import aspects_of, check_refined, explain, read_change
    from recjax.recommend import split_keys
    from recjax.report.sections import write_results
    from recjax.training.workdir import open_run

    if (args.user is None) == (args.history is None):
        raise InputError("explain needs one of --user KEY and --history A,B")
    run = check_refined(open_run(args.workdir))
    asked = args.user if args.history is None else split_keys(args.history)
    steps = None
    if args.change is not None:
        steps = read_change(args.change, run.guided.names, list(aspects_of(run).values()))
    named = {"users": "--user", "histories": "--history", "items": "--item"}
    explanation = explain(run, asked, args.k, items=args.item, steps=steps, named=named)
    say(printable(explanation.who))
    for rank, item in enumerate(explanation.items, start=1):
        title = "" if item.title == item.key else f"  {item.title}"
        say(printable(f"{rank:>4} {item.score:>9.4f}  {item.key}{title}: {item.sentence}"))
    results = args.workdir / "results.json"
    write_results(results, explanation.sections())
    say(f"{results}: `recjax report` shows it")

    def by_aspect(values: np.ndarray, known: bool) -> dict[str, float] | None:
        return dict(zip(explanation.names, values.tolist(), strict=True)) if known else None

    items = [
        {
            "rank": rank, "key": item.key, "title": item.title, "score": item.score,
            "base": item.base, "guided": item.guided, "share": item.share if item.known else None,
            "sentence": item.sentence, "aspects": by_aspect(item.aspects, item.known),
            "parts": by_aspect(item.parts, item.known),
        }
        for rank, item in enumerate(explanation.items, start=1)
    ]  # fmt: skip
    leaning = dict(zip(explanation.names, explanation.leaning.tolist(), strict=True))
    asked_for = {"user": args.user} if args.history is None else {"history": asked}
    return {**asked_for, "who": explanation.who, "leaning": leaning, "items": items}


COMMAND = Command("say why items are recommended", add_explain_flags, explain_command)
