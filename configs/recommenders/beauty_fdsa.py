"""FDSA (Zhang et al. 2019) on Amazon Beauty 5-core (22,363 users).

    recjax train --config=configs/recommenders/beauty_fdsa.py --workdir=runs/beauty_fdsa

Without an argument binary cross-entropy, one negative; `:ce` the full cross-entropy. The attributes
are the catalogue's categories.
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
    config.model = {"name": "fdsa"}
    config.objective = {"name": "bce"}
    config.optim = {"decay_epochs": 150.0}
    config.train = {"epochs": 150.0, "evaluate_every": 2.0}
    if arg == "ce":
        config.objective = {"name": "softmax"}
        config.optim = {"decay_epochs": 0.0}
        config.train = {"epochs": 150.0, "evaluate_every": 2.0, "patience": 5}
    config.evaluation = {"protocols": ("full", "full_with_seen")}
    return config
