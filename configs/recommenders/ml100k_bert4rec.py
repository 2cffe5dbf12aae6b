"""BERT4Rec (Sun et al. 2019) on MovieLens-100K (943 users).

    recjax train --config=configs/recommenders/ml100k_bert4rec.py --workdir=runs/ml100k_bert4rec

Without an argument the paper's masking and sizes (its loss is the full cross-entropy already);
`:modern` is twice as wide, with more dropout.
Leave-one-out, test/full/ndcg@10: paper 0.0781, `:modern` 0.0764 (means of 3 seeds; 15 to 42
minutes on one core).
configs/results/recommenders.md has the rest.
"""

from ml_collections import ConfigDict

from recjax.config import wrong_argument


def get_config(arg: str | None = None) -> ConfigDict:
    if arg not in (None, "modern"):
        raise wrong_argument(__file__, arg, "none, or 'modern'")
    config = ConfigDict()
    config.data = {"source": "movielens", "path": "ml-100k", "store": "prepared/ml-100k"}
    config.model = {"name": "bert4rec", "preset": "paper-movielens"}
    config.objective = {"name": "softmax"}
    config.train = {
        "batch_size": 128,
        "epochs": 400.0,
        "evaluate_every": 8.0,
        "patience": 10,
        "steps_per_call": 8,
    }
    if arg == "modern":
        config.model = {
            "name": "bert4rec",
            "dim": 128,
            "mlp_dim": 512,
            "max_length": 200,
            "dropout": 0.2,
            "mask_share": 0.2,
        }
    return config
