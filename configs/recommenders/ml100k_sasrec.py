"""SASRec (Kang and McAuley 2018) on MovieLens-100K.

    recjax train --config=configs/recommenders/ml100k_sasrec.py --workdir=runs/ml100k_sasrec

Without an argument the paper's binary cross-entropy, one negative; `:ce` the full cross-entropy.
Leave-one-out, test/full/ndcg@10: BCE 0.0983, `:ce` 0.1093 (means of 3 seeds; 10 to 30 minutes on
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
    config.model = {"name": "sasrec", "max_length": 200, "dropout": 0.2}
    config.objective = {"name": "bce"}
    config.train = {
        "batch_size": 128,
        "epochs": 400.0,
        "evaluate_every": 8.0,
        "patience": 10,
        "steps_per_call": 8,
    }
    if arg == "ce":
        config.objective = {"name": "softmax"}
    return config
