"""Cheap references on MovieLens-100K (943 users): what is counted in the training split.

    recjax train --config=configs/references/ml100k.py:ease --workdir=runs/ml100k_ease

The argument is one of popularity, cooccurrence, knn, ease, walk. Leave-one-out, both tracks and one
of 100; configs/results/baselines.md has the figures.
"""

from ml_collections import ConfigDict

from recjax.config import wrong_argument
from recjax.models.references import NAMES


def get_config(arg: str | None = None) -> ConfigDict:
    if arg not in NAMES:
        raise wrong_argument(__file__, arg, f"one of {', '.join(NAMES)}")
    config = ConfigDict()
    config.system = "reference"
    config.data = {"source": "movielens", "path": "ml-100k", "store": "prepared/ml-100k"}
    config.model = {"name": arg}
    config.evaluation = {"protocols": ("full", "full_with_seen", "uni100")}
    return config
