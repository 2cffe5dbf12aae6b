"""BPR-MF (Rendle et al. 2009) on Amazon Beauty 5-core (22,363 users).

    recjax train --config=configs/recommenders/beauty_bpr.py --workdir=runs/beauty_bpr

Without an argument BPR-MF; `:mlp` BPR-MLP. One of 100 (`test/uni100`) is P5's protocol of direct
recommendation.
configs/results/baselines.md has the figures.
"""

from ml_collections import ConfigDict

from recjax.config import wrong_argument


def get_config(arg: str | None = None) -> ConfigDict:
    if arg not in (None, "mlp"):
        raise wrong_argument(__file__, arg, "none, or 'mlp'")
    config = ConfigDict()
    config.data = {
        "source": "sequences_txt",
        "path": "amazon-2014-beauty/Beauty.txt",
        "store": "prepared/beauty",
        "options": {"items": "items.jsonl"},
    }
    config.model = {"name": "bpr"}
    config.objective = {"name": "bpr", "negatives": 256}
    config.optim = {"weight_decay": 0.1}
    config.train = {
        "epochs": 100.0,
        "evaluate_every": 2.0,
        "patience": 5,
        "metric": "validation/uni100/ndcg@10",
    }
    if arg == "mlp":
        config.model = {"name": "bpr", "preset": "mlp"}
    config.evaluation = {"protocols": ("full", "uni100")}
    return config
