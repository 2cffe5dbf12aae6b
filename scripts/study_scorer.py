#!/usr/bin/env python
"""A small language model's scores of items, after a teacher's scores of others.

    python scripts/study_scorer.py --scores item_scores.tsv --out runs/scorer [--seeds 1]
        [--results FILE]

Of ML-100K's items (`RECJAX_DATA`) a fifth is held out. A LLaMA from scratch learns the scores of
the others by `configs/guided/scorer.py:small` (a tenth of them validates) and scores the held-out
ones by `recjax score`. Printed is Spearman's rank correlation with the teacher by aspect, beside
those of two baselines: the mean of the training items of the same genres, and a ridge regression on
genres and the year (its penalty by validation).
"""

import argparse
import json
import logging
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:  # recjax needs no installation to be measured
    sys.path.insert(0, str(ROOT))

from recjax.arguments import Parser, positive  # noqa: E402
from recjax.errors import run_script  # noqa: E402
from recjax.paths import flag_file, flag_path  # noqa: E402


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's of two [n]; 0 where one is constant."""
    from scipy.stats import spearmanr

    constant = not (np.ptp(one) and np.ptp(other))
    return 0.0 if constant else float(spearmanr(one, other).statistic)


def by_genre(genres: np.ndarray, scores: np.ndarray, train: np.ndarray) -> np.ndarray:
    """[n A] mean, over an item's genres, of their training items' means."""
    counts = genres[train].sum(0)[:, None]
    means = genres[train].T @ scores[train] / np.maximum(counts, 1)
    means = np.where(counts > 0, means, scores[train].mean(0))
    weights = genres / np.maximum(genres.sum(1, keepdims=True), 1)
    return np.where(genres.any(1)[:, None], weights @ means, scores[train].mean(0))


def ridge(inputs: np.ndarray, scores: np.ndarray, train: np.ndarray, val: np.ndarray) -> np.ndarray:
    """[n A] predictions of linear maps; each aspect's penalty has the least error on `val`."""
    x = np.column_stack([inputs, np.ones(len(inputs))])
    out, best = np.zeros(scores.shape), np.full(scores.shape[1], np.inf)
    for penalty in (0.1, 1.0, 10.0, 100.0):
        own = np.eye(x.shape[1]) * penalty
        own[-1, -1] = 0
        weights = np.linalg.solve(x[train].T @ x[train] + own, x[train].T @ scores[train])
        found = x @ weights
        error = ((found[val] - scores[val]) ** 2).mean(0)
        out = np.where(error < best, found, out)
        best = np.minimum(error, best)
    return out


def start_model(folder: Path, pairs: Path, size: int, layers: int, vocab: int, seed: int) -> None:
    """A new LLaMA and a tokenizer of the pairs' texts, as a folder of Hugging Face."""
    from flax import nnx

    from recjax.convert.language_model import language_model
    from recjax.convert.writing import write_language_model
    from recjax.models.definition import params_of
    from recjax.models.llama import Config, Llama
    from recjax.text.bpe import train_bpe

    rows = [json.loads(line) for line in pairs.read_text(encoding="utf-8").splitlines()]
    tokenizer = train_bpe([row["prompt"] + row["answer"] for row in rows], vocab)
    config = Config(
        vocab_size=tokenizer.size, dim=size, mlp_dim=3 * size, layers=layers, heads=size // 32,
        kv_heads=size // 32, head_dim=32, max_length=1024, tied=True,
    )  # fmt: skip
    params = params_of(Llama(config, rngs=nnx.Rngs(seed)))
    write_language_model(folder, language_model(config, params), overwrite=True)
    tokenizer.save(folder)
    eos = json.dumps({"eos_token_id": tokenizer.eos_id})
    (folder / "generation_config.json").write_text(eos)


def done(words: list[str]) -> None:
    """Runs a command of `recjax`; one that fails has told why, and ends the script."""
    from recjax.cli import main

    if status := main(words):
        raise SystemExit(status)


def parse() -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--scores", type=flag_path, required=True, help="of the teacher, all items")
    parser.add_argument("--out", type=flag_path, required=True, help="a folder")
    parser.add_argument("--results", type=flag_file, help="a line of JSON a seed and way to score")
    parser.add_argument("--seeds", type=positive, default=1)
    parser.add_argument("--dim", type=positive, default=128)
    parser.add_argument("--layers", type=positive, default=2)
    parser.add_argument("--vocab", type=positive, default=2000)
    return parser.parse_args()


