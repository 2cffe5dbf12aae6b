"""RecSysLLM (2308.10837) on Amazon musical instruments: all five families.

recjax train --config=configs/recsysllm/musical_instruments.py --workdir=runs/music

These data have no titles: items are told by number.

Without an argument a small GLM from scratch; `:lora` adapts a published GLM-10B or ChatGLM-6B
(`--config.llm=FOLDER`) with the paper's settings, and `recjax plan --config=...:lora
--config.llm=FOLDER --mesh=1,4,1` says what that takes. The switches of the paper are flags
(recjax/recsysllm/README.md), of which the defaults are RecSysLLM's but for `blanks.shuffle`.
configs/results/recsysllm.md has what was measured.
"""

from ml_collections import ConfigDict

from recjax.recsysllm.recipes import check_argument, paper, scratch


def get_config(arg: str | None = None) -> ConfigDict:
    check_argument(arg, "musical_instruments.py", "lora")
    config = ConfigDict()
    config.system = "recsysllm"
    config.data = {
        "source": "amazon",
        "path": "amazon-2014-musical-instruments",
        "store": "prepared/musical_instruments",
        "options": {"reviews": "reviews_Musical_Instruments_5.json.gz"},
    }
    config.split = {"name": "leave_one_out"}
    config.text = {
        "source": "tasks",
        "behaviour": {"domain": "product"},
        "tasks": {
            "text": 0.2,
            "rating": 0.2,
            "sequential": 0.2,
            "explanation": 0.15,
            "review": 0.15,
            "direct": 0.1,
            "rated": 10,
            "reviews": "amazon-2014-musical-instruments/reviews_Musical_Instruments_5.json.gz",
        },
    }
    config.blanks = {"token": 0.5, "sentence": 0.3, "document": 0.2, "shuffle": False}
    return paper(config) if arg == "lora" else scratch(config, 128, 3, vocab=4000, epochs=10.0)
