"""BERT4Rec (Sun et al. 2019) on Amazon Beauty 5-core (22,363 users).

    recjax train --config=configs/recommenders/beauty_bert4rec.py --workdir=runs/beauty_bert4rec

Without an argument the paper's masking and sizes (its loss is the full cross-entropy already);
`:modern` is twice as wide, with more dropout.
Leave-one-out, test/full/ndcg@10: paper 0.0352, `:modern` 0.0336 (means of 3 seeds; 17 to 30
minutes on one core). Published with the paper's objective (RecSysLLM, Table 4): 0.0170.
configs/results/recommenders.md has the rest.
"""

from ml_collections import ConfigDict

from recjax.config import wrong_argument


def get_config(arg: str | None = None) -> ConfigDict:
    if arg not in (None, "modern"):
        raise wrong_argument(__file__, arg, "none, or 'modern'")
    config = ConfigDict()
    config.data = {
        "source": "sequences_txt",
        "path": "amazon-2014-beauty/Beauty.txt",
        "store": "prepared/beauty",
        "options": {"items": "items.jsonl"},
    }
    config.model = {"name": "bert4rec", "preset": "paper-sparse"}
    config.objective = {"name": "softmax"}
    config.train = {"epochs": 200.0, "evaluate_every": 2.0, "patience": 10}
    if arg == "modern":
        config.model = {
            "name": "bert4rec",
            "dim": 128,
            "mlp_dim": 512,
            "max_length": 50,
            "dropout": 0.2,
            "mask_share": 0.6,
        }
    return config
