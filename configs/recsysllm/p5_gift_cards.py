"""P5 (Geng et al. 2022) on Amazon gift cards: a small T5 from scratch, items by number.

    recjax train --config=configs/recsysllm/p5_gift_cards.py --workdir=runs/p5

Without an argument the item numbers are random, and ratings and reviews of the training part alone
are learned. `:leak` opens both of P5's leaks: numbers in the order in which items first appear, the
test among them, and the ratings and reviews of four fifths of all interactions. `:order` has that
order of the training part alone. All five families are trained.

A published T5 takes the place of `config.model` with `:published --config.llm=FOLDER`.

Seed 0, 19 minutes on one core: NDCG@10 0.0667 (2-3, `full`), ratings' MAE 0.111, headlines' ROUGE-1
53.2 (the most frequent one 51.3); configs/results/baselines.md has the rest.
"""

from ml_collections import ConfigDict

from recjax.recsysllm.recipes import p5


def get_config(arg: str | None = None) -> ConfigDict:
    config = ConfigDict()
    config.data = {
        "source": "amazon",
        "path": "amazon-2018-gift-cards",
        "store": "prepared/gift-cards",
        "options": {"reviews": "Gift_Cards_5.json.gz", "metadata": "meta_Gift_Cards.json.gz"},
    }
    families = ("rating", "sequential", "explanation", "review", "direct")
    config.text = {
        "reviews": "p5_random" if arg == "leak" else "held_out",
        "behaviour": {"domain": "product"},
        "tasks": {
            **dict.fromkeys(families, 1.0),
            "reviews": "amazon-2018-gift-cards/Gift_Cards_5.json.gz",
        },
    }
    p5(config, arg, "p5_gift_cards.py", dim=128, layers=2, max_length=512)
    config.tokenizer.vocab_size, config.answer = 3000, 64
    config.optim.warmup_steps, config.train.batch_size = 100, 64
    return config
