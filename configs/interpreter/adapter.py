"""RecInterpreter (Yang et al. 2023): what do a recommender's states say?

    recjax train --config=configs/llm/catalogue.py:ml100k --workdir=runs/ml100k-llm
    recjax train --config=configs/interpreter/recommender.py:ml100k-sasrec \
        --workdir=runs/ml100k-sasrec
    recjax train --config=configs/interpreter/adapter.py:ml100k-sasrec --workdir=runs/ml100k
    recjax interpret --workdir=runs/ml100k --decoding=greedy,beam,constrained --controls
    recjax report --workdir=runs/ml100k

Arguments are DATA-MODEL: `sample`, `ml100k`, `steam` or `table` (your own file) with `gru4rec`,
`caser`, `sasrec` or `dreamrec`; the adapter learns to name added items (section 3.2), with
`DATA-MODEL-recovery` whole histories (3.1). Another language model, such as LLaMA-7B:
`--config.llm=FOLDER
--config.dtype=bfloat16 --config.start.examples=0`, and the paper's learning rates, which are made
for it: `--config.optim.learning_rate=5e-4 --config.optim.ramp_rate=1e-4
'--config.optim.ramp_epochs=(1.0,4.0)' --config.optim.cooldown_epochs=0 --config.train.patience=0`,
for 20 epochs (4.1.2).

Training holds its rate until the worst of the prompts is good enough (the sample: 92 % of the
validation windows) or rises no more, and then cools down; `_CAPS` bounds it.

Measured on ML-100K (configs/results/interpreters.md has seeds, windows and intervals)
with a cosine decay over half of the caps, before training had a criterion, over one language model:
95 test sequences, greedy decoding, means of three seeds, 6 to 10 minutes each on one core. What was
added: dreamrec 98.2 % (the paper 97.89 %), sasrec 98.2 % (93.68 %), caser 91.2 % (78.95 %), gru4rec
92.3 % (52.63 %). More than 3 films of ten recovered, and more than 5 (the paper 80 % and 35 % with
the first three): dreamrec 90.5 and 71.9 %, sasrec 90.2 and 61.4 %, caser 93.3 and 80.0 %, gru4rec
87.0 and 63.5 %. On Steam's 484: dreamrec 99.3 % (86.33 %), sasrec 99.2 % (52.60 %), caser 88.5 %
(55.03 %), gru4rec 98.9 % (17.11 %); recovered 3.3, 3.5, 3.4 and 3.5 of 4.4 games. With the
criterion, over a second language model (one seed): ML-100K sasrec 100 %, caser 82.1 %, gru4rec
91.6 %; Steam dreamrec 100 %, sasrec 99.2 %, caser 96.9 %, gru4rec 99.6 %. sample-sasrec (ten
language models, three recommenders) names 96.0 to 98.7 % of what 300 sequences were added. Caser
has two vertical filters, the paper's one (`recommender.py`). The paper searches an L2 term for the
adapter, too; here is none.
"""

from ml_collections import ConfigDict

from recjax.config import wrong_argument

_WORDS = {"sample": "book", "ml100k": "movie", "steam": "game", "table": "product"}
_CAPS = {  # epochs
    "sample": {"residual": 0.32, "recovery": 0.6},
    "table": {"residual": 1.0, "recovery": 2.0},  # of a log that may be small
    "ml100k": {"residual": 0.3, "recovery": 0.2},
    "steam": {"residual": 0.5, "recovery": 0.6},
}
_MODELS = ("gru4rec", "caser", "sasrec", "dreamrec")
_ARGUMENTS = [f"{data}-{model}" for data in _WORDS for model in _MODELS]


def get_config(arg: str | None = None) -> ConfigDict:
    name = (arg or "").removesuffix("-recovery")
    if name not in _ARGUMENTS:
        known = ", ".join(_ARGUMENTS)
        raise wrong_argument(__file__, arg, f"{known}; or -recovery after it")
    data, task = name.partition("-")[0], "residual" if name == arg else "recovery"
    config = ConfigDict()
    config.system = "interpreter"
    config.recommender = f"runs/{name}"
    config.llm = f"runs/{data}-llm/hf"
    config.ask = {"domain": _WORDS[data], "residual": 0.0, "recovery": 0.0}
    config.ask[task] = 1.0
    config.adapter = {"name": "linear"}
    config.start = {"examples": 20_000}
    config.optim = {"learning_rate": 1e-4 if task == "residual" else 3e-5}  # the start is to stay
    config.train = {"batch_size": 64}
    cap = _CAPS[data][task]
    # The lowest of the prompts: training cools down when it is reached, or does not rise any more.
    config.train.metric = f"validation/{task}/worst/{'accuracy' if task == 'residual' else 'mean'}"
    config.train.epochs, config.train.evaluate_every = cap, cap / 8
    config.optim.cooldown_epochs = cap / 4
    small = data in ("sample", "table")
    if not small and task == "residual":
        config.train.drawn = 0.5  # an item's name is to be told from its state, rare or not
    if small and task == "residual":
        config.train.goals = {config.train.metric: 0.92}
    else:
        config.train.patience = 1
    return config
