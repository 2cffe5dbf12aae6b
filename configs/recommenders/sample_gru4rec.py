"""GRU4Rec (Hidasi and Karatzoglou 2018) on the simulated sample.

    recjax train --config=configs/recommenders/sample_gru4rec.py --workdir=runs/sample_gru4rec

Without an argument BPR-max with 512 shared negatives; `:ce` the full cross-entropy.
Leave-one-out, test/full/ndcg@10: BPR-max 0.4462, `:ce` 0.4544 (1.5 minutes on one core).
configs/results/recommenders.md has the rest.
"""

from ml_collections import ConfigDict

from recjax.config import wrong_argument


def get_config(arg: str | None = None) -> ConfigDict:
    if arg not in (None, "ce"):
        raise wrong_argument(__file__, arg, "none, or 'ce'")
    config = ConfigDict()
    config.data = {"source": "simulated", "store": "prepared/sample"}
    config.model = {"name": "gru4rec", "max_length": 50, "embedding_dropout": 0.2}
    config.objective = {
        "name": "bpr_max",
        "negatives": 512,
        "popularity_power": 0.5,
        "regularization": 1.0,
    }
    config.train = {"epochs": 60.0, "evaluate_every": 2.0, "patience": 5}
    if arg == "ce":
        config.objective = {"name": "softmax"}
    return config
