"""`recjax score`: scores of all items or users of a store, as a file.

recjax score items --data=prepared/ml-100k --aspects=movies --llm=FOLDER --out=item_scores.tsv

Functions import JAX themselves: every command's parser reads the flags.
"""

import argparse
from collections.abc import Callable
from typing import Any

from recjax.arguments import add_mesh
from recjax.errors import InputError
from recjax.paths import flag_path, flag_text, names
from recjax.systems import Command

# flag -> default; what is not given is None, so that a flag that nothing would read is seen.
_OF_A_MODEL = {
    "how": "forced", "value": "likeliest", "calibrate": False, "adapter": None, "dtype": None,
    "quant": None, "mesh": "-1,1,1", "batch_size": 32,
}  # fmt: skip
_OF_AN_ENDPOINT = {
    "llm_model": None, "llm_key": "", "concurrency": 4, "retries": 3, "timeout": 60.0,
    "budget": None,
}  # fmt: skip
_OF_USERS = {"history": 14, "leave_out": 0}
_SCORING = ("known", "shard")


def add_score_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the command's own flags."""
    add = parser.add_argument
    add("kind", choices=("items", "users"), help="who is scored")
    add("--data", required=True, type=flag_path, metavar="DIR", help="a prepared store")
    add(
        "--aspects", required=True, type=flag_text, metavar="NAME",
        help="movies, clothing, games, or a .toml or .json file of your own",
    )  # fmt: skip
    add(
        "--out", required=True, type=flag_path, metavar="FILE",
        help="a .tsv, .csv or .parquet file; with --teacher a .jsonl file",
    )  # fmt: skip
    add(
        "--overwrite", action="store_true",
        help="replace an earlier file, and parts that were begun with other settings",
    )  # fmt: skip
    add("--among", type=flag_path, metavar="FILE", help="score only these, one per line")
    add("--fields", metavar="A,B", help="fields of items that are told; default: the usual ones")
    add("--longest", type=int, metavar="N", help="characters of a field (1000; for users 200)")
    add(
        "--known",
        type=flag_path,
        metavar="FILE",
        help="take over scores of this file; score others",
    )
    add("--shard", type=int, metavar="N", help="rows of a part (10000)")
    add(
        "--teacher", type=flag_path, metavar="FILE",
        help="write prompts and the answers that this score file gives, to fine-tune a model on",
    )  # fmt: skip
    add("--form", choices=("text", "chat"), help="of prompts; default: as the model has it")
    add(
        "--brief", action="store_true", default=None,
        help="ask with the text alone, for a model that was fine-tuned so",
    )  # fmt: skip
    users = parser.add_argument_group("users")
    users.add_argument("--history", type=int, metavar="N", help="newest items that are told (14)")
    users.add_argument(
        "--leave-out", type=int, metavar="N", help="newest items that are kept for a test (0)"
    )
    llm = parser.add_argument_group("a language model")
    llm.add_argument(
        "--llm", type=flag_text, metavar="DIR_OR_URL", help="its folder, or an endpoint's URL"
    )
    llm.add_argument(
        "--adapter", type=flag_text, metavar="DIR", help="merge this LoRA adapter of peft"
    )
    llm.add_argument("--dtype", metavar="NAME", help="float32, bfloat16 or float16")
    llm.add_argument(
        "--quant", choices=("int8", "nf4"), help="keep the layers' kernels in 8 or 4 bits"
    )
    llm.add_argument(
        "--how", choices=("forced", "apart", "free"), help="how answers are written (forced)"
    )
    llm.add_argument(
        "--value", choices=("likeliest", "expected"), help="which rating is the score (likeliest)"
    )
    llm.add_argument(
        "--calibrate", action="store_true", default=None,
        help="divide by the probabilities behind prompts without content",
    )  # fmt: skip
    llm.add_argument("--batch-size", type=int, metavar="N", help="prompts at a time (32)")
    add_mesh(llm, None)
    url = parser.add_argument_group("an endpoint")
    url.add_argument("--llm-model", metavar="NAME", help="the name of the model")
    url.add_argument("--llm-key", metavar="VARIABLE", help="environment variable with the key")
    url.add_argument("--concurrency", type=int, metavar="N", help="questions at a time (4)")
    url.add_argument("--retries", type=int, metavar="N", help="attempts after the first one (3)")
    url.add_argument("--timeout", type=float, metavar="S", help="seconds of an attempt (60)")
    url.add_argument("--budget", type=int, metavar="N", help="questions in this call, at most")


