"""ChatGLM-6B learns to fill blanks by LoRA, with the settings of RecSysLLM's paper (2308.10837).

    recjax train --config=configs/recsysllm/chatglm_6b_lora.py --config.llm=FOLDER \\
        --workdir=runs/chatglm
    recjax plan --config=configs/recsysllm/chatglm_6b_lora.py --config.llm=FOLDER --mesh=1,4,1

FOLDER has the published weights as safetensors, with the tokenizer. The paper's settings: AdamW,
peak rate 1e-5 after a warm-up, 8 epochs, 32 texts of at most 1,024 tokens a device, adapters of
rank 8 on query_key_value, dense, dense_h_to_4h and dense_4h_to_h. `train.batch_size` counts all
devices: 128 are the paper's four. The length of the warm-up is not published.

The text is MovieLens-100K's; another source: `--config.text.source=texts
--config.text.path=texts.jsonl`. What it takes without the weights:
`recjax plan --preset=chatglm-6b --mesh=1,4,1 --batch=128 --length=1024 --train=lora --remat=full`.
"""

from ml_collections import ConfigDict

from recjax.errors import InputError


def get_config(arg: str | None = None) -> ConfigDict:
    if arg is not None:
        raise InputError(f"chatglm_6b_lora.py: no argument '{arg}'; expected none")
    config = ConfigDict()
    config.system = "recsysllm"
    config.llm = "MODEL"
    config.method = "lora"
    config.lora = {"rank": 8, "alpha": 16.0}  # on the family's own targets, which are the paper's
    config.dtype, config.remat = "bfloat16", "full"
    config.length = 1024
    config.data = {"source": "movielens", "path": "ml-100k", "store": "prepared/ml-100k"}
    config.split = {"name": "leave_one_out"}
    config.text = {"source": "catalogue", "domain": "movie", "window": 30}
    config.blanks = {"token": 0.5, "sentence": 0.3, "document": 0.2}
    config.optim = {
        "learning_rate": 1e-5, "warmup_steps": 100, "weight_decay": 0.01, "clip_norm": 1.0,
    }  # fmt: skip
    config.train = {"batch_size": 128, "epochs": 8.0, "mesh": (1, -1, 1)}
    config.evaluation = {"max_examples": 500, "batch_size": 32}
    return config
