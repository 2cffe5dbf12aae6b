"""HSTU (Zhai et al. 2024) on MovieLens-100K, with its bias of the times between items.

    recjax train --config=configs/recommenders/ml100k_hstu.py --workdir=runs/ml100k_hstu

The sizes are those of the authors' MovieLens-1M; `:places` leaves the times out. Not tuned, and not
trained to its end here.
"""

from ml_collections import ConfigDict

from recjax.config import wrong_argument


def get_config(arg: str | None = None) -> ConfigDict:
    if arg not in (None, "places"):
        raise wrong_argument(__file__, arg, "none, or 'places'")
    config = ConfigDict()
    config.data = {"source": "movielens", "path": "ml-100k", "store": "prepared/ml-100k"}
    config.model = {"name": "hstu", "preset": "movielens", "times": arg is None}
    config.objective = {"name": "softmax", "temperature": 0.05}
    config.train = {
        "batch_size": 128,
        "epochs": 400.0,
        "evaluate_every": 8.0,
        "patience": 10,
        "steps_per_call": 8,
    }
    return config
