"""Review summaries by GPT-2 or T0: the baselines of RecSysLLM's Table 6.

    python scripts/task_pairs.py --config configs/recsysllm/gift_cards.py --prompt 4-1 --out pairs
    recjax train --config=configs/llm/review.py:gpt2 --config.llm=GPT2 --workdir=runs/gpt2
    python scripts/measure_pairs.py --llm runs/gpt2 --pairs pairs/test.jsonl

The argument is gpt2, t0 (adapters on published weights, GPT2 and T0_3B being their folders) or new
(all parameters of a small new model, `task_pairs.py --new t5`). Prompt 4-1 asks for a review's
headline, 4-2 for its stars (`measure_pairs.py --kind number`). Measured is `new` on gift cards'
headlines alone, seed 0: ROUGE-1 54.2, the most frequent one 51.3 (configs/results/baselines.md).
"""

from ml_collections import ConfigDict

from recjax.config import wrong_argument


def get_config(arg: str | None = None) -> ConfigDict:
    if arg not in ("gpt2", "t0", "new"):
        raise wrong_argument(__file__, arg, "gpt2, t0 or new")
    config = ConfigDict()
    config.system = "finetune"
    config.llm = "MODEL"
    config.data = {
        "path": "pairs/train.jsonl",
        "validation_path": "pairs/validation.jsonl",
        "test_path": "pairs/test.jsonl",
        "skip_long": True,
    }
    config.optim = {"learning_rate": 2e-4, "warmup_steps": 50, "clip_norm": 1.0}
    config.train = {"batch_size": 16, "epochs": 10.0, "patience": 2}
    if arg == "new":
        config.method = "full"
        config.optim = {"learning_rate": 5e-4, "warmup_steps": 100, "clip_norm": 1.0}
        config.train = {"batch_size": 32, "epochs": 30.0, "patience": 3, "steps_per_call": 4}
    else:
        config.lora = {"rank": 8, "alpha": 16.0}
    if arg == "t0":
        config.dtype = "bfloat16"
    return config
