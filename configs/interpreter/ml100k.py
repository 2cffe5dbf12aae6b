"""RecInterpreter on MovieLens-100K: what do a recommender's states say?

    recjax train --config=configs/llm/catalogue.py:ml100k --workdir=runs/ml100k-llm
    recjax train --config=configs/interpreter/recommender.py:ml100k-sasrec \
        --workdir=runs/ml100k-sasrec
    recjax train --config=configs/interpreter/ml100k.py:sasrec --workdir=runs/ml100k-interpreter

Arguments: `gru4rec`, `caser`, `sasrec` or `dreamrec`. Any other language model:
`--config.llm=FOLDER`.
"""

from ml_collections import ConfigDict

from recjax.errors import InputError

_MODELS = ("gru4rec", "caser", "sasrec", "dreamrec")


def get_config(arg: str | None = None) -> ConfigDict:
    if arg not in _MODELS:
        raise InputError(f"ml100k.py: no argument '{arg}'; expected {', '.join(_MODELS)}")
    config = ConfigDict()
    config.system = "interpreter"
    config.recommender = f"runs/ml100k-{arg}"
    config.llm = "runs/ml100k-llm/hf"
    config.ask = {"domain": "movie", "residual": 1.0, "recovery": 1.0}
    config.adapter = {"name": "linear"}
    config.optim = {"learning_rate": 3e-3}
    config.train = {"batch_size": 64, "epochs": 2.0, "evaluate_every": 0.25}
    return config
