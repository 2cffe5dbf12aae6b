#!/usr/bin/env python
"""Measures a language model's answers to pairs: BLEU and ROUGE, or errors of numbers.

    python scripts/measure_pairs.py --llm runs/gpt2 --pairs pairs/test.jsonl
    python scripts/measure_pairs.py --llm T0_3B --pairs pairs/test.jsonl --kind number

The model writes token by token, the likeliest first. One line of JSON is printed; `baseline/...`
are those of the most frequent answer of `--train`, in each one's place. A number that is written is
clipped to the range of the pairs' own; their mean stands where there is none.
"""

import collections
import json
import re

from recjax.arguments import Parser, count, positive
from recjax.errors import InputError, run_script
from recjax.evaluation.text import number_errors, text_metrics
from recjax.llm_folders import load_llm
from recjax.text.pairs import read_pairs


def answers_of(path: str, kind: str) -> list[str]:
    """The answers of a file of pairs; of kind "number" they must be numbers."""
    answers = [pair.answer.strip() for pair in read_pairs(path)]
    for place, text in enumerate(answers if kind == "number" else [], start=1):
        if not re.fullmatch(r"[+-]?\d+(\.\d+)?", text):
            raise InputError(f"{path}: answer {place} is '{text}'; expected a number")
    return answers


def metrics(kind: str, written: list[str], wanted: list[str]) -> dict[str, float]:
    if kind == "text":
        return text_metrics(written, wanted)
    numbers = [float(text) for text in wanted]
    mean = sum(numbers) / len(numbers)
    return number_errors(written, numbers, fallback=mean, least=min(numbers), most=max(numbers))


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--llm", required=True, metavar="FOLDER")
    parser.add_argument("--pairs", required=True, metavar="FILE")
    parser.add_argument("--train", metavar="FILE", help="the training pairs, for the baseline")
    parser.add_argument("--kind", choices=("text", "number"), default="text")
    parser.add_argument("--max-new-tokens", type=positive, default=32, metavar="N")
    parser.add_argument("--max-examples", type=count, default=1000, metavar="N", help="0 = all")
    parser.add_argument("--batch-size", type=positive, default=64, metavar="N")
    args = parser.parse_args(argv)
    pairs, wanted = read_pairs(args.pairs), answers_of(args.pairs, args.kind)
    known = collections.Counter(answers_of(args.train, args.kind) if args.train else ())
    most = args.max_examples or len(pairs)
    pairs, wanted = pairs[:most], wanted[:most]
    lm = load_llm(args.llm)
    written: list[str] = []
    for start in range(0, len(pairs), args.batch_size):
        prompts = [pair.prompt for pair in pairs[start : start + args.batch_size]]
        filled = prompts + prompts[:1] * (min(args.batch_size, len(pairs)) - len(prompts))
        made = lm.generate(filled, max_new_tokens=args.max_new_tokens).texts or []
        written += [" ".join(text.split()) for text in made[: len(prompts)]]
    out = {"examples": len(pairs), **metrics(args.kind, written, wanted)}
    if known:
        trivial = [known.most_common(1)[0][0]] * len(wanted)
        found = metrics(args.kind, trivial, wanted)
        out |= {f"baseline/{key}": value for key, value in found.items()}
    print(json.dumps(out))


if __name__ == "__main__":
    run_script(main)
