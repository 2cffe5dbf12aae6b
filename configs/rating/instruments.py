"""Rating prediction on Amazon musical instruments (2014, 5-core): RMSE and MAE.

    recjax train --config=configs/rating/instruments.py:mf --workdir=runs/instruments_mf

The argument is mf (matrix factorisation with biases) or mlp. Each user's newest rating is the test,
the one before it the validation; configs/results/baselines.md has the figures.
"""

from ml_collections import ConfigDict

from recjax.config import wrong_argument


def get_config(arg: str | None = None) -> ConfigDict:
    if arg not in ("mf", "mlp"):
        raise wrong_argument(__file__, arg, "mf or mlp")
    config = ConfigDict()
    config.system = "rating"
    config.data = {
        "source": "amazon",
        "path": "amazon-2014-musical-instruments",
        "store": "prepared/instruments",
        "options": {"reviews": "reviews_Musical_Instruments_5.json.gz"},
    }
    config.model = {"name": arg}
    config.optim = {"learning_rate": 0.003, "weight_decay": 0.1}
    config.train = {"batch_size": 256, "epochs": 60.0, "patience": 5}
    return config
