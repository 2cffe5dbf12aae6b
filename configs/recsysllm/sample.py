"""RecSysLLM from scratch on the simulated sample: histories as text, next item, ratings.

recjax train --config=configs/recsysllm/sample.py --workdir=runs/recsysllm

The switches of the paper are flags: see recjax/recsysllm/README.md.
"""

from ml_collections import ConfigDict

from recjax.recsysllm.recipes import check_argument, scratch


def get_config(arg: str | None = None) -> ConfigDict:
    check_argument(arg, "sample.py")
    config = ConfigDict()
    config.system = "recsysllm"
    config.data = {"source": "simulated", "store": "prepared/sample"}
    config.split = {"name": "leave_one_out"}
    config.text = {
        "source": "tasks",
        "behaviour": {"domain": "book"},
        "tasks": {"text": 0.3, "sequential": 0.6, "rating": 0.1, "history": 10},
        "answers": {"max_examples": 300},
    }
    config.blanks = {"token": 0.5, "sentence": 0.3, "document": 0.2, "shuffle": False}
    scratch(config, 128, 2, vocab=1000, epochs=4.0, max_length=256)
    config.optim.learning_rate, config.optim.warmup_steps = 2e-3, 50
    config.evaluation.max_examples = 200
    return config
