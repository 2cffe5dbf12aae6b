"""GRU4Rec (Hidasi et al. 2016) on MovieLens-100K (943 users).

    recjax train --config=configs/recommenders/ml100k_gru4rec.py --workdir=runs/ml100k_gru4rec

Without an argument the first paper's BPR, 256 negatives for the batch; `:plus` GRU4Rec+ (Hidasi and
Karatzoglou 2018), BPR-max with additional negatives; `:ce` the full cross-entropy.
Leave-one-out, test/full/ndcg@10: BPR 0.0720, `:plus` 0.0947, `:ce` 0.1007 (means of 3 seeds; 2 to
10 minutes on one core).
configs/results/recommenders.md has the rest.
"""

from ml_collections import ConfigDict

from recjax.config import wrong_argument


def get_config(arg: str | None = None) -> ConfigDict:
    if arg not in (None, "plus", "ce"):
        raise wrong_argument(__file__, arg, "none, 'plus' or 'ce'")
    config = ConfigDict()
    config.data = {"source": "movielens", "path": "ml-100k", "store": "prepared/ml-100k"}
    config.model = {"name": "gru4rec", "max_length": 200, "embedding_dropout": 0.2}
    config.objective = {"name": "bpr", "negatives": 256}
    config.train = {
        "batch_size": 128,
        "epochs": 400.0,
        "evaluate_every": 8.0,
        "patience": 10,
        "steps_per_call": 8,
    }
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
