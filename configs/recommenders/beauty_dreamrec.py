"""draft"""

from ml_collections import ConfigDict

from recjax.errors import InputError


def get_config(arg: str | None = None) -> ConfigDict:
    if arg not in (None, "ce"):
        raise InputError(f"beauty_dreamrec.py: no argument '{arg}'; expected none, or 'ce'")
    config = ConfigDict()
    config.data = {
        "source": "sequences_txt",
        "path": "amazon-2014-beauty/Beauty.txt",
        "store": "prepared/beauty",
        "options": {"items": "items.jsonl"},
    }
    config.model = {"name": "dreamrec"}
    config.objective = {"name": "mse"}
    config.train = {"epochs": 200.0, "evaluate_every": 10.0, "patience": 10}
    if arg == "ce":
        config.objective = {"name": "softmax"}
    return config
