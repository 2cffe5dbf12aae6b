"""P5 (Geng et al. 2022) on Amazon Beauty 5-core: a small T5 from scratch, items by number.

    recjax train --config=configs/recsysllm/p5_beauty.py --workdir=runs/p5

Without an argument the item numbers are random and tell nothing. `:leak` has P5's own numbers, in
the order in which items first appear, the test among them; `:order` has that order of the training
part alone. The sequential family alone is trained: these data have no ratings and no reviews.
A published T5 takes the place of `config.model` with `:published --config.llm=FOLDER`.
Ten epochs are about eight hours of one core, and were not run; after two of `:leak` the model is no
use yet. configs/results/baselines.md has the figures and commands.
"""

from ml_collections import ConfigDict

from recjax.recsysllm.recipes import p5


def get_config(arg: str | None = None) -> ConfigDict:
    config = ConfigDict()
    config.data = {
        "source": "sequences_txt",
        "path": "amazon-2014-beauty/Beauty.txt",
        "store": "prepared/beauty",
        "options": {"items": "items.jsonl"},
    }
    config.text = {
        "behaviour": {"domain": "product"},
        "tasks": {"sequential": 1.0, "only": ("2-1", "2-2", "2-3")},
    }
    p5(config, arg, "p5_beauty.py", dim=256, layers=3, max_length=256)
    config.whole_words = 64
    return config
