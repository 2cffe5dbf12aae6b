"""RecSysLLM (2308.10837) on MovieLens-100K, with profiles: next item, candidates, ratings.

recjax train --config=configs/recsysllm/ml100k.py --workdir=runs/recsysllm_ml100k

Users are told by age, sex and occupation.

Without an argument a small GLM from scratch; `:lora` adapts a published GLM-10B or ChatGLM-6B
(`--config.llm=FOLDER`) with the paper's settings, and `recjax plan --config=...:lora
--config.llm=FOLDER --mesh=1,4,1` says what that takes. The switches of the paper are flags
(recjax/recsysllm/README.md), of which the defaults are RecSysLLM's but for `blanks.shuffle`.
configs/results/recsysllm.md has what was measured.
"""

from ml_collections import ConfigDict

from recjax.recsysllm.recipes import check_argument, paper, scratch


def get_config(arg: str | None = None) -> ConfigDict:
    check_argument(arg, "ml100k.py", "lora")
    config = ConfigDict()
    config.system = "recsysllm"
    config.data = {"source": "movielens", "path": "ml-100k", "store": "prepared/ml-100k"}
    config.split = {"name": "leave_one_out"}
    config.text = {
        "source": "tasks",
        "behaviour": {
            "domain": "movie",
            "facts": ("year", "genres"),
            "users": "ml-100k/u.user",
            "users_separator": "|",
            "users_names": "user,age,gender,occupation,zip",
            "users_facts": ("age", "gender", "occupation"),
        },
        "tasks": {"text": 0.3, "sequential": 0.4, "rating": 0.2, "direct": 0.1, "rated": 10},
    }
    config.blanks = {"token": 0.5, "sentence": 0.3, "document": 0.2, "shuffle": False}
    return paper(config) if arg == "lora" else scratch(config, 128, 3, vocab=4000, epochs=4.0)