def main() -> None:
    args = parse()
    logging.getLogger("absl").setLevel(logging.ERROR)
    from recjax.data.attributes import multi_hot, numbers
    from recjax.data.prepare import DataConfig, prepare
    from recjax.guided.aspects import aspect_set
    from recjax.guided.score_files import read_item_scores, write_scores

    aspects = aspect_set("movies")
    args.out.mkdir(parents=True, exist_ok=True)
    store = prepare(DataConfig("movielens", str(args.out / "store"), path="ml-100k"))
    scores = read_item_scores(args.scores, store.catalog, aspects).values[1:]
    genres = multi_hot(store.catalog, "genres").values[1:]
    years = numbers(store.catalog, "year")
    inputs = np.column_stack([genres, years.standardized()[1:], 1.0 - years.known[1:]])
    keys = np.array([record["key"] for record in store.catalog[1:]])
    table: dict[str, list[np.ndarray]] = {}
    for seed in range(args.seeds):
        order = np.random.default_rng(seed).permutation(len(keys))
        held, train = order[: len(keys) // 5], order[len(keys) // 5 :]
        fitted, val = train[len(train) // 10 :], train[: len(train) // 10]
        folder = args.out / f"seed{seed}"
        folder.mkdir(exist_ok=True)
        names = {n: folder / n for n in ("teacher.tsv", "pairs.jsonl", "start", "run", "held.txt")}
        write_scores(names["teacher.tsv"], keys[train], scores[train], aspects)
        names["held.txt"].write_text("".join(f"{key}\n" for key in keys[held]))
        own = [f"--data={store.path}", "--aspects=movies", "--brief", "--overwrite"]
        told = ["score", "items", *own, f"--teacher={names['teacher.tsv']}"]
        done([*told, f"--out={names['pairs.jsonl']}"])
        start_model(names["start"], names["pairs.jsonl"], args.dim, args.layers, args.vocab, seed)
        begun = time.perf_counter()
        config = ROOT / "configs" / "guided" / "scorer.py"
        run = [
            "train", f"--config={config}:small", f"--config.llm={names['start']}",
            f"--config.data.path={names['pairs.jsonl']}", f"--config.seed={seed}",
            f"--workdir={names['run']}", "--overwrite",
        ]  # fmt: skip
        done(run)
        print(f"seed {seed}: trained in {time.perf_counter() - begun:.0f} s", flush=True)
        found = {
            "mean by genre": by_genre(genres, scores, train),
            "ridge on genres and year": ridge(inputs, scores, fitted, val),
        }
        for name, flags in (
            ("forced, likeliest", ["--how=forced"]),
            ("forced, expected", ["--how=forced", "--value=expected"]),
            ("apart, expected", ["--how=apart", "--value=expected"]),
        ):
            out = folder / f"{name.replace(', ', '_')}.tsv"
            among = [f"--among={names['held.txt']}", f"--llm={names['run']}", f"--out={out}"]
            done(["score", "items", *own, *among, *flags])
            found[name] = read_item_scores(out, store.catalog, aspects).values[1:]
        for name, values in found.items():
            row = [correlation(values[held, a], scores[held, a]) for a in range(len(aspects))]
            table.setdefault(name, []).append(np.array(row))
            if args.results:
                with args.results.open("a") as file:
                    line = {
                        "seed": seed,
                        "name": name,
                        "by_aspect": row,
                        "mean": float(np.mean(row)),
                    }
                    file.write(json.dumps(line) + "\n")
    print(f"{len(held)} held-out items; Spearman's rank correlation, mean of {args.seeds} seeds")
    print(f"{'':<38}" + "".join(f"{name[:24]:>26}" for name in table))
    for a, name in enumerate([*aspects.names, "mean"]):
        row = [np.mean(v, axis=0) for v in table.values()]
        cells = [r.mean() if name == "mean" else r[a] for r in row]
        print(f"{name:<38}" + "".join(f"{cell:>26.3f}" for cell in cells))
    result = {name: [row.tolist() for row in rows] for name, rows in table.items()}
    (args.out / "correlations.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    run_script(main)
