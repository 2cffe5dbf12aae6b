#!/usr/bin/env python
"""Quality of RecSysLLM on public data, in minutes of a GPU: rankings, the ablation, the tasks.

    python scripts/study_recsysllm.py vectors --out=runs/recsysllm.jsonl
    python scripts/study_recsysllm.py ablation --out=runs/recsysllm.jsonl     # in several processes
    python scripts/study_recsysllm.py effects --out=runs/recsysllm.jsonl      # prints intervals

| study | of | trains |
|---|---|---|
| `vectors` | Beauty, a token a title from SASRec's vectors (`--recommender`, or trained) | GLM |
| `causal` | the same | LLaMA |
| `titles` | Beauty by titles alone | GLM |
| `ablation` | ML-100K (`--data=steam`): plain GLM, and each switch more; `--seeds` | GLM |
| `tasks` | gift cards and musical instruments (`--data`: one): ratings, texts, items | GLM |

A run of `vectors`, `causal`, `titles` and `tasks` has `--seed`, and `--seconds` for its setup and
training, then cools down, and is measured; those of `ablation` have `--epochs`, the same for all.
A result is appended to --out as a line of JSON as soon as it is there; the first of a run is of few
users. Runs stand in --runs. Processes with one --runs share the runs of `ablation`: each takes the
next that none has.
"""

import argparse
import collections
import contextlib
import dataclasses
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:  # recjax needs no installation to be measured
    sys.path.insert(0, str(ROOT))

import recjax  # noqa: E402
from recjax.arguments import Parser, count, positive  # noqa: E402
from recjax.config import load_config  # noqa: E402
from recjax.errors import InputError, run_script  # noqa: E402
from recjax.evaluation.intervals import paired_bootstrap  # noqa: E402
from recjax.evaluation.ranking import rank_values  # noqa: E402
from recjax.paths import flag_path  # noqa: E402
from recjax.recsysllm.recipes import scratch  # noqa: E402
from recjax.recsysllm.scores import kind_of  # noqa: E402
from recjax.training.workdir import open_run  # noqa: E402

# By name: whole entities, inner positions in them, blanks shuffled; each has a switch more.
VARIANTS = {
    "GLM": (False, False, True),
    "+ entities": (True, False, True),
    "+ order": (True, False, False),
    "+ 2D positions": (True, True, False),
}
DYNAMIC = "+ dynamic positions"  # the model of the last variant, which writes otherwise
NEXT = ("2-1", "2-2", "2-3", "2-4", "2-5", "2-6")  # prompts that ask for the next item
METRICS = ("hr@5", "ndcg@5", "hr@10", "ndcg@10")
TASKS = ("gift_cards", "musical_instruments")


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("study", choices=[*STUDIES, "effects"])
    parser.add_argument("--out", type=flag_path, required=True, help="ends in .jsonl")
    parser.add_argument("--runs", type=flag_path, help="workdirs and stores; default: beside --out")
    parser.add_argument("--seconds", type=float, default=200.0, help="of setup and training")
    parser.add_argument("--epochs", type=float, default=0.4, help="of `ablation`")
    parser.add_argument("--seeds", type=positive, default=3, help="of `ablation`")
    parser.add_argument("--seed", type=count, default=0, help="of the other studies")
    parser.add_argument("--data", help="of `ablation` and `tasks`; default: the study's")
    parser.add_argument("--dim", type=positive, help="E; default: the study's")
    parser.add_argument("--layers", type=positive, help="default: the study's")
    parser.add_argument("--users", type=count, default=0, help="measured; 0 = all")
    parser.add_argument("--batch", type=positive, default=128, help="questions at a time")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--recommender", type=flag_path, help="workdir; default: trained first")
    args = parser.parse_args(argv)
    sets = {"ablation": ("ml100k", "steam"), "tasks": TASKS}.get(args.study, ())
    if args.data and args.data not in sets:
        parser.error(f"--data: {args.data}; expected {' or '.join(sets) or 'none'}")
    args.runs = args.runs or args.out.parent / "runs"
    return args


def write(args: argparse.Namespace, **line: Any) -> None:
    """Appends a result, at once."""
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    print({key: value for key, value in line.items() if key != "ranks"}, flush=True)


def section_of(args: argparse.Namespace, config: str, dim: int, layers: int, **sizes: Any) -> Any:
    """A config's section with a model of some size, on this study's store."""
    section = load_config(str(ROOT / "configs" / "recsysllm" / config))[0]
    section = section.copy_and_resolve_references().unlock()
    section.data.store = str(args.runs / f"store-{config.partition('.')[0]}")
    scratch(section, args.dim or dim, args.layers or layers, **sizes)
    section.seed, section.train.dtype = args.seed, args.dtype
    section.text.answers = {"max_examples": 8, "free": 100, "batch_size": args.batch}
    return section


