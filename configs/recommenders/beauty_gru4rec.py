"""GRU4Rec (Hidasi et al. 2016) on Amazon Beauty 5-core (22,363 users).

    recjax train --config=configs/recommenders/beauty_gru4rec.py --workdir=runs/beauty_gru4rec

Without an argument the first paper's BPR, 256 negatives for the batch; `:plus` GRU4Rec+ (Hidasi and
Karatzoglou 2018), BPR-max with additional negatives; `:ce` the full cross-entropy.
Leave-one-out, test/full/ndcg@10: BPR 0.0176, `:plus` 0.0408, `:ce` 0.0392 (means of 3 seeds; 4 to
40 minutes on one core). Published with the paper's objective (RecSysLLM, Table 4): 0.0137.
configs/results/recommenders.md has the rest.
"""

from ml_collections import ConfigDict

from recjax.config import wrong_argument


def get_config(arg: str | None = None) -> ConfigDict:
    if arg not in (None, "plus", "ce"):
        raise wrong_argument(__file__, arg, "none, 'plus' or 'ce'")
    config = ConfigDict()
    config.data = {
        "source": "sequences_txt",
        "path": "amazon-2014-beauty/Beauty.txt",
        "store": "prepared/beauty",
        "options": {"items": "items.jsonl"},
    }
    config.model = {"name": "gru4rec", "max_length": 50, "embedding_dropout": 0.5}
    config.objective = {"name": "bpr", "negatives": 256}
    config.train = {"epochs": 200.0, "evaluate_every": 2.0, "patience": 10}
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
