"""Caser (Tang and Wang 2018) on Amazon Beauty 5-core (22,363 users).

    recjax train --config=configs/recommenders/beauty_caser.py --workdir=runs/beauty_caser

Without an argument the paper's binary cross-entropy, three negatives for each of the next three
items; `:ce` the full cross-entropy of the next item, with tied item vectors.
Leave-one-out, test/full/ndcg@10: BCE 0.0227, `:ce` 0.0366 (means of 3 seeds; 7 to 20 minutes on
one core). Published with the paper's objective (RecSysLLM, Table 4): 0.0176.
configs/results/recommenders.md has the rest.
"""

from ml_collections import ConfigDict

from recjax.config import wrong_argument


def get_config(arg: str | None = None) -> ConfigDict:
    if arg not in (None, "ce"):
        raise wrong_argument(__file__, arg, "none, or 'ce'")
    config = ConfigDict()
    config.data = {
        "source": "sequences_txt",
        "path": "amazon-2014-beauty/Beauty.txt",
        "store": "prepared/beauty",
        "options": {"items": "items.jsonl"},
    }
    config.model = {"name": "caser", "preset": "paper", "dim": 64}
    config.objective = {"name": "bce", "negatives": 3}
    config.train = {"epochs": 200.0, "evaluate_every": 2.0, "patience": 10}
    if arg == "ce":
        config.model = {"name": "caser", "targets": 1, "tied": True}
        config.objective = {"name": "softmax"}
    return config
