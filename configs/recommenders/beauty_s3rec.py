"""S3-Rec (Zhou et al. 2020) on Amazon Beauty 5-core (22,363 users): two runs.

    recjax train --config=configs/recommenders/beauty_s3rec.py:pretrain --workdir=runs/s3rec_pre
    recjax train --config=configs/recommenders/beauty_s3rec.py --workdir=runs/s3rec \\
        --config.start=runs/s3rec_pre

The first one trains the four tasks on attributes (the catalogue's categories), the second one the
paper's binary cross-entropy from there; `:ce` the full cross-entropy.
configs/results/baselines.md has the figures.
"""

from ml_collections import ConfigDict

from recjax.config import wrong_argument


def get_config(arg: str | None = None) -> ConfigDict:
    if arg not in (None, "pretrain", "ce"):
        raise wrong_argument(__file__, arg, "none, 'pretrain' or 'ce'")
    config = ConfigDict()
    config.data = {
        "source": "sequences_txt",
        "path": "amazon-2014-beauty/Beauty.txt",
        "store": "prepared/beauty",
        "options": {"items": "items.jsonl"},
    }
    config.model = {"name": "s3rec"}
    config.objective = {"name": "bce"}
    config.optim = {"decay_epochs": 150.0}
    config.train = {"epochs": 150.0, "evaluate_every": 2.0}
    config.start = ""
    if arg == "ce":
        config.objective = {"name": "softmax"}
        config.optim = {"decay_epochs": 0.0}
        config.train = {"epochs": 150.0, "evaluate_every": 2.0, "patience": 5}
    if arg == "pretrain":
        config.model = {"name": "s3rec", "stage": "pretrain"}
        config.train = {"epochs": 100.0, "evaluate_every": 10.0}
    config.evaluation = {"protocols": ("full", "full_with_seen")}
    return config
