"""SASRec (Kang and McAuley 2018) on Amazon Beauty 5-core (22,363 users).

    recjax train --config=configs/recommenders/beauty_sasrec.py --workdir=runs/beauty_sasrec

Without an argument the paper's binary cross-entropy, one negative; `:ce` the full cross-entropy.
Leave-one-out, test/full/ndcg@10: BCE 0.0315, `:ce` 0.0569 (means of 3 seeds; 9 and
10 to 14 minutes on one core). Published with BCE (S3-Rec): 0.0318.
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
    config.model = {"name": "sasrec", "preset": "s3rec-benchmark"}
    config.objective = {"name": "bce"}
    # The decay makes the figures of different seeds agree better.
    config.optim = {"decay_epochs": 150.0}
    config.train = {"epochs": 150.0, "evaluate_every": 2.0}
    if arg == "ce":
        config.optim = {"decay_epochs": 0.0}
        config.train = {"epochs": 150.0, "evaluate_every": 2.0, "patience": 5}
        config.objective = {"name": "softmax"}
    return config
