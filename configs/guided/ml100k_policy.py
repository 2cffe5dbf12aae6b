"""Users' scores on MovieLens-100K by policy gradient: a language model learns which way users lean.

    python scripts/study_policy.py --out=runs/policy     # makes FOLDER, then runs this config
    recjax train --config=configs/guided/ml100k_policy.py --config.llm=FOLDER \
        --config.items=ITEM_SCORES --workdir=runs/policy/liked

FOLDER is a causal language model with its tokenizer; ITEM_SCORES a file of the items' scores on the
aspects (`recjax score`). The answer's words are given and its ratings drawn, eight answers a user;
the reward is the AUC of the user's next ten items, liked (rated 4 or more) or not. `:next` rewards
the reciprocal rank of the next items among all instead.
configs/results/guided.md has a small model's curves (three seeds: AUC .564 to .642 and more, MRR
.0176 to .0249 and more).
"""

from ml_collections import ConfigDict

from recjax.config import wrong_argument


def get_config(arg: str | None = None) -> ConfigDict:
    if arg not in (None, "next"):
        raise wrong_argument(__file__, arg, "none, or 'next'")
    config = ConfigDict()
    config.system = "policy"
    config.llm = "MODEL"
    config.items = "item_scores.tsv"
    config.data = {"source": "movielens", "path": "ml-100k", "store": "prepared/ml-100k"}
    config.users = {"history": 60, "targets": 10, "told": "profile", "instructions": False}
    config.reward = {"task": "liked", "samples": 8}
    config.lora = {"rank": 8, "alpha": 16.0, "targets": ("all-linear",)}
    config.optim = {"learning_rate": 1e-3, "warmup_steps": 10, "clip_norm": 1.0}
    config.train = {"batch_size": 32, "epochs": 12.0, "patience": 3}
    if arg == "next":
        config.reward.task = "next"
    return config
