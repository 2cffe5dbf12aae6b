"""Speed of other libraries' recommenders; one JSON line on stdout.

Runs in an environment that has RecTools or RecBole (and not recjax); `bench_recommenders.py` calls
it, so that all figures of a comparison come from one run on one machine.

    PEER_PYTHON scripts/bench_peers.py --peer rectools --model sasrec --what bce --data Beauty.txt
    PEER_PYTHON scripts/bench_peers.py --peer recbole --model hgn --what bpr --data Beauty.txt

Training is each library's own loop over its own data loader: a step lasts from the end of one to
the end of the next, so it has its batch in it (`compute_seconds` has not). The first two steps are
left out. Defaults of the libraries stand but for the sizes, the loss, the batch and how BERT4Rec
masks (as recjax's config does: defaults mask fewer items a sample, which costs more a position);
RecBole's feed-forward layers are made as wide as the others'.

RecBole's Caser and HGN have one window, the length of their histories (Caser with a filter of every
height up to it): give them `--length 5` to compare them with a window of 5. FDSA and S3-Rec read
the categories of `items.jsonl` beside the data. A sample of S3-Rec's pre-training counts as many
positions as it has items. Peer rectools-fast is SASRec of RecTools' `fast_transformers`, model
modern RecTools' LiGR with a sampled softmax: the recipe of eSASRec.
"""

import argparse
import importlib.metadata
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

WARM_UP = 2  # steps
WHAT = {  # what can be measured of (peer, model)
    ("rectools", "sasrec"): ("bce", "softmax", "rank"),
    ("rectools", "bert4rec"): ("softmax", "rank"),
    ("rectools", "modern"): ("sampled_softmax",),
    ("rectools-fast", "sasrec"): ("bce", "softmax"),
    ("recbole", "sasrec"): ("softmax", "rank"),
    ("recbole", "gru4rec"): ("softmax", "rank"),
    ("recbole", "caser"): ("softmax", "rank"),
    ("recbole", "bert4rec"): ("softmax", "rank"),
    ("recbole", "hgn"): ("softmax", "bpr"),
    ("recbole", "fdsa"): ("softmax",),
    ("recbole", "s3rec"): ("softmax", "pretrain"),
    ("recbole", "bpr"): ("bpr",),
    ("recbole", "simplex"): ("ccl",),
}
now = time.perf_counter


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peer", choices=tuple(PEERS), required=True)
    models = sorted({model for _, model in WHAT})
    parser.add_argument("--model", choices=models, default="sasrec")
    tasks = sorted({what for known in WHAT.values() for what in known})
    parser.add_argument("--what", choices=tasks, required=True)
    parser.add_argument(
        "--data", type=Path, required=True, help="sequence text: user item item ..."
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--length", type=int, default=50)
    parser.add_argument("--mask-share", type=float, default=0.6, help="masked items of BERT4Rec")
    parser.add_argument(
        "--last-share",
        type=float,
        default=0.1,
        help="RecBole's BERT4Rec: batches in which the newest items alone are masked",
    )
    parser.add_argument(
        "--negatives",
        type=int,
        default=1,
        help="of a pair or a position",
    )
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=10, help="training steps to time")
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: seconds of this process on the core; for a core that others use too",
    )
    args = parser.parse_args()
    possible = WHAT.get((args.peer, args.model), ())
    if args.what not in possible:
        parser.error(
            f"--peer {args.peer} --model {args.model}: no '{args.what}'; measured here: "
            f"{', '.join(possible) or 'nothing'} (RecTools has no GRU4Rec and no Caser, "
            "rectools-fast is its `fast_transformers`; RecBole's losses are CE and BPR)"
        )
    if args.clock == "cpu" and args.threads != 1:
        parser.error("--clock cpu: needs --threads 1 (it adds up the time of all threads)")
    if args.steps < 1 or args.negatives < 1:
        parser.error("--steps, --negatives: expected at least 1")
    return args


def sequences(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text().splitlines()]


