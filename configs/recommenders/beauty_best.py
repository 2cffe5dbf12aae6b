"""The best recipe so far on Amazon Beauty 5-core (22,363 users).

    recjax train --config=configs/recommenders/beauty_best.py --workdir=runs/beauty_best

BSARec's encoder with causal filters, each prefix of a history as a sample (as its authors train
it), full cross-entropy, a learned number for items of the history (`repeats`) and averaged
parameters; `:ml100k` and `:steam` are the same recipe, not tuned.
Test NDCG@10 (seed 0 alone, 26 minutes on one core): 0.0594 in `full` (`beauty_sasrec.py:ce` 0.0569)
and in `full_with_seen` (0.0415). Without prefixes, at all positions of a history at once, two seeds
had 0.0568 and 0.0579. `scripts/study_recipes.py` searches settings on a GPU. configs/RESULTS.md has
the rest.
"""

from ml_collections import ConfigDict

from recjax.config import wrong_argument

DATA = {
    None: {
        "source": "sequences_txt",
        "path": "amazon-2014-beauty/Beauty.txt",
        "store": "prepared/beauty",
        "options": {"items": "items.jsonl"},
    },
    "ml100k": {"source": "movielens", "path": "ml-100k", "store": "prepared/ml-100k"},
    "steam": {
        "source": "steam",
        "path": "steam-reviews",
        "store": "prepared/steam",
        "drop_untitled": True,
        "k_core_users": 3,
        "k_core_items": 3,
    },
}


def get_config(arg: str | None = None) -> ConfigDict:
    if arg not in DATA:
        raise wrong_argument(__file__, arg, "none, 'ml100k' or 'steam'")
    config = ConfigDict()
    config.data = DATA[arg]
    config.model = {"name": "filtered", "preset": "bsarec-beauty", "repeats": True}
    if arg == "ml100k":
        config.model.max_length = 200
    config.objective = {"name": "softmax"}
    config.optim = {
        "learning_rate": 1e-3,
        "warmup_steps": 200,
        "decay_epochs": 30.0,
        "average": 0.999,
    }
    config.train = {
        "batch_size": 256,
        "epochs": 30.0,
        "evaluate_every": 2.0,
        "patience": 4,
        "prefixes": True,
    }
    config.evaluation = {"protocols": ("full", "full_with_seen")}
    return config
