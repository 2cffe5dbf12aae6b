#!/usr/bin/env python
"""A step of the policy's fine-tuning: seconds, users a second, and the device's memory.

    python scripts/bench_policy.py --data=FOLDER_OF_DATA --preset=llama-3.2-1b --dtype=bfloat16

`configs/guided/ml100k_policy.py` (LoRA of rank 8, eight drawn answers a user) over a model of the
preset's size with random weights, on MovieLens-100K. A step reads the prompts, draws the answers,
rewards them and updates the adapters. Compilation is left out.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from _bench import ROOT, now
from bench_score import random_model

from recjax.arguments import Parser, positive
from recjax.errors import run_script
from recjax.paths import flag_file, flag_path

CONFIG = ROOT / "configs" / "guided" / "ml100k_policy.py"


def parse() -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=flag_path, required=True, help="folder of the raw data")
    parser.add_argument("--preset", default="llama-3.2-1b")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch", type=positive, default=16, help="users a step")
    parser.add_argument("--samples", type=positive, default=8, help="answers a user")
    parser.add_argument("--repeats", type=positive, default=5)
    parser.add_argument("--out", type=flag_file, help="also write the figures as JSON")
    return parser.parse_args()


def fill_vocabulary(path: Path, size: int) -> None:
    """Adds tokens that no text has, up to the number of the model's rows."""
    content = json.loads(path.read_text())
    vocab = content["model"]["vocab"]
    vocab |= {f"<unused {i}>": i for i in range(len(vocab), size)}
    path.write_text(json.dumps(content))


def main() -> None:
    args = parse()
    import jax

    import recjax
    from recjax.config import build, load_config
    from recjax.convert.language_model import language_model
    from recjax.convert.writing import write_language_model
    from recjax.guided.policy import PolicyRun
    from recjax.guided.policy_config import PolicyConfig

    with tempfile.TemporaryDirectory() as folder:
        lm, llm = random_model(args.preset, args.dtype), Path(folder) / "llm"
        write_language_model(llm, language_model(lm.config, lm.params))
        lm.tokenizer.save(llm)
        fill_vocabulary(llm / "tokenizer.json", lm.config.vocab_size)
        del lm
        section = load_config(str(CONFIG))[0].to_dict()
        section |= {
            "llm": str(llm),
            "items": str(args.data / "ml-100k-aspect-scores/item_scores.tsv"),
        }
        section["data"] |= {"path": str(args.data / "ml-100k"), "store": f"{folder}/store"}
        section["reward"]["samples"] = args.samples
        section["train"] |= {"batch_size": args.batch, "dtype": args.dtype}
        store = recjax.prepare(section)
        section.pop("system")
        run = PolicyRun(build(PolicyConfig, section, "config"), store)
        print(run.describe(), flush=True)
        state, steps = run.init_state(), run.make_steps()
        batch = run.place(0, 1)
        begun = now()
        state, metrics = steps(state, batch)
        jax.block_until_ready(metrics)
        first = now() - begun
        times = []
        for _ in range(args.repeats):
            begun = now()
            state, metrics = steps(state, batch)
            jax.block_until_ready(metrics)
            times.append(now() - begun)
    step = statistics.median(times)
    peak = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    row = {
        "preset": args.preset, "device": jax.devices()[0].device_kind, "users": args.batch,
        "answers": args.samples, "prompt_tokens": int(run.batches.length), "step_seconds": step,
        "users_per_second": args.batch / step, "first_call_seconds": first, "peak_bytes": peak,
    }  # fmt: skip
    memory = f", {peak / 1e9:.1f} GB" if peak else ""
    print(
        f"a step {step:.3f} s, {args.batch / step:,.1f} users/s{memory}; first call {first:.0f} s"
    )
    if args.out:
        args.out.write_text(json.dumps(row, indent=1))


if __name__ == "__main__":
    run_script(main)
