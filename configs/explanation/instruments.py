"""Explanation generation on Amazon musical instruments (2014, 5-core): BLEU and ROUGE.

    recjax train --config=configs/explanation/instruments.py:peter --workdir=runs/instruments_peter

The argument is attn2seq, nrt, peter or peter_plus, which is told a word of the text. Texts, split
and test reviews are those of RecSysLLM's task (configs/recsysllm). Stopped after 8 epochs
(15 to 40 minutes of one core; attn2seq after 3): ROUGE-1 15.0 of peter, 15.6 of peter_plus, 16.4 of
nrt, 15.5 of attn2seq; the most frequent text 8.1 (configs/results/baselines.md).
"""

from ml_collections import ConfigDict

from recjax.config import wrong_argument

MODELS = {
    "attn2seq": {"name": "attn2seq"},
    "nrt": {"name": "nrt"},
    "peter": {"name": "peter"},
    "peter_plus": {"name": "peter", "preset": "plus"},
}


def get_config(arg: str | None = None) -> ConfigDict:
    if arg not in MODELS:
        raise wrong_argument(__file__, arg, "attn2seq, nrt, peter or peter_plus")
    config = ConfigDict()
    config.system = "explanation"
    config.data = {
        "source": "amazon",
        "path": "amazon-2014-musical-instruments",
        "store": "prepared/instruments",
        "options": {"reviews": "reviews_Musical_Instruments_5.json.gz"},
    }
    config.text = {
        "reviews": "amazon-2014-musical-instruments/reviews_Musical_Instruments_5.json.gz"
    }
    config.tokenizer = {"vocab_size": 4000}
    config.model = MODELS[arg]
    rate = 3e-4 if arg.startswith("peter") else 1e-3
    config.optim = {"learning_rate": rate, "warmup_steps": 50, "clip_norm": 1.0}
    config.train = {"batch_size": 128, "epochs": 100.0, "patience": 5}
    return config
