"""A small GLM from scratch on the simulated sample: blank infilling of items and histories.

recjax train --config=configs/recsysllm/sample_glm.py --workdir=runs/glm
"""

from ml_collections import ConfigDict

from recjax.errors import InputError


def get_config(arg: str | None = None) -> ConfigDict:
    if arg is not None:
        raise InputError(f"sample_glm.py: no argument '{arg}'; expected none")
    config = ConfigDict()
    config.system = "recsysllm"
    config.data = {"source": "simulated", "store": "prepared/sample"}
    config.split = {"name": "leave_one_out"}
    config.model = {
        "name": "glm", "dim": 128, "mlp_dim": 512, "layers": 2, "heads": 4, "kv_heads": 4,
        "head_dim": 32, "max_length": 192, "tied": True,
    }  # fmt: skip
    config.tokenizer = {"vocab_size": 1000}
    config.text = {"source": "catalogue", "domain": "book", "items": 1.0, "histories": 1.0}
    config.blanks = {"token": 0.5, "sentence": 0.3, "document": 0.2, "block": 0.1}
    config.optim = {
        "learning_rate": 2e-3, "warmup_steps": 20, "clip_norm": 1.0, "weight_decay": 0.01,
        "cooldown_epochs": 1.0,
    }  # fmt: skip
    config.train = {"batch_size": 32, "epochs": 8.0, "steps_per_call": 4}
    config.evaluation = {"max_examples": 200}
    return config