@contextlib.contextmanager
def stopped_after(seconds: float) -> Iterator[threading.Event]:
    """Sends SIGTERM after so many seconds, as a scheduler does, until what it wraps has ended.

    Yields an event that is set when the time is over: a SIGTERM before that is another's.
    """
    over, done = threading.Event(), threading.Event()

    def stop() -> None:
        wait = seconds
        while not done.wait(wait):
            over.set()
            os.kill(os.getpid(), signal.SIGTERM)
            wait = 20.0  # again, where training had not begun

    def outside_training(number: int, frame: Any) -> None:
        if not over.is_set():
            raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, outside_training)
    clock = threading.Thread(target=stop, daemon=True)
    clock.start()
    try:
        yield over
    finally:
        done.set()
        clock.join()  # its signal is sent, or never will be
        signal.signal(signal.SIGTERM, before)


def trained(section: Any, workdir: Path, seconds: float, cooldown: float) -> tuple[Any, dict]:
    """A run that trains for some time at a constant rate, then cools down over so many epochs."""
    section.train.epochs, section.optim.cooldown_epochs = 1000.0, cooldown
    section.train.evaluate_every = min(0.5, 2 * cooldown)
    with stopped_after(seconds) as over:
        try:
            step = recjax.train(section, workdir)["step"]
        except recjax.TrainingStopped as stopped:
            if not over.is_set():
                raise
            step = stopped.step
    epochs = step / open_run(workdir).batches.steps_per_epoch + cooldown
    out = recjax.train(None, workdir, changes={"train.epochs": epochs})
    run = open_run(workdir)
    said = {
        "seed": section.seed,
        "epochs": round(epochs, 3),
        "steps": out["step"],
        "parameters": sum(int(np.prod(a.shape)) for a in run.model.shapes.values()),
    }
    return run, said


def measured(
    args: argparse.Namespace, run: Any, ids: Sequence[str], most: int, **said: Any
) -> None:
    """The metrics of some prompts of the test, a line each; of rankings the ranks, too."""
    options = run.source.options
    most = most or 1 << 20  # all users
    answers = dataclasses.replace(options.answers, max_examples=most)
    run.source.options = dataclasses.replace(options, answers=answers)
    params, evaluator = run.restore(run.best_step()), run.evaluator("test")
    answerer = evaluator.answerer(params)
    for id in ids:
        chosen, passages = run.source.questions("test", id, most, 0)
        line: dict[str, Any] = {"prompt": id, "examples": len(passages)}
        if kind_of(id) == "list":
            first = chosen[: args.batch], passages[: args.batch]  # compiles
            found = evaluator.ask(answerer, params, id, *first)
            line["valid_ratio"] = found.metrics["gen/valid_ratio"]
            begun = time.perf_counter()
            ranks = evaluator.ranks(answerer, chosen, passages)["full"]
            line["users_per_second"] = len(passages) / (time.perf_counter() - begun)
        elif kind_of(id) == "choice":
            ranks = evaluator.choices(answerer, params, passages)
        else:
            found = evaluator.ask(answerer, params, id, chosen, passages)
            write(args, **said, **line, **found.metrics)
            continue
        values = rank_values(ranks, (1, 5, 10))
        line |= {name: float(values[name].mean()) for name in ("hr@1", *METRICS)}
        line["ranks"] = [None if rank == np.inf else rank for rank in ranks.tolist()]
        write(args, **said, **line)


def vectors(args: argparse.Namespace, family: str = "glm") -> None:
    """Beauty, with a token a title."""
    section = section_of(args, "beauty.py:vectors", 256, 4, vocab=4000, epochs=8.0, max_length=256)
    folder = args.recommender or args.runs / f"sasrec-{args.seed}"
    if args.recommender is None:
        config = str(ROOT / "configs" / "recommenders" / "beauty_sasrec.py:ce")
        changes = {"data.store": section.data.store, "seed": args.seed}
        recjax.train(config, folder, changes=changes)
    section.model.name = family
    section.text.naming.run = str(folder)
    section.text.tasks.only = NEXT
    name = "vectors" if family == "glm" else "causal"
    run, said = trained(section, args.runs / f"{name}-{args.seed}", args.seconds, 0.5)
    measured(args, run, ["2-3"], min(args.users or 4000, 4000), study=name, **said)
    measured(args, run, ["2-3", "2-13"], args.users, study=name, **said)


def titles(args: argparse.Namespace) -> None:
    """Beauty, by titles alone."""
    section = section_of(args, "beauty.py", 512, 8, vocab=8000, epochs=8.0)
    section.text.tasks = {"text": 0.3, "sequential": 0.7, "only": NEXT}
    section.optim.learning_rate = 6e-4
    run, said = trained(section, args.runs / f"titles-{args.seed}", args.seconds, 0.3)
    measured(args, run, ["2-3"], min(args.users or 500, 500), study="titles", **said)
    measured(args, run, ["2-3", "2-13"], args.users or 4000, study="titles", **said)


