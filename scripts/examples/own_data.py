#!/usr/bin/env python
"""From your own csv to recommendations.

    python scripts/examples/own_data.py
    python scripts/examples/own_data.py --csv=log.csv --user=user_id --item=product --timestamp=time

Without `--csv` the example simulates a small log. It trains two short epochs; raise `--epochs` for
your own data (`configs/recommenders/table_sasrec.py` has a full recipe).
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import recjax
from recjax.arguments import Parser
from recjax.data.simulate import SimulateConfig, simulate, write_raw
from recjax.errors import run_script
from recjax.paths import flag_path


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=flag_path, help="keeps the store and the run")
    parser.add_argument("--csv", type=flag_path, help="one row per interaction, with a header")
    parser.add_argument("--user", default="user", help="name of the user's column")
    parser.add_argument("--item", default="item", help="name of the item's column")
    parser.add_argument("--timestamp", default="timestamp", help="name of the time's column")
    parser.add_argument("--epochs", type=float, default=2.0)
    args = parser.parse_args(argv)
    folder = args.folder or Path(tempfile.mkdtemp())

    # 1. A log: user, item, timestamp (and optionally ratings and titles).
    options = {"user": args.user, "item": args.item, "timestamp": args.timestamp}
    if args.csv is None:
        log, catalog = simulate(SimulateConfig(users=80, mean_length=10.0, max_length=20))
        write_raw(log, catalog, folder / "raw")  # interactions.csv and items.jsonl
        args.csv = folder / "raw" / "interactions.csv"
        options |= {"items": "items.jsonl", "items_title": "title"}

    # 2. A config: the sections of a config file as a dict. Every other key has its default.
    config = {
        "data": {
            "source": "table", "path": str(args.csv), "store": str(folder / "store"),
            "options": options,
        },
        "model": {"name": "sasrec", "dim": 16, "layers": 1, "max_length": 20},
        "objective": {"name": "softmax"},
        "train": {"epochs": args.epochs, "batch_size": 32},
    }  # fmt: skip

    # 3. The store: arrays of item ids, users one after another. 0 is padding.
    store = recjax.prepare(config)
    user = store.user_keys[0]
    items = store.items[store.offsets[0] : store.offsets[1]]
    print(f"{len(store.user_keys)} users, {store.n_items - 1} items")
    print(f"{user}: {', '.join(store.titles[i] or store.catalog[i]['key'] for i in items)}")

    # 4. Training; rerun it to resume. The result holds the test metrics of the best checkpoint.
    result = recjax.train(config, folder / "run")
    print(f"test/full/ndcg@10: {result['test/full/ndcg@10']:.3f}")

    # 5. Recommendations for users of the log, and for anybody's history (newest item last).
    run = recjax.open_run(folder / "run")
    for asked in ([user], [[store.catalog[i]["key"] for i in items[-3:]]]):
        found = run.recommend(asked, k=5)
        for rank, key in enumerate(found.keys[0]):
            print(f"{rank + 1}. {found.titles[0][rank] or key}  {found.scores[0][rank]:.2f}")


if __name__ == "__main__":
    run_script(main)
