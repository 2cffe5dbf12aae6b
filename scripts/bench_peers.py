"""Speed of other libraries' SASRec; one JSON line a measurement on stdout.

Runs in an environment that has RecTools or RecBole (and not recjax); `bench_recommenders.py` calls
it, so that all figures of a comparison come from one run on one machine.

    PEER_PYTHON scripts/bench_peers.py --peer rectools --what bce --data Beauty.txt --threads 1
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", choices=("rectools", "recbole"), required=True)
    parser.add_argument("--what", choices=("bce", "softmax", "rank"), required=True)
    parser.add_argument(
        "--data", type=Path, required=True, help="sequence text: user item item ..."
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--length", type=int, default=50)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--users", type=int, default=4096, help="users to rank for")
    return parser.parse_args()


def sequences(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text().splitlines()]


def rectools(args: argparse.Namespace) -> dict:
    import pandas as pd
    import torch
    from pytorch_lightning import Callback, Trainer
    from rectools.dataset import Dataset
    from rectools.models import SASRecModel

    torch.set_num_threads(args.threads)
    rows = [
        (user, item, place)
        for user, *items in sequences(args.data)
        for place, item in enumerate(items[:-2])
    ]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "datetime"])
    frame["datetime"] = pd.to_datetime(frame["datetime"], unit="D")
    frame["weight"] = 1.0
    dataset = Dataset.construct(frame)
    times: list[float] = []

    class Clock(Callback):
        def on_train_batch_start(self, *_):
            self.start = time.perf_counter()

        def on_train_batch_end(self, *_):
            times.append(time.perf_counter() - self.start)

    steps = 1 if args.what == "rank" else args.steps

    def trainer(**_):
        return Trainer(
            max_epochs=1,
            limit_train_batches=steps + 2,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            callbacks=[Clock()],
        )

    model = SASRecModel(
        n_blocks=args.layers,
        n_heads=1,
        n_factors=args.dim,
        session_max_len=args.length,
        loss="BCE" if args.what == "bce" else "softmax",
        n_negatives=1,
        batch_size=args.batch,
        get_trainer_func=trainer,
        recommend_batch_size=args.batch,
        recommend_n_threads=args.threads,
    )
    model.fit(dataset)
    if args.what == "rank":
        users = frame["user_id"].unique()[: args.users]
        start = time.perf_counter()
        model.recommend(users=users, dataset=dataset, k=10, filter_viewed=True)
        seconds = time.perf_counter() - start
        return {"users_per_second": len(users) / seconds, "sample": "top 10 of the catalogue"}
    step = sum(times[2:]) / len(times[2:])
    return {
        "step_seconds": step,
        "samples_per_second": args.batch / step,
        "sample": "a sequence, a loss at every position",
    }


def recbole(args: argparse.Namespace) -> dict:
    import torch
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.trainer import Trainer
    from recbole.utils import get_model, init_seed

    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "bench").mkdir()
        with (Path(folder) / "bench" / "bench.inter").open("w") as file:
            file.write("user_id:token\titem_id:token\ttimestamp:float\n")
            for user, *items in sequences(args.data):
                file.writelines(f"{user}\t{item}\t{t}\n" for t, item in enumerate(items))
        config = Config(
            model="SASRec",
            dataset="bench",
            config_dict={
                "data_path": folder,
                "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
                "MAX_ITEM_LIST_LENGTH": args.length,
                "n_layers": args.layers,
                "n_heads": 1,
                "hidden_size": args.dim,
                "inner_size": args.dim,
                "loss_type": "CE",
                "train_neg_sample_args": None,
                "train_batch_size": args.batch,
                "eval_batch_size": args.batch,
                "eval_args": {
                    "split": {"LS": "valid_and_test"},
                    "order": "TO",
                    "mode": "full",
                    "group_by": "user",
                },
                "topk": [10],
                "metrics": ["NDCG"],
                "use_gpu": False,
                "show_progress": False,
                "state": "ERROR",
                "checkpoint_dir": folder,
            },
        )
        init_seed(config["seed"], True)
        dataset = create_dataset(config)
        train, _, test = data_preparation(config, dataset)
        model = get_model("SASRec")(config, train.dataset)
        if args.what == "rank":
            start = time.perf_counter()
            Trainer(config, model).evaluate(test, load_best_model=False)
            seconds = time.perf_counter() - start
            rate = len(test.dataset) / seconds
            return {"users_per_second": rate, "sample": "a metric over the full catalogue"}
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        model.train()
        times = []
        for step, batch in enumerate(train):
            start = time.perf_counter()
            optimizer.zero_grad()
            model.calculate_loss(batch).backward()
            optimizer.step()
            times.append(time.perf_counter() - start)
            if step == args.steps + 1:
                break
        seconds = sum(times[2:]) / len(times[2:])
        return {
            "step_seconds": seconds,
            "samples_per_second": args.batch / seconds,
            "sample": "one position (a prefix of a sequence and its next item)",
        }


def main() -> None:
    args = parse()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    result = {"rectools": rectools, "recbole": recbole}[args.peer](args)
    print(json.dumps({"peer": args.peer, "what": args.what, **result}))


if __name__ == "__main__":
    main()