class Clock:
    """Times of steps, and of the waits for their batches."""

    def __init__(self) -> None:
        self.starts: list[float] = []  # with the batch at hand
        self.ends: list[float] = []

    def figures(self, batch: int, positions: float, sample: str) -> dict[str, Any]:
        """Figures of the steps after the first ones.

        Args:
            batch: samples a step.
            positions: trained positions (losses) a sample.
            sample: what one sample is.
        """
        ends = self.ends[WARM_UP - 1 :]
        whole = [after - before for before, after in itertools.pairwise(ends)]
        pairs = zip(self.starts[WARM_UP:], self.ends[WARM_UP:], strict=True)
        step = statistics.median(whole)
        return {
            "step_seconds": step,
            "compute_seconds": statistics.median(end - start for start, end in pairs),
            "steps": len(whole),
            "samples_per_second": batch / step,
            "positions_per_sample": positions,
            "positions_per_second": batch * positions / step,
            "sample": sample,
        }


def rectools(args: argparse.Namespace) -> dict[str, Any]:
    import pandas as pd
    import torch
    from pytorch_lightning import Callback, Trainer
    from rectools.dataset import Dataset
    from rectools.models import BERT4RecModel, SASRecModel
    from rectools.models.nn.transformers.ligr import LiGRLayers

    torch.set_num_threads(args.threads)
    held_out = 1 if args.what == "rank" else 2  # ranking for the test sees the validation's item
    rows = [
        (user, item, place)
        for user, *items in sequences(args.data)
        for place, item in enumerate(items[:-held_out])
    ]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "datetime"])
    frame["datetime"] = pd.to_datetime(frame["datetime"], unit="D")
    frame["weight"] = 1.0
    dataset = Dataset.construct(frame)
    clock, positions = Clock(), []

    class Watch(Callback):
        def on_train_batch_start(self, trainer, module, batch, number):
            positions.append((batch["y"] != 0).sum().item())
            clock.starts.append(now())

        def on_train_batch_end(self, *_):
            clock.ends.append(now())

    def trainer(**_):
        return Trainer(
            max_epochs=1,
            limit_train_batches=1 if args.what == "rank" else WARM_UP + args.steps,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            callbacks=[Watch()],
        )

    masked = args.model == "bert4rec"
    own = {"n_heads": 2, "mask_prob": args.mask_share} if masked else {"n_heads": 1}
    loss = "softmax" if masked or args.what == "softmax" else "BCE"
    if args.model == "modern":  # the recipe of eSASRec
        own, loss = {"n_heads": 2, "transformer_layers_type": LiGRLayers}, "sampled_softmax"
    model = (BERT4RecModel if masked else SASRecModel)(
        **own,
        n_blocks=args.layers,
        n_factors=args.dim,
        session_max_len=args.length,
        loss=loss,
        n_negatives=args.negatives,
        batch_size=args.batch,
        get_trainer_func=trainer,
        recommend_batch_size=args.batch,
        recommend_n_threads=args.threads,
        recommend_torch_device="cpu",
    )
    model.fit(dataset)
    if args.what == "rank":
        users = frame["user_id"].unique()
        start = now()
        model.recommend(users=users, dataset=dataset, k=10, filter_viewed=True)
        seconds = now() - start
        return {
            "users": len(users),
            "users_per_second": len(users) / seconds,
            "sample": "a user's top 10 of the catalogue less the history, as a table; no metrics",
        }
    mean = statistics.mean(positions[WARM_UP:]) / args.batch
    where = f"{args.mask_share:.0%} of its items masked" if masked else "a loss at every position"
    return clock.figures(args.batch, mean, f"a sequence, {where}")


