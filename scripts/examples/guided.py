#!/usr/bin/env python
"""From a csv and scores of your own aspects to a refined recommender and a page of reasons.

    python scripts/examples/guided.py
    python scripts/examples/guided.py --csv=log.csv --scores=item_scores.tsv --user=user_id

Without `--csv` the example simulates a small log, and scores its books on aspects of their genres.
`recjax score` makes such scores with a language model. It trains ten short epochs; raise `--epochs`
for your own data.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import recjax
from recjax.arguments import Parser
from recjax.cli import main as command
from recjax.data.attributes import multi_hot
from recjax.data.simulate import SimulateConfig, simulate, write_raw
from recjax.errors import run_script
from recjax.guided.aspects import Aspect, AspectSet
from recjax.guided.score_files import write_scores
from recjax.paths import flag_path


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=flag_path, help="keeps the store, the scores and the runs")
    parser.add_argument("--csv", type=flag_path, help="one row per interaction, with a header")
    parser.add_argument("--scores", type=flag_path, help="item_id and a column for each aspect")
    parser.add_argument("--user", default="user", help="name of the user's column")
    parser.add_argument("--item", default="item", help="name of the item's column")
    parser.add_argument("--timestamp", default="timestamp", help="name of the time's column")
    parser.add_argument("--epochs", type=float, default=10.0)
    args = parser.parse_args(argv)
    if (args.csv is None) != (args.scores is None):
        parser.error("--csv and --scores go together")
    folder = args.folder or Path(tempfile.mkdtemp())

    # 1. A log, and scores of its items from 1 to 10.
    options = {"user": args.user, "item": args.item, "timestamp": args.timestamp}
    if args.csv is None:
        log, catalog = simulate(SimulateConfig(users=300, mean_length=12.0, max_length=30))
        write_raw(log, catalog, folder / "raw")
        args.csv = folder / "raw" / "interactions.csv"
        options |= {"items": "items.jsonl", "items_title": "title"}
    data = {"source": "table", "path": str(args.csv), "store": str(folder / "store")}
    config = {
        "data": {**data, "options": options},
        "split": {"name": "rolling", "last": 3},  # the last three items of each user are tests
        "model": {"name": "sasrec", "dim": 24, "mlp_dim": 24, "layers": 1, "max_length": 30},
        "objective": {"name": "softmax"},
        "train": {"epochs": args.epochs, "batch_size": 64, "steps_per_call": 1},
    }
    store = recjax.prepare(config)
    if args.scores is None:
        args.scores = folder / "item_scores.tsv"
        genres = multi_hot(store.catalog, "genres")
        aspects = AspectSet("books", tuple(Aspect(name) for name in genres.names))
        keys = [record["key"] for record in store.catalog[1:]]
        noise = np.random.default_rng(0).integers(0, 4, genres.values[1:].shape)
        write_scores(args.scores, keys, 1 + 6 * genres.values[1:] + noise, aspects)

    # 2. The same model without and with aspects: the total width is equal.
    recjax.train(config, folder / "base")
    refined = {
        **config, "system": "guided",
        "guided": {"items": (f"scores:{args.scores}",), "vector": "recent:10"},
        "refine": {"user": "added", "form": "linear"},
    }  # fmt: skip
    recjax.train(refined, folder / "refined")
    command(["evaluate", f"--workdir={folder / 'refined'}", f"--against={folder / 'base'}"])

    # 3. Aspects beside the base that is trained already.
    fused = {"system": "fused", "base": str(folder / "base"), "guided": refined["guided"]}
    result = recjax.train(fused, folder / "fused")
    print(f"fused with weight {result['weight']}: ndcg@10 {result['test/full/ndcg@10']:.3f}")

    # 4. Why, in words and on a page; and what another taste would be recommended.
    run = recjax.open_run(folder / "refined")
    workdir, user = f"--workdir={folder / 'refined'}", f"--user={store.user_keys[0]}"
    command(["explain", workdir, user, f"--change=more {run.guided.names[0]}"])
    command(["explain", workdir, user])
    command(["report", workdir])


if __name__ == "__main__":
    run_script(main)
