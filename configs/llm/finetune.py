"""A language model learns the answers to prompts, by low-rank adapters (LoRA).

    recjax train --config=configs/llm/finetune.py --config.llm=FOLDER \
        --config.data.path=pairs.jsonl --workdir=runs/tuned
    recjax generate --llm=runs/tuned --prompts=prompts.txt --out=answers.jsonl

FOLDER is a language model with its tokenizer, of any form that `recjax.load_llm` takes. A line of
pairs.jsonl is {"prompt": "...", "answer": "..."}; the answer goes on where the prompt ends, with
nothing put between them (a blank that is to stand there begins the answer). Other keys:
`--config.data.prompt=question`. A chat model: `--config.data.form=chat`. T5's encoder reads the
prompt, GLM and ChatGLM read it with a blank at its end; the answer is then a text of its own.

A tenth of the pairs validates: training ends when two validations in a row have no lower loss of
the answers, at the latest after 10 epochs. `--config.data.test_path=test.jsonl` tests.
WORKDIR/adapter is peft's form, `--config.merge=True` writes WORKDIR/hf beside it. What it takes:
`recjax plan --config=configs/llm/finetune.py --config.llm=FOLDER --config.data.path=pairs.jsonl`.
"""

from ml_collections import ConfigDict

from recjax.config import wrong_argument


def get_config(arg: str | None = None) -> ConfigDict:
    if arg is not None:
        raise wrong_argument(__file__, arg, "none")
    config = ConfigDict()
    config.system = "finetune"
    config.llm = "MODEL"
    config.data = {"path": "pairs.jsonl"}
    config.lora = {"rank": 8, "alpha": 16.0, "targets": ("all-linear",)}
    config.optim = {"learning_rate": 2e-4, "warmup_steps": 10, "clip_norm": 1.0}
    config.train = {"batch_size": 16, "epochs": 10.0, "patience": 2}
    return config
