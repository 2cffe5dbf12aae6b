#!/usr/bin/env python
"""Speed of an interpreter beside a straightforward one in PyTorch, in one run.

    python scripts/bench_interpreter.py --peers PYTHON --runs RESIDUAL RECOVERY --answers=2048
    RECJAX_DATA=... python scripts/bench_interpreter.py --peers PYTHON
    python scripts/bench_interpreter.py --device gpu --peers PYTHON      # LLaMA-7B in bfloat16

PYTHON is that of an environment with torch and transformers (`bench_interpreter_peer.py`): it gets
the same weights, adapter, states, prompts and titles, by turns with ours. Measured are training of
the adapter (examples a second) and reading of states (answers a second), with all that each costs:
laying out its batch (tokenising the answers), the step as the training loop takes it; the soft
tokens, greedy decoding up to 50 (residual) or 100 tokens (recovery), the text; ours also finds the
titles in the text. Losses and texts are compared. The peer reads a batch of 64 at a time, ours more
of a long list (`recjax.interpreter.reader`).

RESIDUAL and RECOVERY are workdirs of `configs/interpreter/adapter.py` over one language model: its
answers to real states of validation histories, as long as answers are. Without them a model of
configs/llm/catalogue.py's size and LLaMA's small forms have random weights, whose answers never
end: all tokens are written on both sides. Titles are then MovieLens-100K's where RECJAX_DATA has
them, else simulated.
"""

import argparse
import dataclasses
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from _bench import (
    default_dtype,
    has_gpu,
    now,
    pin,
    run_peers,
    use_clock,
)
from _interpreter_cases import CATALOGUE, Case, histories, make_model, random_cases, trained_cases

from recjax.arguments import Parser, positive
from recjax.errors import run_script
from recjax.paths import flag_file

BATCH = 64
WEIGHT_DECAY, RATE = 1e-5, 1e-4
WHAT = ("train:residual", "train:recovery", "read:residual", "read:recovery")
TARGET = 3.0  # times the peer
TRAINED = "trained"  # the interpreters of --runs


def parse() -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"),
        help="of both language models; by default float32 on a CPU, else bfloat16",
    )  # fmt: skip
    parser.add_argument("--only", help=f"{CATALOGUE}, or presets of recjax.models.llama")
    parser.add_argument("--what", default=",".join(WHAT), help="measurements, with commas")
    parser.add_argument(
        "--runs", nargs=2, metavar=("RESIDUAL", "RECOVERY"),
        help="workdirs of trained interpreters, in place of random weights",
    )  # fmt: skip
    parser.add_argument("--threads", type=positive, default=4, help="cores, on a CPU")
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall",
        help="cpu: seconds that the process worked; with one thread, on a machine with others",
    )  # fmt: skip
    parser.add_argument("--peers", help="python of an environment with torch and transformers")
    parser.add_argument("--rounds", type=positive, default=3, help="turns of ours and the peer's")
    parser.add_argument("--repeats", type=positive, default=2, help="timed repetitions a turn")
    parser.add_argument("--answers", type=positive, default=512, help="of a repetition, N * 64")
    parser.add_argument("--steps", type=positive, default=6, help="training steps a repetition")
    parser.add_argument("--peer-seconds", type=float, metavar="S", help="limit of each peer's turn")
    parser.add_argument("--out", type=flag_file, help="also write the figures as JSON")
    args = parser.parse_args()
    if args.clock == "cpu" and args.threads != 1:
        parser.error("--clock=cpu adds up the seconds of threads: expected --threads=1")
    if args.answers % BATCH:
        parser.error(f"--answers: expected a multiple of {BATCH}")
    if args.runs and (args.only or args.device != "cpu" or args.dtype == "bfloat16"):
        parser.error("--runs: expected no --only, on a CPU in float32")
    default = f"{CATALOGUE},stories-15m" if args.device == "cpu" else "llama-7b"
    if args.runs:
        default = TRAINED
    args.dtype = args.dtype or default_dtype(args.device)
    args.only, args.what = (args.only or default).split(","), args.what.split(",")
    return args