def rectools_fast(args: argparse.Namespace) -> dict[str, Any]:
    """SASRec of `rectools.fast_transformers`: its data and network; it has no loop of its own.

    Negatives are drawn for a batch at once, where the library's other model draws them by sample.
    """
    import torch
    from rectools.fast_transformers import FlatSASRecNet, SequenceBatchDataset, build_sequences
    from torch.nn import functional

    torch.set_num_threads(args.threads)
    numbers: dict[str, int] = {}
    rows = [
        (int(user), numbers.setdefault(item, len(numbers)), place)
        for user, *items in sequences(args.data)
        for place, item in enumerate(items[:-2])
    ]
    x, y, known, _ = build_sequences(*map(torch.tensor, zip(*rows, strict=True)), args.length)
    net = FlatSASRecNet(len(known), args.dim, args.layers, 1, args.length)
    optimizer = torch.optim.Adam(net.parameters())
    loader = torch.utils.data.DataLoader(SequenceBatchDataset(x, y), args.batch, shuffle=True)
    clock, positions = Clock(), []
    for number, batch in enumerate(loader):
        clock.starts.append(now())
        real = batch["y"] != 0
        if args.what == "bce":
            shape = (*batch["y"].shape, args.negatives)
            batch["negatives"] = torch.randint(1, len(known) + 1, shape)
            logits = net(batch)
            wanted = torch.zeros_like(logits)
            wanted[..., 0] = 1.0
            losses = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
            loss = (losses.mean(-1) * real).sum() / real.sum()
        else:
            logits = net(batch).flatten(0, 1)
            loss = functional.cross_entropy(logits, batch["y"].flatten() - 1, ignore_index=-1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        clock.ends.append(now())
        positions.append(real.sum().item())
        if number == WARM_UP + args.steps - 1:
            break
    mean = statistics.mean(positions[WARM_UP:]) / args.batch
    return clock.figures(args.batch, mean, "a sequence, a loss at every position")


class Watched:
    """RecBole's training batches, a few of them: notes when each is asked for and handed out."""

    shuffle = False  # the trainer asks; the loader behind has its own sampler

    def __init__(self, loader: Any, count: int, clock: Clock) -> None:
        self.loader, self.count, self.clock = loader, count, clock

    def __iter__(self):
        for number, batch in enumerate(self.loader):
            self.clock.starts.append(now())
            yield batch
            self.clock.ends.append(now())
            if number == self.count - 1:
                return


def recbole_data(args: argparse.Namespace, folder: Path, *, attributes: bool) -> None:
    """Writes the sequences, and the items' categories, as RecBole's atomic files."""
    (folder / "bench").mkdir()
    with (folder / "bench" / "bench.inter").open("w") as file:
        file.write("user_id:token\titem_id:token\ttimestamp:float\n")
        for user, *items in sequences(args.data):
            file.writelines(f"{user}\t{item}\t{t}\n" for t, item in enumerate(items))
    if not attributes:
        return
    with (folder / "bench" / "bench.item").open("w") as file:
        file.write("item_id:token\tclass:token_seq\n")
        for line in args.data.with_name("items.jsonl").read_text().splitlines():
            record = json.loads(line)
            labels = {label.replace(" ", "_") for path in record["categories"] for label in path}
            file.write(f"{record['item_id']}\t{' '.join(sorted(labels))}\n")


def recbole_sizes(args: argparse.Namespace) -> dict[str, Any]:
    """The options of a model's sizes."""
    attention = {"n_layers": args.layers, "hidden_size": args.dim}
    return {
        "sasrec": {**attention, "n_heads": 1, "inner_size": args.dim},
        "gru4rec": {"embedding_size": args.dim, "hidden_size": args.dim, "num_layers": 1},
        "caser": {"embedding_size": args.dim, "nh": 16, "nv": 4},
        "bert4rec": {
            **attention,
            "n_heads": 2,
            "inner_size": 4 * args.dim,
            "mask_ratio": args.mask_share,
            "ft_ratio": args.last_share,
        },
        "hgn": {"embedding_size": args.dim},
        "fdsa": {**attention, "n_heads": 2, "inner_size": args.dim},
        "s3rec": {**attention, "n_heads": 2, "inner_size": 4 * args.dim, "train_stage": "pretrain"},
        "bpr": {"embedding_size": args.dim},
        "simplex": {"embedding_size": args.dim, "history_len": args.length},
    }[args.model]


def recbole(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    import torch
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.trainer import Trainer
    from recbole.utils import get_model, init_seed

    torch.set_num_threads(args.threads)
    attributes = args.model in ("fdsa", "s3rec")
    recbole_data(args, folder, attributes=attributes)
    name = {
        "sasrec": "SASRec",
        "gru4rec": "GRU4Rec",
        "caser": "Caser",
        "bert4rec": "BERT4Rec",
        "hgn": "HGN",
        "fdsa": "FDSA",
        "s3rec": "S3Rec",
        "bpr": "BPR",
        "simplex": "SimpleX",
    }[args.model]
    masked, paired = args.model == "bert4rec", args.what in ("bpr", "ccl")
    drawn = {"distribution": "uniform", "sample_num": args.negatives, "alpha": 1.0}
    columns = {"inter": ["user_id", "item_id", "timestamp"]}
    columns |= {"item": ["item_id", "class"]} if attributes else {}
    options = {
        "data_path": str(folder),
        "load_col": columns,
        "MAX_ITEM_LIST_LENGTH": args.length,
        **recbole_sizes(args),
        "train_neg_sample_args": {**drawn, "dynamic": False, "candidate_num": 0}
        if paired
        else None,
        # A batch has a pair for each of its negatives.
        "train_batch_size": args.batch * (args.negatives if paired else 1),
        "eval_batch_size": args.batch,
        "eval_args": {
            "split": {"LS": "valid_and_test"},
            "order": "TO",
            "mode": "full",
            "group_by": "user",
        },
        "topk": [1, 5, 10, 20],
        "metrics": ["Hit", "NDCG", "MRR"],
        "use_gpu": False,
        "show_progress": False,
        "state": "ERROR",
        "checkpoint_dir": str(folder),
    }
    if args.what != "ccl":
        options["loss_type"] = "BPR" if args.what == "bpr" else "CE"
    config = Config(model=name, dataset="bench", config_dict=options)
    init_seed(config["seed"], True)
    dataset = create_dataset(config)
    train, _, test = data_preparation(config, dataset)
    model = get_model(name)(config, train.dataset)
    if args.model == "s3rec" and args.what == "softmax":  # fine-tuning starts from a file
        start = folder / "pretrained.pth"
        torch.save({"state_dict": model.state_dict()}, start)
        changed = {**options, "train_stage": "finetune", "pre_model_path": str(start)}
        config = Config(model=name, dataset="bench", config_dict=changed)
        model = get_model(name)(config, train.dataset)
    trainer = Trainer(config, model)
    if args.what == "rank":
        start = now()
        trainer.evaluate(test, load_best_model=False)
        seconds = now() - start
        return {
            "users": len(test.dataset),
            "users_per_second": len(test.dataset) / seconds,
            "sample": "a user's HR, NDCG and MRR over the catalogue, history included",
        }
    positions, sample = 1.0, "one position: a prefix of a sequence and its next item"
    if args.model in ("caser", "hgn"):
        sample = f"one position: the newest {args.length} items of a prefix and the next item"
    if args.model in ("bpr", "simplex"):
        sample = "one pair of a user and an item"
    if paired:
        sample += f", {args.negatives} negatives"
    if masked:
        # Some batches have the newest items masked alone, and the loss leaves out masks in place
        # 0: counted over more batches than are timed.
        batches = list(itertools.islice(train, 64))
        counts = [(batch[config["MASK_INDEX"]] > 0).sum().item() for batch in batches]
        positions = statistics.mean(counts) / args.batch
        sample = f"a prefix of a sequence, {args.mask_share:.0%} of its items masked"
    if args.what == "pretrain":
        batches = list(itertools.islice(train, 16))
        counts = [(batch["item_id_list"] > 0).sum().item() for batch in batches]
        positions = statistics.mean(counts) / args.batch
        sample = "a prefix of a sequence, counted in its items"
    clock = Clock()
    trainer._train_epoch(Watched(train, WARM_UP + args.steps, clock), 0)
    return clock.figures(args.batch, positions, sample)


PEERS = {
    "rectools": lambda args, folder: rectools(args),
    "rectools-fast": lambda args, folder: rectools_fast(args),
    "recbole": recbole,
}


def main() -> None:
    args = parse()
    if args.clock == "cpu":
        global now
        now = time.process_time
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # before torch is loaded
        os.environ[name] = str(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        # What the libraries print goes to stderr.
        stdout, sys.stdout = sys.stdout, sys.stderr
        try:
            result = PEERS[args.peer](args, Path(folder))
        finally:
            sys.stdout = stdout
    library = args.peer.partition("-")[0]
    versions = {name: importlib.metadata.version(name) for name in (library, "torch")}
    asked = {key: getattr(args, key) for key in ("peer", "model", "what", "length", "clock")}
    print(json.dumps({**asked, **result, "versions": versions}))


if __name__ == "__main__":
    main()