def score(args: argparse.Namespace, say: Callable[..., Any]) -> dict[str, Any]:
    """Writes scores, or pairs of prompts and answers.

    Raises:
        InputError: a flag that nothing would read, beside those that are given; see
            `recjax.guided.tables`.
    """
    _check(args)
    from recjax.data.sources._lines import text_lines
    from recjax.data.store import open_store
    from recjax.guided import tables
    from recjax.guided.aspects import aspect_set

    teaching = args.teacher is not None
    (tables.check_pairs if teaching else tables.check_scores)(args.out, overwrite=args.overwrite)
    aspects, store = aspect_set(args.aspects), open_store(args.data)
    fields = names(args.fields)
    own = {} if args.longest is None else {"longest": args.longest}
    if args.kind == "items":
        subjects = tables.item_subjects(store, fields, **own)
    else:
        subjects = tables.user_subjects(store, fields, **own, **_given(args, _OF_USERS))
    if args.among is not None:
        wanted = [line.strip() for _, line in text_lines(args.among) if line.strip()]
        subjects = subjects.among(wanted, str(args.among))
    if teaching:
        made = tables.write_pairs(
            subjects, args.teacher, aspects, args.out, args.form or "text", bool(args.brief)
        )
        say(f"{made['pairs']:,} pairs in {args.out}; {made['left_out']:,} {args.kind} left out")
        return made
    rate = _rater(args, aspects)
    result = tables.score_all(
        subjects, rate, args.out,
        known=args.known or "", shard=args.shard or 10_000, overwrite=args.overwrite,
    )  # fmt: skip
    say(*_told(result, args))
    return result


COMMAND = Command("score items or users on aspects with a language model", add_score_flags, score)


def _given(args: argparse.Namespace, flags: dict[str, Any]) -> dict[str, Any]:
    """The values of flags, or their defaults."""
    values = {name: getattr(args, name) for name in flags}
    return {name: flags[name] if value is None else value for name, value in values.items()}


def _is_url(llm: str | None) -> bool:
    return llm is not None and "://" in llm


def _check(args: argparse.Namespace) -> None:
    """Raises `InputError` for flags that do not go together, and for numbers out of range."""
    if (args.llm is None) == (args.teacher is None):
        raise InputError("score needs one of --llm DIR_OR_URL and --teacher FILE")

    def refuse(names: Any, reason: str) -> None:
        given = [n for n in names if getattr(args, n) is not None]
        if given:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise InputError(f"{flags}: {reason}")

    if args.teacher is not None:
        refuse((*_OF_A_MODEL, *_OF_AN_ENDPOINT, *_SCORING), "not with --teacher")
    if args.kind == "items":
        refuse(_OF_USERS, "for users")
    if _is_url(args.llm):
        refuse((*_OF_A_MODEL, "form", "brief"), "not with an endpoint, whose answers are free")
        if not args.llm_model:
            raise InputError("--llm URL needs --llm-model NAME")
    else:
        refuse(_OF_AN_ENDPOINT, "with an endpoint's URL as --llm")
    least = {"batch_size": 1, "history": 1, "leave_out": 0, "longest": 1, "shard": 1, "budget": 1}
    for name, low in least.items():
        value, high = getattr(args, name), 2**16 if name == "batch_size" else 2**31 - 1
        if value is not None and not low <= value <= high:
            flag = name.replace("_", "-")
            raise InputError(f"--{flag} {value}: expected {low} to {high}")


def _rater(args: argparse.Namespace, aspects: Any) -> Any:
    from recjax.guided.scoring import EndpointRater, Rater

    kind = args.kind.removesuffix("s")
    if _is_url(args.llm):
        from recjax.scoring.endpoint import Endpoint

        own = _given(args, _OF_AN_ENDPOINT)
        endpoint = Endpoint(
            args.llm, own["llm_model"], api_key_env=own["llm_key"], timeout=own["timeout"],
            retries=own["retries"], concurrency=own["concurrency"],
        )  # fmt: skip
        return EndpointRater(endpoint, aspects, kind, budget=own["budget"])
    from recjax.llm_folders import load_llm
    from recjax.training.parallel import mesh_here

    own = _given(args, _OF_A_MODEL)
    read = {name: own.pop(name) for name in ("adapter", "dtype", "quant")}
    lm = load_llm(args.llm, mesh=mesh_here(own.pop("mesh")), **read)
    return Rater(lm, aspects, kind, form=args.form, brief=bool(args.brief), **own)


def _told(result: dict[str, Any], args: argparse.Namespace) -> list[str]:
    """Lines for people."""
    kind, out = args.kind, result["out"]
    known = f", {result['known']:,} taken over" if result["known"] else ""
    before = f", {result['before']:,} before" if result["before"] else ""
    lines = [f"{result['scored']:,} of {result['total']:,} {kind} scored{before}{known}: {out}"]
    if result["malformed"]:
        lines.append(
            f"{result['malformed']:,} answers of another form: {result['missing']:,} scores "
            f"missing, {result['out_of_range']:,} out of range, {result['extra']:,} extra; what "
            "is missing is empty in the file, and readers put the mean of its aspect there"
        )
    if result["without_text"]:
        lines.append(f"{result['without_text']:,} {kind} have no history, and no scores")
    if not result["finished"]:
        lines[0] = f"{result['scored']:,} {kind} scored{before}{known}"
        lines.append(f"the budget has ended; {result['left']:,} are left: the same command goes on")
    return lines
