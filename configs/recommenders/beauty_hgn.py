"""HGN (Ma et al. 2019) on Amazon Beauty 5-core (22,363 users).

    recjax train --config=configs/recommenders/beauty_hgn.py --workdir=runs/beauty_hgn

Without an argument the paper's BPR; `:ce` the full cross-entropy.
configs/results/baselines.md has the figures.
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
    config.model = {"name": "hgn", "dropout": 0.5}
    config.objective = {"name": "bpr", "negatives": 256}
    config.train = {"epochs": 150.0, "evaluate_every": 2.0, "patience": 10}
    if arg == "ce":
        config.objective = {"name": "softmax"}
    config.evaluation = {"protocols": ("full", "full_with_seen")}
    return config
