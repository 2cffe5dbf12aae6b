"""P5 (Geng et al. 2022) on MovieLens-100K: a small T5 from scratch, items by number.

    recjax train --config=configs/recsysllm/p5_ml100k.py --workdir=runs/p5

Without an argument the item numbers are random and tell nothing. `:leak` has P5's own numbers, in
the order in which items first appear, the test among them; `:order` has that order of the training
part alone. Trained are the sequential and the direct family, and ratings; `:leak` also has the
ratings of four fifths of all interactions, those of test items among them.
A published T5 takes the place of `config.model` with `:t5 --config.llm=FOLDER`.
configs/RESULTS.md has what was measured.
"""

from ml_collections import ConfigDict

from recjax.errors import InputError

IDS = {None: "random", "leak": "p5_order", "order": "train_order", "t5": "random"}


def get_config(arg: str | None = None) -> ConfigDict:
    if arg not in IDS:
        raise InputError(f"p5_ml100k.py: no argument '{arg}'; expected none, leak, order or t5")
    config = ConfigDict()
    config.system = "p5"
    config.data = {"source": "movielens", "path": "ml-100k", "store": "prepared/ml-100k"}
    config.text = {
        "ids": IDS[arg],
        "reviews": "p5_random" if arg == "leak" else "held_out",
        "behaviour": {"domain": "movie"},
        "tasks": {"rating": 1.0, "sequential": 1.0, "direct": 1.0},
        "answers": {"max_examples": 100_000, "batch_size": 64},
    }
    if arg == "t5":
        config.llm = "MODEL"
    else:
        config.model = {
            "name": "t5", "dim": 256, "mlp_dim": 1024, "layers": 3, "encoder_layers": 3, "heads": 4,
            "kv_heads": 4, "head_dim": 64, "max_length": 512,
        }  # fmt: skip
    config.whole_words = 128
    config.tokenizer = {"vocab_size": 500}
    config.answer = 8
    config.optim = {
        "learning_rate": 1e-3, "warmup_steps": 500, "clip_norm": 1.0, "weight_decay": 0.01,
        "decay_epochs": 10.0,
    }  # fmt: skip
    config.train = {"batch_size": 256, "epochs": 10.0, "patience": 3}
    config.evaluation = {"max_examples": 2000}
    return config
