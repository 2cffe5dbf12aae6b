"""BERT4Rec (Sun et al. 2019) on Steam reviews, 3-core (4,838 users).

    recjax train --config=configs/recommenders/steam_bert4rec.py --workdir=runs/steam_bert4rec

Without an argument the paper's masking and sizes (its loss is the full cross-entropy already);
`:modern` is twice as wide, with more dropout.
Leave-one-out, test/full/ndcg@10: paper 0.1304, `:modern` 0.1304 (means of 3 seeds; 1 to 4 minutes
on one core).
configs/results/recommenders.md has the rest.
"""

from ml_collections import ConfigDict

from recjax.config import wrong_argument


def get_config(arg: str | None = None) -> ConfigDict:
    if arg not in (None, "modern"):
        raise wrong_argument(__file__, arg, "none, or 'modern'")
    config = ConfigDict()
    config.data = {
        "source": "steam",
        "path": "steam-reviews",
        "store": "prepared/steam",
        "drop_untitled": True,
        "k_core_users": 3,
        "k_core_items": 3,
    }
    config.model = {"name": "bert4rec", "preset": "paper-sparse", "mask_share": 0.4}
    config.objective = {"name": "softmax"}
    config.train = {"epochs": 400.0, "evaluate_every": 4.0, "patience": 10}
    if arg == "modern":
        config.model = {
            "name": "bert4rec",
            "dim": 128,
            "mlp_dim": 512,
            "max_length": 50,
            "dropout": 0.2,
            "mask_share": 0.4,
        }
    return config
