#!/usr/bin/env python
"""Speed of an interpreter beside a straightforward one in PyTorch, in one run: training of the
adapter (examples/s) and reading of states (answers/s).

    RECJAX_DATA=... python scripts/bench_interpreter.py --peers PYTHON [--llm FOLDER]
    python scripts/bench_interpreter.py --device gpu --peers PYTHON      # LLaMA-7B in bfloat16

PYTHON is that of an environment with torch and transformers (`bench_interpreter_peer.py`): it gets
the same weights, adapter, states, prompts and titles, by turns with ours. Both are timed with all
that an example costs: laying out its batch (tokenising the answers), the step as the training loop
takes it; the soft tokens, greedy decoding up to 50 (residual) or 100 tokens (recovery), the text;
ours also finds the titles in the text. Losses and texts are compared.

Models: a language model as configs/llm/catalogue.py trains it, and LLaMA's small forms. `--llm` is
the folder of a trained one, whose answers end; random weights never end, and write all tokens on
both sides. Titles are MovieLens-100K's where RECJAX_DATA has them, else simulated.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from _bench import (
    default_dtype,
    has_gpu,
    make_params,
    now,
    pin,
    run_peers,
    use_clock,
    write_config_alone,
)

BATCH, WINDOW, LENGTH, WIDTH = 64, 10, 10, 256  # L and D of the recommender
WEIGHT_DECAY, RATE = 1e-5, 1e-3
WHAT = ("train:residual", "train:recovery", "read:residual", "read:recovery")
TARGET = 3.0  # times the peer
CATALOGUE = "catalogue"  # the small model of configs/llm/catalogue.py


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"),
        help="of both language models; by default float32 on a CPU, else bfloat16",
    )  # fmt: skip
    parser.add_argument("--only", help=f"{CATALOGUE}, or presets of recjax.models.llama")
    parser.add_argument("--what", default=",".join(WHAT), help="measurements, with commas")
    parser.add_argument("--llm", type=Path, help=f"folder of a trained model for {CATALOGUE}")
    parser.add_argument("--threads", type=int, default=4, help="cores, on a CPU")
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall",
        help="cpu: seconds that the process worked; with one thread, on a machine with others",
    )  # fmt: skip
    parser.add_argument("--peers", help="python of an environment with torch and transformers")
    parser.add_argument("--rounds", type=int, default=3, help="turns of ours and the peer's")
    parser.add_argument("--repeats", type=int, default=2, help="timed repetitions a turn")
    parser.add_argument("--steps", type=int, default=6, help="training steps a repetition")
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    args = parser.parse_args()
    if args.clock == "cpu" and args.threads != 1:
        parser.error("--clock=cpu adds up the seconds of threads: expected --threads=1")
    if min(args.rounds, args.repeats, args.steps) < 1:
        parser.error("--rounds, --repeats, --steps: expected at least 1")
    default = f"{CATALOGUE},stories-15m" if args.device == "cpu" else "llama-7b"
    args.dtype = args.dtype or default_dtype(args.device)
    args.only, args.what = (args.only or default).split(","), args.what.split(",")
    return args


def histories(folder: Path) -> tuple[list[str], Any]:
    """Titles by item id, and the windows of all sequences."""
    from recjax.data.prepare import DataConfig, prepare, resolve
    from recjax.data.prompts import PROMPTS
    from recjax.data.splits import Spans
    from recjax.data.textualize import item_titles
    from recjax.errors import InputError
    from recjax.interpreter.examples import windows_of

    store = str(folder / "store")
    try:
        resolve("ml-100k")
        config = DataConfig(source="movielens", path="ml-100k", store=store)
    except InputError:
        print("no ml-100k below RECJAX_DATA: simulated titles")
        config = DataConfig(source="simulated", store=store)
    data = prepare(config)
    users = np.arange(len(data.offsets) - 1)
    spans = Spans(users, data.offsets[:-1], data.offsets[1:])
    windows = windows_of(np.asarray(data.items), spans, WINDOW, newest=False)
    return item_titles(data.catalog, PROMPTS.of("movie")), windows


def make_model(name: str, args: argparse.Namespace, titles: list[str], folder: Path) -> Any:
    """A language model, and its folder `model` for the peer."""
    from recjax.data.prepare import resolve
    from recjax.data.prompts import PROMPTS, answer, question
    from recjax.data.tokenizers import load_tokenizer, train_bpe
    from recjax.llm import LanguageModel, load_llm
    from recjax.models.definition import define
    from recjax.models.llama import PRESETS, Config, Llama

    if name == CATALOGUE and args.llm:
        llm = load_llm(args.llm, dtype=args.dtype)
        shutil.copytree(args.llm, folder / "model")
        return llm
    small = Config(
        vocab_size=3000, dim=512, mlp_dim=1024, layers=2, heads=4, kv_heads=4, head_dim=64,
        max_length=256, tied=True,
    )  # fmt: skip
    config = small if name == CATALOGUE else PRESETS[name]
    words = PROMPTS.of("movie")
    texts = [question(p, words) for p in PROMPTS.residual + PROMPTS.recovery]
    texts += [answer(p, words, ["A", "B"]) for p in PROMPTS.residual + PROMPTS.recovery]
    published = resolve("tokenizers/llama2") if name != CATALOGUE else None
    tokenizer = load_tokenizer(published) if published else train_bpe(titles + texts * 5, 3000)
    params = make_params(config, args.dtype)
    definition = define(lambda rngs: Llama(config, rngs=rngs))
    llm = LanguageModel(definition, params, config, tokenizer=tokenizer)
    if args.device == "cpu":
        llm.save(folder / "model")
    else:
        write_config_alone(config, folder / "model")
    if published:  # the file alone: Transformers makes the rest of it
        shutil.copy(published / "tokenizer.model", folder / "model")
    else:
        tokenizer.save(folder / "model")
    return llm


class Ours:
    """recjax's measurements.

    Args:
        llm: the language model.
        titles: by item id.
        windows: of the histories.
        steps: of training, a repetition.

    Attributes:
        work: what the peer needs: arrays, and texts.
    """

    def __init__(self, llm: Any, titles: list[str], windows: Any, steps: int):
        import jax

        from recjax.interpreter.adapters import Config
        from recjax.interpreter.bridge import Bridge
        from recjax.interpreter.examples import States
        from recjax.interpreter.learning import Learner
        from recjax.interpreter.questions import TASKS, AskConfig
        from recjax.interpreter.reader import Reader
        from recjax.training.optim import OptimConfig, make_optimizer

        class One(Learner):
            """Asks the paper's question of one task alone."""

            task = TASKS[0]

            def asked(self, step: int) -> Any:
                return self.task, 0

        rng = np.random.default_rng(0)
        chosen = windows[rng.choice(len(windows), BATCH * steps, replace=False)]
        shape = (2, len(chosen), LENGTH, WIDTH)
        before, after = rng.standard_normal(shape).astype(np.float32)
        added = [titles[item] for item in chosen.newest]
        seen = [[titles[item] for item in row if item] for row in chosen.ids()]
        ask = AskConfig(recovery=1.0)
        self.bridge = Bridge(llm, ask, Config(), LENGTH, WIDTH)
        self.examples = States(before, after, added, seen)
        self.learner = One(self.bridge, self.examples, batch_size=BATCH)
        config = OptimConfig(learning_rate=RATE, weight_decay=WEIGHT_DECAY)
        self.optimizer = make_optimizer(config, steps)
        self.steps, self.step = steps, self.learner.make_steps(self.optimizer)
        self.adapter = jax.tree.map(np.asarray, self.learner.init_state(self.optimizer).params)
        self.reader = Reader(self.bridge, self.adapter, titles)
        self.warm: set[str] = set()
        self.work = self._work(before, after, ask)

    def _work(self, before: Any, after: Any, ask: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        from recjax.interpreter.questions import TASKS

        questions, llm = self.bridge.questions, self.bridge.llm
        rows = np.stack([self.learner.rows(step) for step in range(self.steps)])
        whiten = self.bridge.adapter.merge(self.adapter).whitening  # which our steps pay for
        arrays = {"before": whiten(before), "after": whiten(after), "rows": rows, **self.adapter}
        texts: dict[str, Any] = {
            "rate": RATE, "weight_decay": WEIGHT_DECAY, "pad": llm.tokenizer.pad_id,
            "stop": list(llm.stop) or None, "end": llm.tokenizer.eos_id,
        }  # fmt: skip
        for task in TASKS:
            asked, form = questions.question(task), questions.prompt(task, 0)
            titles = self.examples.titles(np.arange(len(self.examples)), task)
            texts[task] = {
                "question": asked.ids, "is_soft": asked.is_soft, "titles": titles,
                "answer": form.answer.format(
                    past="watched", doing="watching", item="movie", items="movies",
                    titles="{titles}",
                ),
                "longest": ask.longest(task),
            }  # fmt: skip
        return arrays, texts

    def measure(self, name: str, repeats: int) -> dict[str, Any]:
        """Median seconds of an example; the first time, the losses or the texts, too."""
        kind, _, task = name.partition(":")
        call = getattr(self, kind)
        first = {}
        if name not in self.warm:
            self.warm.add(name)
            first = {"losses" if kind == "train" else "texts": call(task)}
        times = []
        for _ in range(repeats):
            start = now()
            call(task)
            times.append(now() - start)
        count = BATCH * (self.steps if kind == "train" else 1)
        return {"seconds": statistics.median(times) / count} | first

    def train(self, task: Any) -> list[float]:
        """Losses of all steps, from the same start; the order of work is the training loop's."""
        self.learner.task = task
        state, losses = self.learner.init_state(self.optimizer), []
        batch = self.learner.batch(0)
        for step in range(self.steps):
            state, metrics = self.step(state, batch)
            if step + 1 < self.steps:
                batch = self.learner.batch(step + 1)
            losses.append(float(metrics["loss"][0]))
        return losses

    def read(self, task: Any) -> list[str]:
        """Answers about the first examples."""
        rows = np.arange(BATCH)
        answers = self.reader.read(self.examples.states(rows, task), task)
        return [answer.text for answer in answers]


def measure(args: argparse.Namespace, name: str, folder: Path) -> dict[str, Any]:
    """Figures by measurement; on a GPU the peer has random weights of its own."""
    titles, windows = histories(folder)
    llm = make_model(name, args, titles, folder)
    ours = Ours(llm, titles, windows, args.steps)
    arrays, texts = ours.work
    np.savez(folder / "work.npz", **arrays)
    (folder / "work.json").write_text(json.dumps(texts))
    figures: dict[str, dict[str, Any]] = {
        what: {"ours": {"seconds": []}, "peer": {"seconds": []}} for what in args.what
    }

    def note(what: str, who: str, found: dict[str, Any]) -> None:
        figures[what][who]["seconds"].append(found.pop("seconds"))
        for key, value in found.items():  # of the first turn
            figures[what][who].setdefault(key, value)

    for _ in range(args.rounds):
        for what in args.what:
            note(what, "ours", ours.measure(what, args.repeats))
        if args.peers:
            out = run_peers("bench_interpreter_peer.py", args, folder, args.what)
            for what, found in (out or {"figures": {}})["figures"].items():
                note(what, "peer", found)
            if out:
                figures[args.what[0]]["versions"] = out["versions"]
    for what in args.what:
        figures[what]["ends"] = bool(llm.stop)
    return figures


def show(name: str, figures: dict[str, Any], args: argparse.Namespace) -> None:
    """Prints the table; adds the ratio and what differs."""
    layout = "{:<14}{:<18}{:>14}{:>12}{:>8}  {}"
    print(layout.format("model", "what", "examples/s", "peer's", "ratio", ""))
    for what, row in figures.items():
        ours, theirs = row["ours"], row["peer"]
        rate, notes = 1 / statistics.median(ours["seconds"]), []
        if not theirs["seconds"]:
            print(layout.format(name, what, f"{rate:,.1f}", "-", "-", ""))
            continue
        peer = 1 / statistics.median(theirs["seconds"])
        row["times_faster"] = rate / peer
        turns = [b / a for a, b in zip(ours["seconds"], theirs["seconds"], strict=True)]
        notes.append(f"turns {min(turns):.2f} to {max(turns):.2f}")
        if row["times_faster"] < TARGET:
            notes.append(f"under {TARGET:g}x")
        if what.startswith("train") and args.device == "cpu":
            pairs = zip(ours["losses"], theirs["losses"], strict=True)
            row["loss_difference"] = max(abs(a - b) for a, b in pairs)
            notes.append(f"losses differ by {row['loss_difference']:.0e} at most")
        elif args.device == "cpu":
            pairs = list(zip(ours["texts"], theirs["texts"], strict=True))
            # But for a blank before the text, which Transformers keeps and we do not (LLaMA's).
            row["texts_alike"] = sum(a.strip() == b.strip() for a, b in pairs) / len(pairs)
            notes.append(f"{row['texts_alike']:.0%} of texts alike")
        if what.startswith("read") and not row["ends"]:
            notes.append("all tokens written (random weights)")
        ratio = f"{row['times_faster']:.2f}x"
        line = layout.format(name, what, f"{rate:,.1f}", f"{peer:,.1f}", ratio, "; ".join(notes))
        print(line, flush=True)


def main() -> None:
    args = parse()
    use_clock(args.clock)
    if args.device == "cpu":
        pin(args.threads)
        os.environ["JAX_PLATFORMS"] = "cpu"
    elif not has_gpu():
        raise SystemExit("--device gpu: JAX finds no GPU here")
    else:  # the peer's process needs the card's memory, too
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    out: dict[str, Any] = {"device": args.device, "dtype": args.dtype, "threads": args.threads}
    out |= {"load": os.getloadavg(), "models": {}}
    print(f"load before: {out['load'][0]:.1f} on {os.cpu_count()} cores")
    print(f"{args.dtype}, {args.threads} thread(s)")
    for name in args.only:
        with tempfile.TemporaryDirectory() as folder:
            out["models"][name] = measure(args, name, Path(folder))
        show(name, out["models"][name], args)
    if args.out:
        args.out.write_text(json.dumps(out, indent=2) + "\n")


if __name__ == "__main__":
    main()
