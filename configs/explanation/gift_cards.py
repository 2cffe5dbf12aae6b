"""Explanation generation on Amazon gift cards (2018, 5-core): BLEU and ROUGE.

    recjax train --config=configs/explanation/gift_cards.py:peter --workdir=runs/gift_cards_peter

The argument is attn2seq, nrt, peter or peter_plus, which is told a word of the text. Texts, split
and test reviews are those of RecSysLLM's task (configs/recsysllm).
configs/results/baselines.md has the figures.
"""

from ml_collections import ConfigDict

from recjax.config import wrong_argument

# Narrower than the papers' models: there are 1,186 reviews to train on.
MODELS = {
    "attn2seq": {"name": "attn2seq", "dim": 128},
    "nrt": {"name": "nrt", "dim": 128, "word_dim": 128, "factors": 64},
    "peter": {"name": "peter", "dim": 128, "mlp_dim": 512},
    "peter_plus": {"name": "peter", "preset": "plus", "dim": 128, "mlp_dim": 512},
}


def get_config(arg: str | None = None) -> ConfigDict:
    if arg not in MODELS:
        raise wrong_argument(__file__, arg, "attn2seq, nrt, peter or peter_plus")
    config = ConfigDict()
    config.system = "explanation"
    config.data = {
        "source": "amazon",
        "path": "amazon-2018-gift-cards",
        "store": "prepared/gift-cards",
        "options": {"reviews": "Gift_Cards_5.json.gz", "metadata": "meta_Gift_Cards.json.gz"},
    }
    config.text = {"reviews": "amazon-2018-gift-cards/Gift_Cards_5.json.gz"}
    config.tokenizer = {"vocab_size": 3000}
    config.model = MODELS[arg]
    config.optim = {"learning_rate": 1e-3, "warmup_steps": 50, "clip_norm": 1.0}
    config.train = {"batch_size": 32, "epochs": 12.0, "patience": 3}
    return config
