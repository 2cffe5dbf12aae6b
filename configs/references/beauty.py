"""Cheap references on Amazon Beauty 5-core (22,363 users): what is counted in the training split.

    recjax train --config=configs/references/beauty.py:ease --workdir=runs/beauty_ease

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
    config.data = {
        "source": "sequences_txt",
        "path": "amazon-2014-beauty/Beauty.txt",
        "store": "prepared/beauty",
        "options": {"items": "items.jsonl"},
    }
    config.model = {"name": arg}
    config.evaluation = {"protocols": ("full", "full_with_seen", "uni100")}
    return config
