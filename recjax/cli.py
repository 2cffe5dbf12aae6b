"""The `recjax` command: parse, call, print; no logic.

Exit status: 0 done (also after SIGTERM: rerun the command to resume), 1 failed, 2 bad usage or bad
input (one line; `--debug` shows the traceback), 130 interrupted by SIGINT. Progress and tables go
to stderr; `--json` prints one JSON line on stdout.
"""

import argparse
import dataclasses
import errno
import json
import logging
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from recjax.errors import InputError, one_line, printable, shorten
from recjax.flags import Run, make_parser, read_overrides
from recjax.lazy import resolve
from recjax.memory import keep_freed
from recjax.paths import names
from recjax.prompting import generate
from recjax.signals import INTERRUPTED, Stopped, stopping
from recjax.systems import COMMANDS


def _say(*lines: str) -> None:
    """Prints lines and tables to stderr; control characters are escaped."""
    print(*map(printable, "\n".join(lines).split("\n")), sep="\n", file=sys.stderr)


def _fail(error: Exception, message: str, debug: bool) -> None:
    """The one line of an error; with `--debug` its traceback before it."""
    if debug:
        _say("".join(traceback.format_exception(error)).rstrip())
    _say(f"recjax: {one_line(message)}")


def _warning(message: Any, kind: type[Warning], *place: Any, **more: Any) -> str:
    """A warning of ours as one line; others with the place in the code that they name."""
    if kind is UserWarning:
        return f"recjax: {one_line(str(message))}\n"
    return _usual_warning(message, kind, *place, **more)


_usual_warning = warnings.formatwarning


