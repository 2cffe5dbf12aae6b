#!/usr/bin/env python
"""A language model reads the hidden states of a recommender, in tiny sizes.

    python scripts/examples/read_recommender.py [--folder runs/tiny]

The sizes show the way, not the quality: a language model this small names hardly a book.
`configs/interpreter/` and `configs/llm/catalogue.py` have the real sizes, and
`scripts/quickstart.sh` trains them.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

import recjax
from recjax.arguments import Parser
from recjax.errors import run_script
from recjax.interpreter.adapters import Config as AdapterConfig
from recjax.interpreter.starting import StartConfig
from recjax.paths import flag_path

LENGTH = 10  # items of a history


def recommender(folder: Path) -> dict:
    """The config of a tiny SASRec on simulated readers."""
    return {
        "data": {
            "source": "simulated", "store": str(folder / "store"),
            "options": {"users": 80, "mean_length": 10.0, "max_length": 20},
        },
        "split": {"name": "chronological_sequences", "by": "user"},
        "model": {
            "name": "sasrec", "dim": 16, "layers": 1, "max_length": LENGTH, "scale_embedding": True,
        },
        "train": {"epochs": 2.0, "batch_size": 32},
    }  # fmt: skip


def language_model(folder: Path) -> dict:
    """The config of a tiny LLaMA that learns the titles, facts and histories of the same data."""
    return {
        "system": "language_model",
        "data": recommender(folder)["data"],
        "split": recommender(folder)["split"],
        "model": {
            "name": "llama", "dim": 32, "mlp_dim": 48, "layers": 1, "heads": 2, "kv_heads": 2,
            "head_dim": 16, "max_length": 160, "tied": True,
        },
        "tokenizer": {"vocab_size": 600},
        "text": {"domain": "book", "naming": 1.0, "window": 4},
        "train": {"batch_size": 16, "epochs": 0.3},
        "evaluation": {"max_examples": 8},
    }  # fmt: skip


def states(run, histories: list[np.ndarray]) -> np.ndarray:
    """Hidden states [n L D] of histories; a position without an item is zero."""
    ids = np.zeros((len(histories), LENGTH), np.int32)
    for row, history in zip(ids, histories, strict=True):
        row[LENGTH - len(history) :] = history
    encode = jax.jit(lambda params, ids: run.model.merge(params).encode(ids))
    found = np.asarray(encode(run.restore(run.best_step()), ids))
    return np.where((ids != 0)[..., None], found, 0)


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=flag_path, help="keeps the runs")
    args = parser.parse_args(argv)
    folder = args.folder or Path(tempfile.mkdtemp())

    # 1. A recommender and a language model of the same catalogue, both frozen from here on.
    recjax.train(recommender(folder), folder / "recommender")
    recjax.train(language_model(folder), folder / "llm")
    run = recjax.open_run(folder / "recommender")

    # 2. States of training users' histories: without, and with, the newest item.
    store, runs = run.store, run.split.train
    histories = [store.items[a:b][-LENGTH:] for a, b in zip(runs.starts, runs.stops, strict=True)]
    before, after = states(run, [h[:-1] for h in histories]), states(run, histories)
    added = [store.titles[h[-1]] for h in histories]

    # 3. The adapter between them learns to say which item the newer state has more. States may
    #    come from any library: they are plain arrays.
    interpreter = recjax.Interpreter.fit(
        before, after, added, llm=folder / "llm" / "hf", domain="book", epochs=4, batch_size=48,
        catalogue=[title for title in store.titles if title],
        adapter=AdapterConfig(name="linear", soft=1), start=StartConfig(examples=0),
    )  # fmt: skip
    print(f"loss: {interpreter.losses[0]:.2f} -> {interpreter.losses[-1]:.2f}")

    # 4. Read states of test users; constrained decoding writes titles of the catalogue only.
    test = run.split.test
    seen = [store.items[a : b + 1][-LENGTH:] for a, b in zip(test.starts, test.stops, strict=True)]
    seen = seen[:4]
    answers = interpreter.residual(
        states(run, [h[:-1] for h in seen]), states(run, seen), decoding="constrained"
    )
    for history, answer in zip(seen, answers, strict=True):
        print(f"added: {store.titles[history[-1]]}; answer: {answer.text}")

    # 5. Keep it.
    interpreter.save(folder / "interpreter", overwrite=True)
    print(f"saved: {folder / 'interpreter'}")


if __name__ == "__main__":
    run_script(main)
