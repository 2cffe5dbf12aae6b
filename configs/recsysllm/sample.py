"""RecSysLLM from scratch on the simulated sample: histories as text, next item, ratings.

recjax train --config=configs/recsysllm/sample.py --workdir=runs/recsysllm

Each switch of the paper is a flag: --config.text.entities.whole=False,
--config.blanks.shuffle=True, --config.text.entities.positions=False,
--config.text.answers.dynamic=False; all four make plain GLM.
"""

from ml_collections import ConfigDict

from recjax.errors import InputError


def get_config(arg: str | None = None) -> ConfigDict:
    if arg is not None:
        raise InputError(f"sample.py: no argument '{arg}'; expected none")
    config = ConfigDict()
    config.system = "recsysllm"
    config.data = {"source": "simulated", "store": "prepared/sample"}
    config.split = {"name": "leave_one_out"}
    config.model = {
        "name": "glm", "dim": 128, "mlp_dim": 512, "layers": 2, "heads": 4, "kv_heads": 4,
        "head_dim": 32, "max_length": 256, "tied": True,
    }  # fmt: skip
    config.tokenizer = {"vocab_size": 1000}
    config.text = {
        "source": "tasks",
        "behaviour": {"domain": "book"},
        "tasks": {"text": 0.3, "sequential": 0.6, "rating": 0.1, "history": 10},
        "entities": {"whole": True, "positions": True},
        "answers": {"max_examples": 300, "dynamic": True},
    }
    config.blanks = {"token": 0.5, "sentence": 0.3, "document": 0.2, "shuffle": False}
    config.optim = {
        "learning_rate": 2e-3, "warmup_steps": 50, "clip_norm": 1.0, "weight_decay": 0.01,
        "cooldown_epochs": 1.0,
    }  # fmt: skip
    config.train = {"batch_size": 128, "epochs": 4.0, "steps_per_call": 4}
    config.evaluation = {"max_examples": 200}
    return config
