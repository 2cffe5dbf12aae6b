#!/usr/bin/env python
"""Items scored a second: forced forms against free generation with parsing, on one model.

    python scripts/bench_score.py [--llm FOLDER] [--batches 1,4,16,64]
    python scripts/bench_score.py --preset llama-3.2-1b --dtype bfloat16      # random weights

12 aspects of movies, made-up items. Without `--llm` a small LLaMA first learns the form of the
answer (made-up scores; a minute or two), so that its free answers are well-formed. Each way scores
all items in batches once before it is timed; the figure is the median of `--repeats` passes, taken
by turns, compilation and loading left out. "Identical" counts ratings that are those of free greedy
generation, of the answers that are well-formed. Random weights write no form: their free answers
have as many tokens as one of the form, and only the speed counts.
"""

import argparse
import json
import logging
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from _bench import ROOT, now, pin, use_clock
from _bench import preset as published
from study_scorer import done, start_model

from recjax.arguments import Parser, positive
from recjax.errors import run_script
from recjax.paths import flag_file

_WORDS = ("night", "river", "stone", "garden", "winter", "letter", "shadow", "harbour", "bridge")
WAYS = {
    "free": {"how": "free"},
    "forced": {"how": "forced"},
    "forced, expected": {"how": "forced", "value": "expected"},
    "apart": {"how": "apart"},
}


def items(count: int) -> list[str]:
    """Made-up items as texts."""
    rng = np.random.default_rng(0)
    genres = ["Drama", "Comedy", "Horror", "War", "Musical", "Western", "Thriller"]
    out = []
    for _ in range(count):
        name = " ".join(rng.choice(_WORDS, rng.integers(1, 5)))
        some = ", ".join(rng.choice(genres, rng.integers(1, 4), replace=False))
        out.append(f"title: The {name}\nyear: {rng.integers(1930, 2000)}\ngenres: {some}")
    return out


def learned(folder: Path, texts: list[str], brief: bool, dim: int) -> Path:
    """A small model that has learned the form; its ratings follow from the text's letters."""
    from recjax.guided.aspects import aspect_set
    from recjax.guided.prompts import answer_form, question

    aspects = aspect_set("movies")
    form, pairs = answer_form(aspects), folder / "pairs.jsonl"
    with pairs.open("w", encoding="utf-8") as file:
        for text in texts:
            rng = np.random.default_rng([len(text), *text.encode()])
            asked = question(aspects, "item", text, brief)
            row = {"prompt": asked.text, "answer": form.text(rng.integers(0, 10, 12).tolist())}
            file.write(json.dumps(row) + "\n")
    start_model(folder / "start", pairs, dim, 2, 600, 0)
    done([
        "train", f"--config={ROOT / 'configs' / 'guided' / 'scorer.py'}:small",
        f"--config.llm={folder / 'start'}", f"--config.data.path={pairs}",
        "--config.train.epochs=3", "--config.train.batch_size=16", f"--workdir={folder / 'run'}",
    ])  # fmt: skip
    return folder / "run"


def random_model(preset: str, dtype: str) -> Any:
    """A published size with random weights, and a tokenizer of the prompts."""
    import jax
    import jax.numpy as jnp

    from recjax.guided.aspects import aspect_set
    from recjax.guided.prompts import answer_form, question
    from recjax.llm import LanguageModel
    from recjax.models.definition import define
    from recjax.models.language import family_for, presets
    from recjax.text.bpe import train_bpe

    aspects = aspect_set("movies")
    config = published(preset, presets())
    texts = [question(aspects, "item", text).text for text in items(200)]
    texts += [answer_form(aspects).text([k] * 12) for k in range(10)]
    build = family_for(config).build
    definition = define(lambda rngs: build(config, rngs=rngs, dtype=jnp.dtype(dtype)))

    @jax.jit
    def make(key: Any) -> dict[str, Any]:
        return {
            name: (
                jnp.ones(shape.shape, shape.dtype)
                if name.endswith("/scale")
                else 0.02 * jax.random.normal(jax.random.fold_in(key, n), shape.shape, shape.dtype)
            )
            for n, (name, shape) in enumerate(definition.shapes.items())
        }

    tokenizer = train_bpe(texts * 3, 1000)
    return LanguageModel(definition, make(jax.random.key(0)), config, tokenizer=tokenizer)


def parse() -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--llm", help="a folder, or the workdir of a run that fine-tuned one")
    parser.add_argument("--preset", help="a published size with random weights")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--dim", type=positive, default=128, help="of the small model")
    parser.add_argument("--brief", action="store_true", help="prompts without the aspects")
    parser.add_argument("--items", type=positive, default=128)
    parser.add_argument("--batches", default="1,4,16,64")
    parser.add_argument("--repeats", type=positive, default=3)
    parser.add_argument("--threads", type=positive, default=2, help="cores, on a CPU")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="see _bench.py")
    parser.add_argument("--out", type=flag_file, help="also write the figures as JSON")
    return parser.parse_args()


def main() -> None:
    args = parse()
    pin(args.threads)
    use_clock(args.clock)
    logging.getLogger("absl").setLevel(logging.ERROR)
    import jax

    from recjax.guided.aspects import aspect_set
    from recjax.guided.prompts import answer_form
    from recjax.guided.scoring import Rater
    from recjax.llm_folders import load_llm

    texts, rows = items(args.items), []
    with tempfile.TemporaryDirectory() as folder:
        if args.preset:
            lm = random_model(args.preset, args.dtype)
        else:
            llm = args.llm or learned(Path(folder), items(600), args.brief, args.dim)
            lm = load_llm(llm, dtype=args.dtype)
    aspects = aspect_set("movies")
    print(f"{jax.devices()[0].device_kind}, {args.threads} threads; {len(texts)} items", flush=True)
    for size in map(int, args.batches.split(",")):
        raters = {
            name: Rater(lm, aspects, "item", form="text", brief=args.brief, batch_size=size, **own)
            for name, own in WAYS.items()
        }
        if args.preset:
            answer = answer_form(aspects).text([4] * len(aspects))
            raters["free"].longest = len(lm.tokenizer.encode(answer, start=False, eos=True))
        found = {name: rate(texts) for name, rate in raters.items()}
        times: dict[str, list[float]] = {name: [] for name in raters}
        for _ in range(args.repeats):
            for name, rate in raters.items():
                begun = now()
                rate(texts)
                times[name].append(now() - begun)
        free = [one for one in found["free"] if one.parsed is not None and one.parsed.well_formed]
        same = sum(
            one.scores == other.scores
            for one, other in zip(found["free"], found["forced"], strict=True)
            if one.parsed is not None and one.parsed.well_formed
        )
        slow = statistics.median(times["free"])
        print(f"batch {size}: {len(free)} free answers well-formed, {same} of them identical")
        for name, own_times in times.items():
            middle = statistics.median(own_times)
            rate_of = len(texts) / middle
            print(f"  {name:<18}{rate_of:>10.1f} items/s{slow / middle:>8.2f}x", flush=True)
            rows.append({"batch": size, "way": name, "items_per_second": rate_of,
                         "times_free": slow / middle, "well_formed": len(free),
                         "identical": same})  # fmt: skip
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    run_script(main)
