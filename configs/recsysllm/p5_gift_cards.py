"""P5 (Geng et al. 2022) on Amazon gift cards: a small T5 from scratch, items by number.

    recjax train --config=configs/recsysllm/p5_gift_cards.py --workdir=runs/p5

Without an argument the item numbers are random, and ratings and reviews of the training part alone
are learned. `:leak` opens both of P5's leaks: numbers in the order in which items first appear, the
test among them, and the ratings and reviews of four fifths of all interactions. `:order` has that
order of the training part alone. All five families are trained.

A published T5 takes the place of `config.model` with `:t5 --config.llm=FOLDER`.
configs/RESULTS.md has what was measured.
"""

from ml_collections import ConfigDict

from recjax.errors import InputError

IDS = {None: "random", "leak": "p5_order", "order": "train_order", "t5": "random"}


def get_config(arg: str | None = None) -> ConfigDict:
    if arg not in IDS:
        raise InputError(f"p5_gift_cards.py: no argument '{arg}'; expected none, leak, order or t5")
    config = ConfigDict()
    config.system = "p5"
    config.data = {
        "source": "amazon",
        "path": "amazon-2018-gift-cards",
        "store": "prepared/gift-cards",
        "options": {"reviews": "Gift_Cards_5.json.gz", "metadata": "meta_Gift_Cards.json.gz"},
    }
    families = ("rating", "sequential", "explanation", "review", "direct")
    config.text = {
        "ids": IDS[arg],
        "reviews": "p5_random" if arg == "leak" else "held_out",
        "behaviour": {"domain": "product"},
        "tasks": {
            **dict.fromkeys(families, 1.0),
            "reviews": "amazon-2018-gift-cards/Gift_Cards_5.json.gz",
        },
        "answers": {"max_examples": 100_000, "batch_size": 64},
    }
    if arg == "t5":
        config.llm = "MODEL"
    else:
        config.model = {
            "name": "t5", "dim": 128, "mlp_dim": 512, "layers": 2, "encoder_layers": 2, "heads": 2,
            "kv_heads": 2, "head_dim": 64, "max_length": 512,
        }  # fmt: skip
    config.whole_words = 128
    config.tokenizer = {"vocab_size": 3000}
    config.answer = 64
    config.optim = {
        "learning_rate": 1e-3, "warmup_steps": 100, "clip_norm": 1.0, "weight_decay": 0.01,
        "decay_epochs": 10.0,
    }  # fmt: skip
    config.train = {"batch_size": 64, "epochs": 10.0, "patience": 3}
    config.evaluation = {"max_examples": 2000}
    return config
