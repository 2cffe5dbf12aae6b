"""P5 (Geng et al. 2022) on MovieLens-100K: a small T5 from scratch, items by number.

    recjax train --config=configs/recsysllm/p5_ml100k.py --workdir=runs/p5

Without an argument the item numbers are random and tell nothing. `:leak` has P5's own numbers, in
the order in which items first appear, the test among them; `:order` has that order of the training
part alone. Trained are the sequential and the direct family, and ratings; `:leak` also has the
ratings of four fifths of all interactions, those of test items among them.
A published T5 takes the place of `config.model` with `:published --config.llm=FOLDER`.
Nothing is measured yet; configs/results/baselines.md has the commands.
"""

from ml_collections import ConfigDict

from recjax.recsysllm.recipes import p5


def get_config(arg: str | None = None) -> ConfigDict:
    config = ConfigDict()
    config.data = {"source": "movielens", "path": "ml-100k", "store": "prepared/ml-100k"}
    config.text = {
        "reviews": "p5_random" if arg == "leak" else "held_out",
        "behaviour": {"domain": "movie"},
        "tasks": {"rating": 1.0, "sequential": 1.0, "direct": 1.0},
    }
    p5(config, arg, "p5_ml100k.py", dim=256, layers=3, max_length=512)
    return config
