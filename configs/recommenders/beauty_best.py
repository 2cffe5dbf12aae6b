"""The best recipes so far on Amazon Beauty 5-core (22,363 users).

    recjax train --config=configs/recommenders/beauty_best.py --workdir=runs/beauty_best

BSARec's encoder with causal filters, each prefix of a history as a sample (as its authors train
it), full cross-entropy, a constant rate and averaged parameters: for rankings that leave the
history out (track A, `full`). `:words` is the same with vectors of the items' titles and categories
(`recjax.data.words`), which published rows do not have. `:kept` is for rankings that keep the
history (track B, `full_with_seen`): a learned number for its items (`repeats`), and twice the rate
with a cosine decay; `:ml100k` and `:steam` are that recipe on other data, not tuned.

Test NDCG@10 in `full`, one core: 0.0609 and 0.0608 of seeds 0 and 1 (`beauty_sasrec.py:ce` 0.0569,
the mean of three seeds), after 80 and 51 epochs, about a minute each; `:words`, seeds 0 to 2,
0.0623 to 0.0630 after 36 to 48. `:kept`, seed 0 alone: 0.0594 in both rankings, 26 minutes (in
`full_with_seen` the first has 0.0444 and 0.0441, `:words` 0.0450 to 0.0456, SASRec 0.0415). Without
prefixes, at all positions of a history at once, two seeds of `:kept` had 0.0568 and 0.0579.
`scripts/study_recipes.py` searches settings on a GPU. configs/results/baselines.md has the rest.
"""

from ml_collections import ConfigDict

from recjax.config import wrong_argument

BEAUTY = {
    "source": "sequences_txt",
    "path": "amazon-2014-beauty/Beauty.txt",
    "store": "prepared/beauty",
    "options": {"items": "items.jsonl"},
}
DATA = {
    None: BEAUTY,
    "kept": BEAUTY,
    "words": BEAUTY,
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
        raise wrong_argument(__file__, arg, "none, 'words', 'kept', 'ml100k' or 'steam'")
    history_out = arg in (None, "words")
    config = ConfigDict()
    config.data = DATA[arg]
    config.model = {"name": "filtered", "preset": "bsarec-beauty", "repeats": not history_out}
    if arg == "ml100k":
        config.model.max_length = 200
    config.objective = {"name": "softmax"}
    config.optim = {"warmup_steps": 200}
    config.train = {"batch_size": 256, "prefixes": True, "patience": 4}
    if history_out:
        config.optim.update({"learning_rate": 5e-4, "average": 0.9995})
        config.train.update({"epochs": 80.0, "evaluate_every": 3.0})
    else:
        config.optim.update({"learning_rate": 1e-3, "decay_epochs": 30.0, "average": 0.999})
        config.train.update({"epochs": 30.0, "evaluate_every": 2.0})
    if arg == "words":
        config.items = {"vectors": "words:title,categories", "use": "features"}
    config.evaluation = {"protocols": ("full", "full_with_seen")}
    return config