def taken(place: Path) -> bool:
    """Whether this process is the first to take a place."""
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.close(os.open(place, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def variant_section(args: argparse.Namespace, variant: str, seed: int) -> Any:
    """The section of a variant of the ablation."""
    whole, positions, shuffle = VARIANTS[variant]
    section = section_of(
        args, f"{args.data or 'ml100k'}.py", 256, 4, vocab=4000, epochs=args.epochs
    )
    section.seed, section.optim.warmup_steps = seed, 50
    section.blanks.shuffle = shuffle
    section.text.entities = {"whole": whole, "positions": positions}
    section.text.answers.dynamic = False
    section.text.tasks = {
        "text": 0.3, "sequential": 0.7, "history": 10,
        "only": ("2-1", "2-3", "2-4", "2-7", "2-8"),
    }  # fmt: skip
    return section


def ablation(args: argparse.Namespace) -> None:
    """The next item and one of 20 candidates."""
    for seed in range(args.seeds):
        for number, variant in enumerate(VARIANTS):
            workdir = args.runs / f"ablation-{seed}-{number}"
            place = args.runs / f"taken-{seed}-{number}"
            if not taken(place):
                continue
            try:
                out = recjax.train(variant_section(args, variant, seed), workdir)
            except recjax.TrainingStopped:
                place.unlink()  # the next process resumes it
                raise
            said = {"study": "ablation", "seed": seed, "steps": out["step"]}
            run = open_run(workdir)
            measured(args, run, ["2-3", "2-7"], args.users, variant=variant, **said)
            if variant == list(VARIANTS)[-1]:
                options = run.source.options
                answers = dataclasses.replace(options.answers, dynamic=True)
                run.source.options = dataclasses.replace(options, answers=answers)
                measured(args, run, ["2-3"], args.users, variant=DYNAMIC, **said)


def effects(args: argparse.Namespace) -> None:
    """Prints each variant beside the one before it, over the seeds that both have."""
    found: dict[tuple[str, str], dict[int, np.ndarray]] = collections.defaultdict(dict)
    if not args.out.is_file():
        raise InputError(f"--out {args.out}: no such file; the study `ablation` writes it")
    for line in map(json.loads, args.out.read_text(encoding="utf-8").splitlines()):
        if line.get("study") == "ablation":
            ranks = np.array([np.inf if r is None else r for r in line["ranks"]])
            values = rank_values(ranks, (5, 10))
            table = np.stack([values[m] for m in METRICS], axis=1)
            found[line["variant"], line["prompt"]][line["seed"]] = table
    names = [*VARIANTS, DYNAMIC]
    print("| variant | prompt | seeds | " + " | ".join(METRICS) + " |")
    print("|---|---|---|" + "---|" * len(METRICS))
    for place, name in enumerate(names):
        for prompt in ("2-3", "2-7"):
            ours = found.get((name, prompt), {})
            if not ours:
                continue
            mean = np.mean(list(ours.values()), axis=0).mean(axis=0)
            cells = [f"{value:.4f}" for value in mean]
            before = found.get((names[place - 1], prompt), {}) if place else {}
            both = sorted(ours.keys() & before.keys())
            if both:
                a, b = (np.mean([part[s] for s in both], axis=0) for part in (ours, before))
                gap = paired_bootstrap(a, b, np.arange(len(a)))
                cells = [
                    f"{cell} ({low:+.4f} to {high:+.4f})"
                    for cell, low, high in zip(cells, gap.low, gap.high, strict=True)
                ]
            print(f"| {name} | {prompt} | {len(ours)} | " + " | ".join(cells) + " |")


def tasks(args: argparse.Namespace) -> None:
    """Ratings, explanations, reviews, items."""
    for name in [args.data] if args.data else TASKS:
        section = section_of(args, f"{name}.py", 256, 4, vocab=4000, epochs=20.0)
        section.optim.weight_decay = 0.05
        section.train.steps_per_call = 2
        run, said = trained(section, args.runs / f"{name}-{args.seed}", args.seconds, 1.0)
        ids = [
            "1-2", "1-11", "1-10", "3-9", "3-3", "3-12", "4-1", "4-2", "4-4", "2-3", "2-7", "5-5",
            "5-8",
        ]  # fmt: skip
        measured(args, run, ids, args.users or 1000, study=name, **said)


STUDIES = {
    "vectors": vectors,
    "causal": lambda args: vectors(args, "llama"),
    "titles": titles,
    "ablation": ablation,
    "tasks": tasks,
}


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(args.runs / "compiled"))
    {**STUDIES, "effects": effects}[args.study](args)


if __name__ == "__main__":
    run_script(main)
