"""SASRec (Kang and McAuley 2018) on Steam reviews, 3-core (4,838 users).

    recjax train --config=configs/recommenders/steam_sasrec.py --workdir=runs/steam_sasrec

Without an argument the paper's binary cross-entropy, one negative; `:ce` the full cross-entropy.
Leave-one-out, test/full/ndcg@10: BCE 0.1263, `:ce` 0.1271 (means of 3 seeds; 1 minute on one
core).
configs/results/recommenders.md has the rest.
"""

from ml_collections import ConfigDict

from recjax.config import wrong_argument


def get_config(arg: str | None = None) -> ConfigDict:
    if arg not in (None, "ce"):
        raise wrong_argument(__file__, arg, "none, or 'ce'")
    config = ConfigDict()
    config.data = {
        "source": "steam",
        "path": "steam-reviews",
        "store": "prepared/steam",
        "drop_untitled": True,
        "k_core_users": 3,
        "k_core_items": 3,
    }
    config.model = {"name": "sasrec", "preset": "s3rec-benchmark"}
    config.objective = {"name": "bce"}
    config.train = {"epochs": 400.0, "evaluate_every": 4.0, "patience": 10}
    if arg == "ce":
        config.objective = {"name": "softmax"}
    return config
