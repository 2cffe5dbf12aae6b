#!/usr/bin/env python
"""RecSysLLM on the simulated sample: train, measure, recommend, and a report of cases.

    python scripts/examples/recsysllm.py
    python scripts/examples/recsysllm.py --plain=off      # without plain GLM beside it

A small GLM learns histories, next items and ratings of simulated readers from text alone, once as
RecSysLLM blanks and counts and once as plain GLM does. The report (FOLDER/recsysllm/report.html)
has both in bars, sequences as numbers and as text, and cases: what a reader read, what came next,
and what the model says. It takes ten minutes of one core's time.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import recjax
from recjax.arguments import Parser, positive
from recjax.errors import run_script
from recjax.paths import flag_path
from recjax.report.page import write_report
from recjax.report.sections import Bars, Case, Cases, Item, Table, write_results

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "recsysllm" / "sample.py"
# Sizes that two cores train in minutes.
SMALL = {
    "data.options.users": 1500, "data.options.items": 120, "data.options.mean_length": 8.0,
    "data.options.max_length": 20,
    "model.dim": 64, "model.mlp_dim": 256, "model.head_dim": 16,
    "tokenizer.vocab_size": 600,
    "evaluation.max_examples": 100,
}  # fmt: skip
PLAIN = {
    "text.entities.whole": False, "text.entities.positions": False, "blanks.shuffle": True,
    "text.answers.dynamic": False,
}  # fmt: skip
SHARES = ("full/hr@5", "full/ndcg@5", "full/hr@10", "full/ndcg@10", "gen/valid_ratio")
RATING = ("rating/rmse", "rating/expected/rmse", "rating/baseline/rmse")


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=flag_path, help="keeps the runs")
    parser.add_argument("--epochs", type=float, default=4.0)
    parser.add_argument("--users", type=positive, default=SMALL["data.options.users"])
    parser.add_argument(
        "--examples", type=positive, default=200, help="of each prompt that is tested"
    )
    parser.add_argument("--plain", choices=("on", "off"), default="on", help="train GLM, too")
    args = parser.parse_args(argv)
    folder = args.folder or Path(tempfile.mkdtemp())

    # 1. Train: histories as text, next items, ratings; the switches of the paper are on.
    changes = {
        **SMALL, "data.store": str(folder / "store"), "data.options.users": args.users,
        "text.answers.max_examples": args.examples, "text.answers.free": min(50, args.examples),
        "train.epochs": args.epochs, "optim.cooldown_epochs": args.epochs / 4,
    }  # fmt: skip
    results = {"RecSysLLM": recjax.train(str(CONFIG), folder / "recsysllm", changes=changes)}
    if args.plain == "on":
        results["GLM"] = recjax.train(str(CONFIG), folder / "glm", changes={**changes, **PLAIN})
    for name, result in results.items():
        told = ", ".join(f"{key} {result[f'test/{key}']:.4f}" for key in (*SHARES, *RATING))
        print(f"{name}: {told}")

    # 2. Recommend: titles of the catalogue by constrained beams, for users and for anybody.
    run = recjax.open_run(folder / "recsysllm")
    store, users = run.store, run.store.user_keys[:8]
    found = run.recommend(users, k=5)
    for user, titles in list(zip(users, found.titles, strict=True))[:5]:
        print(f"reader {user}: {'; '.join(map(str, titles))}")

    # 3. Cases: what comes after each history but its last item, which was held out.
    read = [
        store.items[store.offsets[u] : store.offsets[u + 1]].tolist() for u in range(len(users))
    ]
    histories = [[store.catalog[item]["key"] for item in items[:-1]] for items in read]
    said = run.recommend(histories, k=5).ids.tolist()
    rows, cases = [], []
    for user, items, answer in zip(users, read, said, strict=True):
        *history, target = items
        titles = [store.titles[item] for item in history[-10:]]
        rows.append([str(user), ", ".join(map(str, history[-10:])), ", ".join(titles)])
        cases.append(
            Case(
                f"reader {user}: then came {store.titles[target]}",
                [Item(title) for title in titles],
                [Item(store.titles[i], "hit" if i == target else "miss") for i in answer if i],
                target in answer,
            )
        )
    rating = [
        [name, *(result[f"test/{key}"] for key in RATING)] for name, result in results.items()
    ]
    sections = [
        Bars(
            "Metrics of the test",
            list(SHARES),
            {name: [result[f"test/{key}"] for key in SHARES] for name, result in results.items()},
            note="gen/valid_ratio: beams without the constraint that are titles of the catalogue.",
        ),
        Table(
            "Ratings: root mean square errors",
            ["model", "the number that is written", "the mean by likelihood", "the mean rating"],
            rating,
        ),
        Table("Sequences", ["reader", "as numbers", "as RecSysLLM reads them"], rows),
        Cases("Next items: the first five of the beams", cases),
    ]
    write_results(folder / "recsysllm" / "results.json", sections)
    print(f"report: {write_report(folder / 'recsysllm')}")


if __name__ == "__main__":
    run_script(main)
