"""RecSysLLM (2308.10837) on Amazon gift cards: all five families.

recjax train --config=configs/recsysllm/gift_cards.py --workdir=runs/recsysllm_gift_cards

The reviews are those of the interactions' own file.

Without an argument a small GLM from scratch. `:glm10b` and `:chatglm` adapt a published model
(`--config.llm=FOLDER`) with the paper's settings: LoRA r = 8, AdamW, 1e-5 with warm-up, 8 epochs,
32 texts a device, length 1,024; `recjax plan --config=...` says what that needs. Each switch of
the paper is a flag: `--config.text.entities.whole=False`, `--config.blanks.shuffle=True`,
`--config.text.entities.positions=False`, `--config.text.answers.dynamic=False`; all four make plain
GLM. configs/RESULTS.md has what was measured.
"""

from ml_collections import ConfigDict

from recjax.errors import InputError


def get_config(arg: str | None = None) -> ConfigDict:
    if arg not in (None, "glm10b", "chatglm"):
        raise InputError(
            f"gift_cards.py: no argument '{arg}'; expected none, 'glm10b' or 'chatglm'"
        )

    config = ConfigDict()
    config.system = "recsysllm"
    config.data = {
        "source": "amazon",
        "path": "amazon-2018-gift-cards",
        "store": "prepared/gift_cards",
        "options": {"reviews": "Gift_Cards_5.json.gz", "metadata": "meta_Gift_Cards.json.gz"},
    }
    config.split = {"name": "leave_one_out"}
    config.text = {
        "source": "tasks",
        "behaviour": {"domain": "product", "facts": ("brand",)},
        "tasks": {
            "text": 0.2,
            "rating": 0.2,
            "sequential": 0.2,
            "explanation": 0.15,
            "review": 0.15,
            "direct": 0.1,
            "reviews": "amazon-2018-gift-cards/Gift_Cards_5.json.gz",
        },
        "entities": {"whole": True, "positions": True},
        "answers": {"max_examples": 1000, "dynamic": True},
    }
    config.blanks = {"token": 0.5, "sentence": 0.3, "document": 0.2, "shuffle": False}
    if arg is not None:
        config.llm = ""
        config.method = "lora"
        config.dtype = "bfloat16"
        config.lora = {"rank": 8, "alpha": 16.0, "targets": ("all-linear",)}
        config.length = 1024
        config.optim = {"learning_rate": 1e-5, "warmup_steps": 500, "clip_norm": 1.0}
        config.train = {"batch_size": 32, "epochs": 8.0}
        return config
    config.model = {
        "name": "glm", "dim": 128, "mlp_dim": 512, "layers": 3, "heads": 4, "kv_heads": 4,
        "head_dim": 32, "max_length": 512, "tied": True,
    }  # fmt: skip
    config.tokenizer = {"vocab_size": 3000}
    config.optim = {
        "learning_rate": 1e-3, "warmup_steps": 200, "clip_norm": 1.0, "weight_decay": 0.01,
        "cooldown_epochs": 2.0,
    }  # fmt: skip
    config.train = {"batch_size": 128, "epochs": 20.0, "steps_per_call": 4}
    config.evaluation = {"max_examples": 500}
    return config
