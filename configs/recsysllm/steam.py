"""RecSysLLM (2308.10837) on Steam reviews: next item and candidates.

recjax train --config=configs/recsysllm/steam.py --workdir=runs/recsysllm_steam

These reviews have neither stars nor text.

Without an argument a small GLM from scratch; `:lora` adapts a published GLM-10B or ChatGLM-6B
(`--config.llm=FOLDER`) with the paper's settings, and `recjax plan --config=...:lora
--config.llm=FOLDER --mesh=1,4,1` says what that takes. The switches of the paper are flags
(recjax/recsysllm/README.md), of which the defaults are RecSysLLM's but for `blanks.shuffle`.
configs/results/recsysllm.md has what was measured.
"""

from ml_collections import ConfigDict

from recjax.recsysllm.recipes import check_argument, paper, scratch


def get_config(arg: str | None = None) -> ConfigDict:
    check_argument(arg, "steam.py", "lora")
    config = ConfigDict()
    config.system = "recsysllm"
    config.data = {
        "source": "steam",
        "path": "steam-reviews",
        "store": "prepared/steam",
        "drop_untitled": True,
        "k_core_users": 3,
        "k_core_items": 3,
    }
    config.split = {"name": "leave_one_out"}
    config.text = {
        "source": "tasks",
        "behaviour": {"domain": "game", "facts": ("genres", "developer")},
        "tasks": {"text": 0.3, "sequential": 0.5, "direct": 0.2},
    }
    config.blanks = {"token": 0.5, "sentence": 0.3, "document": 0.2, "shuffle": False}
    return paper(config) if arg == "lora" else scratch(config, 128, 3, vocab=4000, epochs=20.0)
