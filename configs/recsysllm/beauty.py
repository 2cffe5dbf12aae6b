"""RecSysLLM (2308.10837) on Amazon Beauty: next item and candidates by title.

recjax train --config=configs/recsysllm/beauty.py --workdir=runs/recsysllm_beauty
recjax train --config=configs/recommenders/beauty_sasrec.py:ce --workdir=runs/beauty_ce
recjax train --config=configs/recsysllm/beauty.py:vectors --workdir=runs/recsysllm_vectors

No ratings or reviews are in these data. P5's item numbers encode order; titles do not. `:vectors`
names items by tokens that start from the item vectors of the recommender in runs/beauty_ce
(`--config.text.naming.run=WORKDIR`).

Without an argument a small GLM from scratch; `:lora` adapts a published GLM-10B or ChatGLM-6B
(`--config.llm=FOLDER`) with the paper's settings, and `recjax plan --config=...:lora
--config.llm=FOLDER --mesh=1,4,1` says what that takes. The switches of the paper are flags
(recjax/recsysllm/README.md), of which the defaults are RecSysLLM's but for `blanks.shuffle`.
configs/results/recsysllm.md has what was measured.
"""

from ml_collections import ConfigDict

from recjax.recsysllm.recipes import check_argument, paper, scratch


def get_config(arg: str | None = None) -> ConfigDict:
    check_argument(arg, "beauty.py", "lora", "vectors")
    config = ConfigDict()
    config.system = "recsysllm"
    config.data = {
        "source": "sequences_txt",
        "path": "amazon-2014-beauty/Beauty.txt",
        "store": "prepared/beauty",
        "options": {"items": "items.jsonl"},
    }
    config.split = {"name": "leave_one_out"}
    config.text = {
        "source": "tasks",
        "behaviour": {"domain": "product", "facts": ("categories",)},
        "tasks": {"text": 0.3, "sequential": 0.5, "direct": 0.2},
    }
    config.blanks = {"token": 0.5, "sentence": 0.3, "document": 0.2, "shuffle": False}
    if arg == "vectors":
        # A document's blank is the rest of a history, which the model writes item by item.
        config.blanks = {"token": 0.2, "sentence": 0.0, "document": 0.8, "shuffle": False}
        config.text.naming = {"token": True, "text": False, "run": "runs/beauty_ce"}
        config.text.tasks = {"text": 0.5, "sequential": 0.5}
        config.text.answers = {"batch_size": 256}
        return scratch(config, 256, 4, vocab=4000, epochs=8.0, max_length=256)
    return paper(config) if arg == "lora" else scratch(config, 256, 4, vocab=8000, epochs=20.0)
