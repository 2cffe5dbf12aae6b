"""RecInterpreter (Yang et al. 2023): what do a recommender's states say?

    recjax train --config=configs/llm/catalogue.py:ml100k --workdir=runs/ml100k-llm
    recjax train --config=configs/interpreter/recommender.py:ml100k-sasrec \
        --workdir=runs/ml100k-sasrec
    recjax train --config=configs/interpreter/adapter.py:ml100k-sasrec --workdir=runs/ml100k
    recjax interpret --workdir=runs/ml100k --decoding=greedy,beam,constrained --controls
    recjax report --workdir=runs/ml100k

Arguments are DATA-MODEL: `sample`, `ml100k` or `steam` with `gru4rec`, `caser`, `sasrec` or
`dreamrec`; one adapter learns residual and recovery, by turns. Another language model, such as
LLaMA-7B: `--config.llm=FOLDER --config.dtype=bfloat16`, and with `:DATA-MODEL-paper` the paper's
learning rates (section 4.1.2), which are made for it. Over a small language model, whose
embeddings are smaller, a higher rate learns in a tenth of the steps.
"""

from ml_collections import ConfigDict

from recjax.errors import InputError

_WORDS = {"sample": "book", "ml100k": "movie", "steam": "game"}
_MODELS = ("gru4rec", "caser", "sasrec", "dreamrec")
_ARGUMENTS = [f"{data}-{model}" for data in _WORDS for model in _MODELS]


def get_config(arg: str | None = None) -> ConfigDict:
    name = (arg or "").removesuffix("-paper")
    if name not in _ARGUMENTS:
        known = ", ".join(_ARGUMENTS)
        raise InputError(f"adapter.py: no argument '{arg}'; expected {known}, or one with -paper")
    data = name.partition("-")[0]
    config = ConfigDict()
    config.system = "interpreter"
    config.recommender = f"runs/{name}"
    config.llm = f"runs/{data}-llm/hf"
    config.ask = {"domain": _WORDS[data], "residual": 1.0, "recovery": 1.0}
    config.adapter = {"name": "linear"}
    config.start = {"steps": 1500}
    config.optim = {"learning_rate": 1e-3, "decay_epochs": 1.0}
    config.train = {"batch_size": 64, "epochs": 1.0, "evaluate_every": 0.25}
    if name != arg:
        config.optim = {
            "learning_rate": 5e-4, "ramp_rate": 1e-4, "ramp_epochs": (1.0, 4.0),
            "weight_decay": 1e-5,
        }  # fmt: skip
        config.start.steps = 0
        config.train.update({"epochs": 20.0, "evaluate_every": 1.0})
    return config
