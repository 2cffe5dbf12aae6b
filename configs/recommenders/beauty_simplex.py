"""SimpleX (Mao et al. 2021) on Amazon Beauty 5-core (22,363 users).

    recjax train --config=configs/recommenders/beauty_simplex.py --workdir=runs/beauty_simplex

One of 100 (`test/uni100`) is P5's protocol of direct recommendation.
configs/results/baselines.md has the figures.
"""

from ml_collections import ConfigDict

from recjax.config import wrong_argument


def get_config(arg: str | None = None) -> ConfigDict:
    if arg not in (None,):
        raise wrong_argument(__file__, arg, "none")
    config = ConfigDict()
    config.data = {
        "source": "sequences_txt",
        "path": "amazon-2014-beauty/Beauty.txt",
        "store": "prepared/beauty",
        "options": {"items": "items.jsonl"},
    }
    config.model = {"name": "simplex"}
    config.objective = {"name": "ccl", "negatives": 1024, "margin": 0.5, "negative_weight": 100.0}
    config.train = {
        "epochs": 100.0,
        "evaluate_every": 2.0,
        "patience": 5,
        "metric": "validation/uni100/ndcg@10",
    }
    config.evaluation = {"protocols": ("full", "uni100")}
    return config
