"""Caser (Tang and Wang 2018) on MovieLens-100K (943 users).

    recjax train --config=configs/recommenders/ml100k_caser.py --workdir=runs/ml100k_caser

Without an argument the paper's binary cross-entropy, three negatives for each of the next three
items; `:ce` the full cross-entropy of the next item, with tied item vectors.
Leave-one-out, test/full/ndcg@10: BCE 0.0989, `:ce` 0.1019 (means of 3 seeds; 16 to 35 minutes on
one core).
configs/results/recommenders.md has the rest.
"""

from ml_collections import ConfigDict

from recjax.config import wrong_argument


def get_config(arg: str | None = None) -> ConfigDict:
    if arg not in (None, "ce"):
        raise wrong_argument(__file__, arg, "none, or 'ce'")
    config = ConfigDict()
    config.data = {"source": "movielens", "path": "ml-100k", "store": "prepared/ml-100k"}
    config.model = {"name": "caser", "preset": "paper", "dim": 64, "max_length": 200}
    config.objective = {"name": "bce", "negatives": 3}
    config.train = {
        "batch_size": 128,
        "epochs": 400.0,
        "evaluate_every": 8.0,
        "patience": 10,
        "steps_per_call": 8,
    }
    if arg == "ce":
        config.model = {"name": "caser", "targets": 1, "tied": True, "max_length": 200}
        config.objective = {"name": "softmax"}
    return config