def _load(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> Any:
    from ml_collections import ConfigDict

    from recjax.config import apply_overrides, load_config
    from recjax.training import workdir

    if args.config is None:
        old = workdir.read_run_config(args.workdir)
        config = ConfigDict({"system": old.system, **dataclasses.asdict(old)}).lock()
        changes = apply_overrides(config, overrides)
    else:
        config, changes = load_config(args.config, overrides, workdir.complete)
    for key, old, new in changes:
        before, after = (v.to_dict() if isinstance(v, ConfigDict) else v for v in (old, new))
        _say(f"config.{key}: {shorten(repr(before))} -> {shorten(repr(after))}")
    return workdir.build_config(config)


def _prepare(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> dict[str, Any]:
    from recjax.data.prepare import DataConfig, prepare
    from recjax.data.store import format_statistics

    if args.skip_bad_rows is not None:
        overrides = [*overrides, ("data.skip_bad_rows", str(args.skip_bad_rows))]
    config = _load(args, overrides)
    if not isinstance(getattr(config, "data", None), DataConfig):
        reads = "pairs as they are" if hasattr(config, "data") else "its recommender's data"
        raise InputError(f"config.system: '{config.system}' reads {reads}")
    store = prepare(config.data, overwrite=args.overwrite)
    _say(format_statistics(store), f"prepared: {store.path}")
    keys = ("counts", "statistics", "bad_rows", "duplicates", "warnings")
    return {"store": str(store.path), **{key: store.manifest.get(key) for key in keys}}


def _train(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> dict[str, Any]:
    with stopping():
        if not args.distributed:
            named = ("coordinator", "processes", "process")
            for name in (n for n in named if getattr(args, n) is not None):
                raise InputError(f"--{name}: expected with --distributed")
            return _trained(args, overrides)
        from recjax.training.group import belonging
        from recjax.training.meeting import start_distributed

        group = start_distributed(args.coordinator, args.processes, args.process)
        with belonging(group):
            return _trained(args, overrides)


def _trained(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> dict[str, Any]:
    from recjax.training.group import current
    from recjax.training.metrics import format_table
    from recjax.training.trainable import Trainable
    from recjax.training.workdir import start_run

    config = _load(args, overrides)
    run = start_run(config, args.workdir, overwrite=args.overwrite)
    say = _say if current().index == 0 else lambda *lines: None
    say(f"workdir: {args.workdir}", run.describe())
    if isinstance(run, Trainable):
        undivided = run.undivided()
        for line in undivided[:1]:
            others = f" ({len(undivided) - 1} more)" if len(undivided) > 1 else ""
            say(f"config.train.mesh: {line}{others}; each device keeps the whole")
    result = run.train()
    if not result["finished"]:
        say(
            f"recjax: stopped by {result['stopped_by']} at step {result['step']}; "
            f"rerun the command{_again(args)} to resume"
        )
        return result
    metrics = {k: v for k, v in result.items() if "/" in k}
    best = f"best checkpoint: step {result['step']}; workdir: {args.workdir}"
    say(format_table(metrics), best, *_note(run, run.parts[-1]))
    if "advice" in result:
        say(result["advice"] + _again(args))
    return result


def _note(run: Any, part: Any) -> list[str]:
    """The line about a recommender's targets that are no new items, where it is due."""
    from recjax.training.ranking_run import RankingRun

    note = run.evaluator(part).note if isinstance(run, RankingRun) else ""
    return [note] if note else []


def _again(args: argparse.Namespace) -> str:
    """After "rerun the command": with --overwrite it would start anew."""
    return " without --overwrite" if args.overwrite else ""


def _evaluate(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> dict[str, Any]:
    from recjax import compare
    from recjax.training.metrics import format_table, progress_bar
    from recjax.training.parallel import sizes_here

    protocols, mesh = names(args.protocols) or None, sizes_here(args.mesh)
    if args.against:
        if args.per_user:
            raise InputError("--per-user writes one run's values: leave out --against")
        result = compare.compare(
            args.workdir, args.against, split=args.split, protocols=protocols, step=args.step,
            mesh=mesh,
        )  # fmt: skip
        _say(compare.format_comparison(result))
        return result
    if args.per_user:
        compare.check_examples_file(args.per_user)
    run = compare.open_by(args.workdir, mesh, protocols)
    step = run.best_step() if args.step is None else args.step
    if args.per_user:
        measured = compare.measure(run, args.split, step)
        compare.write_examples(measured, run.store, args.per_user)
        metrics = measured.metrics
    else:
        evaluator = run.evaluator(args.split)
        with progress_bar(evaluator.count, 0, f"evaluating {args.split}", "example") as bar:
            metrics = evaluator.run(run.restore(step), bar.update)
    checkpoint = f"checkpoint: step {step}; workdir: {args.workdir}"
    _say(format_table(metrics), checkpoint, *_note(run, args.split))
    if args.per_user:
        _say(f"each user: {args.per_user}")
    return metrics


def _recommend(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> dict[str, Any]:
    from recjax.recommend import recommend
    from recjax.training.parallel import sizes_here

    return recommend(
        args.workdir, args.out, k=args.k, users=args.users, histories=args.history,
        among=args.among, filter_seen=not args.with_seen, step=args.step,
        overwrite=args.overwrite, mesh=sizes_here(args.mesh), log=args.log,
        skip_unknown=args.skip_unknown, every=args.json, say=_say,
    )  # fmt: skip


def _saying(run: Callable[..., dict[str, Any]]) -> Run:
    """The function of a command that reads its flags alone, as `recjax.systems.Command` has it."""
    return lambda args, overrides: run(args, _say)


def _convert(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> dict[str, Any]:
    from recjax.config import to_plain
    from recjax.training.weights import export_weights, import_weights

    if args.workdir is None:
        return _transfer(args, overrides)
    if args.form or args.dtype or args.adapter or args.check:
        raise InputError(
            "--form, --dtype, --adapter and --check are for language models; leave out --workdir"
        )
    if (args.source is None) == (args.target is None):
        raise InputError("convert needs one of --from FILE (in) and --to FILE (out)")
    if args.target:
        if args.config or overrides or args.variant or args.heads is not None:
            raise InputError("convert --to takes the run's own config, variant and heads")
        done = export_weights(args.workdir, args.target, step=args.step, overwrite=args.overwrite)
        _say(
            f"{done['file']}: step {done['step']}, variant {done['variant']}, heads {done['heads']}"
        )
        return done
    if not args.config or not args.variant or args.step is not None:
        raise InputError("convert --from needs --config and --variant, and takes no --step")
    config, heads = _load(args, overrides), 1 if args.heads is None else args.heads
    run = import_weights(
        config, args.workdir, args.source,
        variant=args.variant, heads=heads, overwrite=args.overwrite,
    )  # fmt: skip
    for key, new in to_plain(run.config.model).items():
        if config.model[key] != new:
            _say(f"config.model.{key}: {config.model[key]!r} -> {new!r}")
    _say(f"workdir: {args.workdir}, step 0", run.describe())
    return {"workdir": str(args.workdir), "step": 0, "model": to_plain(run.config.model)}


def _transfer(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> dict[str, Any]:
    from recjax.convert.transfer import transfer

    other = (args.config, args.variant, args.heads, args.step, overrides or None)
    if args.source is None or any(value is not None for value in other):
        raise InputError(
            "convert needs --workdir for a recommender's run; or, for a language model, "
            "--from FOLDER and --to FOLDER alone"
        )
    done = transfer(
        Path(args.source), args.target, form=args.form or "hf", dtype=args.dtype,
        adapter=args.adapter, check=args.check, overwrite=args.overwrite,
    )  # fmt: skip
    _say(f"{args.source}: form {done['source_form']}, {done['parameters']:,} parameters")
    if args.target:
        _say(f"{args.target}: form {done['form']}, {done['dtype']}")
    if args.check:
        _say(
            f"logits differ from those of transformers by {done['max_difference']:.2g} at most; "
            f"the largest is {done['largest_logit']:.3g}"
        )
    return done


def _plan(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> dict[str, Any]:
    from recjax.training.plan_command import plan

    if sum(given is not None for given in (args.config, args.preset, args.source)) != 1:
        raise InputError("plan needs one of --preset NAME, --from FOLDER and --config FILE")
    if overrides and args.config is None:
        raise InputError("--config.KEY=VALUE needs --config FILE")
    return plan(args, None if args.config is None else _load(args, overrides), _say)


def _report(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> dict[str, Any]:
    from recjax.report.page import write_report

    page = write_report(args.workdir, args.out)
    _say(f"report: {page}")
    return {"report": str(page)}


def _simulate(args: argparse.Namespace, overrides: list[tuple[str, str]]) -> dict[str, Any]:
    from ml_collections import ConfigDict

    from recjax.config import apply_overrides, build, to_plain
    from recjax.data.simulate import SimulateConfig, simulate, write_raw

    section = ConfigDict(to_plain(SimulateConfig()))
    apply_overrides(section, overrides)
    log, catalog = simulate(build(SimulateConfig, section, "config"))
    write_raw(log, catalog, args.workdir, overwrite=args.overwrite)
    counts = {
        "users": len(log.user_keys),
        "items": len(log.item_keys),
        "interactions": len(log),
    }
    _say(", ".join(f"{n:,} {what}" for what, n in counts.items()) + f" in {args.workdir}")
    return {"folder": str(args.workdir), **counts}


def runs() -> dict[str, Run]:
    """Functions of all commands, those of the systems among them."""
    systems = {name: _saying(resolve(place).run) for name, place in COMMANDS.items()}
    return systems | {
        "convert": _convert,
        "evaluate": _evaluate,
        "generate": _saying(generate),
        "plan": _plan,
        "prepare": _prepare,
        "recommend": _recommend,
        "report": _report,
        "simulate": _simulate,
        "train": _train,
    }


def _is_bad_path(error: Exception) -> bool:
    """Whether a path was given that no file system can look up."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENAMETOOLONG, errno.ELOOP)
    return isinstance(error, RuntimeError) and str(error).startswith("Symlink loop")  # Python 3.11


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    if argv is None:  # the process is ours
        keep_freed()
        warnings.formatwarning = _warning  # type: ignore[assignment]
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax reports every save
    status, done = _status(arguments, debug, own=argv is None)
    if argv is None and not done and "--distributed" in arguments:
        sys.stdout.flush()
        os._exit(status)  # JAX would wait for the other processes, which do not come
    return status


def _status(arguments: list[str], debug: bool, own: bool) -> tuple[int, bool]:
    """The exit status, and whether the command came to its end."""
    args: argparse.Namespace | None = None
    try:
        if any("\0" in argument for argument in arguments):
            raise InputError("an argument contains a NUL character; paths cannot")
        for argument in arguments:
            if re.match(r"(--[^=]+=)?(gs|s3)://", argument):
                raise InputError(f"{argument}: expected a path; mount the bucket")
        with stopping() as stop, stop.at_once():
            args, unknown = make_parser(runs()).parse_known_args(arguments)
        overrides = read_overrides(unknown)
        if overrides and not args.takes_keys:
            raise InputError(
                f"{args.command} takes no --config.KEY; see `recjax {args.command} --help`"
            )
        result = args.run(args, overrides)
        if args.json:
            print(json.dumps(result))
        return INTERRUPTED if result.get("stopped_by") == "SIGINT" else 0, True
    except SystemExit as stop:  # --help
        return int(stop.code or 0), False
    except InputError as error:
        _fail(error, str(error), debug)
        return 2, False
    except Stopped as stopped:
        if args is None:
            _say(f"recjax: stopped by {stopped}")
            return stopped.status, False
        # Before there was anything to save.
        _say(f"recjax: stopped by {stopped}; nothing was saved yet; rerun the command")
        return INTERRUPTED if stopped.number == signal.SIGINT else 0, False
    except KeyboardInterrupt:
        _say("recjax: interrupted")
        if own:  # threads of libraries may be in the midst of something
            os._exit(INTERRUPTED)
        return INTERRUPTED, False
    except Exception as error:
        if _is_bad_path(error):
            _fail(error, " ".join(str(error).split()), debug)
            return 2, False
        _fail(error, f"{type(error).__name__}: {' '.join(str(error).split())}", debug)
        return 1, False
