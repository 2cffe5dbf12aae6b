"""draft"""

from ml_collections import ConfigDict

from recjax.errors import InputError


def get_config(arg: str | None = None) -> ConfigDict:
    if arg not in (None, "ce"):
        raise InputError(f"beauty_bert4rec.py: no argument '{arg}'; expected none, or 'ce'")
    config = ConfigDict()
    config.data = {
        "source": "sequences_txt",
        "path": "amazon-2014-beauty/Beauty.txt",
        "store": "prepared/beauty",
        "options": {"items": "items.jsonl"},
    }
    config.model = {"name": "bert4rec", "preset": "paper-sparse"}
    config.objective = {"name": "softmax"}
    config.train = {"epochs": 200.0, "evaluate_every": 2.0, "patience": 10}
    if arg == "ce":
        config.model = {"name": "bert4rec", "mask_share": 0.3, "last_share": 0.3, "dropout": 0.4}
    return config
