"""A language model learns to score items (or users) on aspects from a teacher's scores.

    recjax score items --data=prepared/ml-100k --aspects=movies --brief \
        --teacher=item_scores.tsv --out=pairs.jsonl
    recjax train --config=configs/guided/scorer.py --config.llm=FOLDER \
        --config.data.path=pairs.jsonl --workdir=runs/scorer
    recjax score items --data=prepared/ml-100k --aspects=movies --brief \
        --llm=runs/scorer --known=item_scores.tsv --out=all_scores.tsv

FOLDER is a language model with its tokenizer; low-rank adapters are trained. The teacher's file may
be of a large model behind an endpoint (`recjax score --llm=URL --among=some.txt`), or a person's.
`--brief` leaves the aspects out of the prompts: the model learns them, and a prompt is the item.
For a chat model: `--form=chat` for the pairs, `--config.data.form=chat` here, and without `--brief`
also `--config.data.system=system`.

`:small` trains all parameters of a small model, such as the new one of `scripts/study_scorer.py`,
which measures what such a model knows of items that it has not seen.
"""

from ml_collections import ConfigDict

from recjax.config import wrong_argument


def get_config(arg: str | None = None) -> ConfigDict:
    if arg not in (None, "small"):
        raise wrong_argument(__file__, arg, "none or 'small'")
    config = ConfigDict()
    config.system = "finetune"
    config.llm = "MODEL"
    config.data = {"path": "pairs.jsonl"}
    config.lora = {"rank": 16, "alpha": 32.0, "targets": ("all-linear",)}
    config.optim = {"learning_rate": 2e-4, "warmup_steps": 20, "clip_norm": 1.0}
    config.train = {"batch_size": 32, "epochs": 10.0, "patience": 2}
    if arg == "small":
        config.method = "full"
        config.optim = {
            "name": "muon", "learning_rate": 2e-3, "warmup_steps": 20, "clip_norm": 1.0, "b2": 0.98,
            "weight_decay": 0.1,
        }  # fmt: skip
        config.train = {"batch_size": 32, "epochs": 30.0, "patience": 3}
    return config