class Ours:
    """recjax's measurements.

    Args:
        cases: by task.
        steps: of training, a repetition.
        answers: to read, a repetition.

    Attributes:
        work: what the peer needs: arrays, and texts.
    """

    def __init__(self, cases: dict[str, Case], steps: int, answers: int):
        import jax

        from recjax.interpreter.learning import Learner
        from recjax.interpreter.reader import Reader
        from recjax.text.tasks import TASKS
        from recjax.training.optim import OptimConfig

        class One(Learner):
            """Asks the paper's question of one task alone."""

            task: Any = None

            def asked(self, step: int) -> Any:
                return self.task, 0

        config = OptimConfig(learning_rate=RATE, weight_decay=WEIGHT_DECAY)
        self.steps, self.cases = steps, cases
        self.learners, self.step, self.adapters, self.readers = {}, {}, {}, {}
        for task, case in cases.items():
            learner = One(case.bridge, case.examples, batch_size=BATCH, optim=config)
            learner.task, self.learners[task] = TASKS[task], learner
            self.step[task] = learner.make_steps()
            start = case.adapter or learner.init_state().params
            self.adapters[task] = jax.tree.map(np.asarray, start)
            self.readers[task] = Reader(case.bridge, self.adapters[task], case.titles)
        self.warm: set[str] = set()
        self.answers = answers
        self.work = self._work()

    def _work(self) -> tuple[dict[str, Any], dict[str, Any]]:
        llm = next(iter(self.cases.values())).bridge.llm
        arrays: dict[str, Any] = {}
        texts: dict[str, Any] = {
            "rate": RATE, "weight_decay": WEIGHT_DECAY, "pad": llm.tokenizer.pad_id,
            "stop": list(llm.stop) or None, "end": llm.tokenizer.eos_id, "read": self.answers,
        }  # fmt: skip
        for task, case in self.cases.items():
            learner, examples, questions = self.learners[task], case.examples, case.bridge.questions
            whitening = case.bridge.adapter.merge(self.adapters[task]).whitening  # our steps pay
            arrays |= {f"{task}/{name}": a for name, a in self.adapters[task].items()}
            arrays[f"{task}/before"] = whitening.even(whitening.centre(examples.before))
            arrays[f"{task}/after"] = whitening.even(whitening.centre(examples.after))
            arrays[f"{task}/rows"] = np.stack([learner.rows(step) for step in range(self.steps)])
            asked, form = questions.question(learner.task), questions.prompt(learner.task, 0)
            texts[task] = {
                "question": asked.ids, "is_soft": asked.is_soft,
                "titles": examples.titles(np.arange(len(examples)), lists=learner.task.lists),
                "answer": form.answer.format(
                    titles="{titles}", **dataclasses.asdict(questions.words)
                ),
                "longest": questions.config.longest(learner.task),
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
        count = BATCH * self.steps if kind == "train" else self.answers
        return {"seconds": statistics.median(times) / count} | first

    def train(self, task: Any) -> list[float]:
        """Losses of all steps, from the same start; the order of work is the training loop's."""
        from recjax.training.state import state_of

        learner, take, losses = self.learners[task], self.step[task], []
        start = self.adapters[task], learner.optimizer, learner.axes, learner.mesh
        state = state_of(*start, learner.trained)
        batch = learner.place(0)
        for step in range(self.steps):
            state, metrics = take(state, batch)
            if step + 1 < self.steps:
                batch = learner.place(step + 1)
            losses.append(float(metrics["loss"][0]))
        return losses

    def read(self, task: Any) -> list[str]:
        """Answers about the first examples."""
        asked, reader = self.learners[task].task, self.readers[task]
        states = self.cases[task].examples.states(np.arange(self.answers), asked.backs)
        return [answer.text for answer in reader.read(states, asked)]


def measure(args: argparse.Namespace, name: str, folder: Path) -> dict[str, Any]:
    """Figures by measurement; on a GPU the peer has random weights of its own."""
    count = max(BATCH * args.steps, args.answers)
    if args.runs:
        cases = trained_cases(args.runs, count, folder)
    else:
        titles, windows = histories(folder)
        cases = random_cases(make_model(name, args, titles, folder), titles, windows, count)
    ours = Ours(cases, args.steps, args.answers)
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
        figures[what]["ends"] = bool(texts["stop"])
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
        if len(ours["seconds"]) == len(theirs["seconds"]):  # the peer failed in none
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
    run_script(main)
