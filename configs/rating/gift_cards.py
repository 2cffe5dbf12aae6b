"""Rating prediction on Amazon gift cards (2018, 5-core): RMSE and MAE.

    recjax train --config=configs/rating/gift_cards.py:mf --workdir=runs/gift_cards_mf

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
        "path": "amazon-2018-gift-cards",
        "store": "prepared/gift-cards",
        "options": {"reviews": "Gift_Cards_5.json.gz", "metadata": "meta_Gift_Cards.json.gz"},
    }
    config.model = {"name": arg}
    config.optim = {"learning_rate": 0.003, "weight_decay": 0.1}
    config.train = {"batch_size": 256, "epochs": 60.0, "patience": 5}
    return config
