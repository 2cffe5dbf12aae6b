"""GRU4Rec (Hidasi et al. 2016) on Steam reviews, 3-core (4,838 users).

    recjax train --config=configs/recommenders/steam_gru4rec.py --workdir=runs/steam_gru4rec

Without an argument the first paper's BPR, 256 negatives for the batch; `:plus` GRU4Rec+ (Hidasi and
Karatzoglou 2018), BPR-max with additional negatives; `:ce` the full cross-entropy.
Leave-one-out, test/full/ndcg@10: BPR 0.1302, `:plus` 0.1229, `:ce` 0.1303 (means of 3 seeds; 1
minute on one core).
configs/results/recommenders.md has the rest.
"""

from ml_collections import ConfigDict

from recjax.config import wrong_argument


def get_config(arg: str | None = None) -> ConfigDict:
    if arg not in (None, "plus", "ce"):
        raise wrong_argument(__file__, arg, "none, 'plus' or 'ce'")
    config = ConfigDict()
    config.data = {
        "source": "steam",
        "path": "steam-reviews",
        "store": "prepared/steam",
        "drop_untitled": True,
        "k_core_users": 3,
        "k_core_items": 3,
    }
    config.model = {"name": "gru4rec", "max_length": 50, "embedding_dropout": 0.5}
    config.objective = {"name": "bpr", "negatives": 256}
    config.train = {"epochs": 400.0, "evaluate_every": 4.0, "patience": 10}
    if arg == "plus":
        config.objective = {
            "name": "bpr_max",
            "negatives": 512,
            "popularity_power": 0.5,
            "regularization": 1.0,
        }
    if arg == "ce":
        config.objective = {"name": "softmax"}
    return config
