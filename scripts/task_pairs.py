#!/usr/bin/env python
"""Writes the prompts and answers of one of RecSysLLM's tasks as pairs, for `recjax train`.

    python scripts/task_pairs.py --config configs/recsysllm/gift_cards.py --prompt 4-1 --out pairs
    recjax train --config=configs/llm/review.py:gpt2 --config.llm=GPT2 --workdir=runs/gpt2
    python scripts/measure_pairs.py --llm runs/gpt2 --pairs pairs/test.jsonl

OUT, a new folder, gets train.jsonl, validation.jsonl and test.jsonl: the training part's
interactions, and the targets of the others, as RecSysLLM is asked about them. `--new gpt2` (or t5)
also writes OUT/gpt2, a small new model of that family with a tokenizer of the training pairs, where
there are no weights.
"""

import json
from pathlib import Path

import numpy as np
from flax import nnx

from recjax.arguments import Parser, positive
from recjax.config import load_config
from recjax.convert.language_model import language_model
from recjax.convert.writing import write_language_model
from recjax.errors import run_script
from recjax.models.definition import params_of
from recjax.models.language import find_family
from recjax.paths import flag_path
from recjax.recsysllm.passages import plain
from recjax.recsysllm.prompts import PROMPTS
from recjax.text.bpe import train_bpe
from recjax.training.system import load_system
from recjax.training.workdir import build_config, complete


def pairs(source, id: str) -> dict[str, list[dict[str, str]]]:
    """The pairs of a prompt, by part."""
    tasks, split = source.dataset.asked, source.dataset.split
    passages = {"train": []}
    for start, stop in zip(split.train.starts.tolist(), split.train.stops.tolist(), strict=True):
        places = np.arange(start, stop)
        for place in places[tasks.able(PROMPTS[id], places)].tolist():
            rng = np.random.default_rng([source.seed, 3, place])
            passages["train"].append(tasks.passage(id, start, place, stop, rng))
    for name in ("validation", "test"):
        passages[name] = source.questions(name, id, 0, 0)[1]
    return {
        name: [{"prompt": p.text, "answer": f" {plain(p.answer or ())}"} for p in found]
        for name, found in passages.items()
    }


def new_model(name: str, texts: list[str], folder: Path, vocab_size: int) -> None:
    """A small model of a family, as it is at the start of training, with a tokenizer."""
    family = find_family(name, "--new")
    tokenizer = train_bpe(texts, vocab_size, ends=family.build.reads_encoder)
    tokenizer.save(folder / f"{name}-tokenizer")
    sizes = {"dim": 256, "mlp_dim": 1024, "layers": 4, "heads": 4, "kv_heads": 4, "head_dim": 64}
    config = family.config(vocab_size=tokenizer.size, max_length=1024, **sizes)
    params = params_of(family.build(config, rngs=nnx.Rngs(0)))
    model = language_model(config, params, folder / f"{name}-tokenizer")
    write_language_model(folder / name, model, overwrite=True)


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", required=True, help="of RecSysLLM (source tasks) or P5")
    parser.add_argument("--prompt", required=True, choices=PROMPTS, metavar="ID")
    parser.add_argument("--out", type=flag_path, required=True, metavar="FOLDER")
    parser.add_argument("--store", help="config.data.store in place of the config's")
    parser.add_argument("--new", action="append", default=[], metavar="FAMILY")
    parser.add_argument("--vocab-size", type=positive, default=4000, help="of new models (4000)")
    args = parser.parse_args(argv)
    for name in args.new:
        find_family(name, "--new")
    if (args.out / "train.jsonl").exists():
        parser.error(f"--out {args.out}: has pairs; expected another folder")
    changes = [("data.store", args.store)] if args.store else []
    config = build_config(load_config(args.config, changes, complete)[0])
    if config.system != "p5" and not (
        config.system == "recsysllm" and config.text.get("source") == "tasks"
    ):
        parser.error(f"--config {args.config}: expected one of RecSysLLM or P5, of source 'tasks'")
    system = load_system(config.system)
    store = system.store(config, True)
    found = pairs(system.run(system.settled(config, store), store, None).source, args.prompt)
    if empty := [name for name, rows in found.items() if not rows]:
        parser.error(f"--prompt {args.prompt}: the data answer it nowhere in {', '.join(empty)}")
    args.out.mkdir(parents=True, exist_ok=True)
    for name, rows in found.items():
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (args.out / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    texts = [row["prompt"] + row["answer"] for row in found["train"]]
    for name in args.new:
        new_model(name, texts, args.out, args.vocab_size)
    print({name: len(rows) for name, rows in found.items()})


if __name__ == "__main__":
    run_script(main)
