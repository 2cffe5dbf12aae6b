#!/usr/bin/env python
"""Speed of GLM beside its original code in PyTorch: a step of blank infilling, and generation.

    python scripts/bench_glm.py --peers PYTHON

PYTHON is that of an environment with torch and safetensors (`bench_glm_peer.py`, the original code
written again): it gets the same random weights, tokens, positions and masks, and by turns with
ours, so that both see the same machine. The first loss and the generated tokens are compared, too.
A row of training is a text of which 15 % are blanks of about three tokens; all parameters are
trained. Generation fills one blank with a fixed number of tokens.
"""

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from _bench import median_seconds, pin, run_peers, use_clock

TARGET = 1.3  # times the peer
START, BLANK = 30522, 103  # <sop> and [MASK] of BERT's vocabulary


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[1])
    parser.add_argument("--peers", required=True, help="python of an environment with torch")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--train", default="8x128", help="rows x tokens of a training step")
    parser.add_argument("--rows", type=int, default=16, help="prompts of a generation")
    parser.add_argument("--new-tokens", type=int, default=64, help="that each of them writes")
    parser.add_argument("--threads", type=int, default=4, help="cores")
    parser.add_argument("--rounds", type=int, default=3, help="turns of ours and the peer's")
    parser.add_argument("--repeats", type=int, default=3, help="timed calls a turn")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: one core's")
    parser.add_argument("--json", help="a file for the figures")
    out = parser.parse_args()
    out.device = "cpu"
    return out


def make_work(args: argparse.Namespace) -> dict[str, np.ndarray]:
    """A batch of blank infilling, and prompts."""
    rng = np.random.default_rng(0)
    rows, length = map(int, args.train.split("x"))
    blanks, span = max(1, round(0.15 * length / 3)), 3
    source = length - blanks * (span + 1)  # each blank's text begins with <sop>
    tokens = rng.integers(1000, 30000, (rows, length))
    positions = np.zeros((rows, 2, length), np.int64)
    positions[:, 0, :source] = np.arange(source)
    labels = np.full((rows, length), -100)
    for row in range(rows):
        places = np.sort(rng.choice(np.arange(1, source), blanks, replace=False))
        tokens[row, places] = BLANK
        for number, place in enumerate(rng.permutation(places)):
            at = slice(source + number * (span + 1), source + (number + 1) * (span + 1))
            labels[row, at] = rng.integers(1000, 30000, span + 1)
            tokens[row, at] = np.concatenate([[START], labels[row, at][:-1]])
            positions[row, 0, at], positions[row, 1, at] = place, np.arange(1, span + 2)
    place = np.arange(length)
    mask = (place <= place[:, None]) | (place < source)
    prompts = rng.integers(1000, 30000, (args.rows, 41))
    prompts[:, 20], prompts[:, -1] = BLANK, START
    return {
        "train/tokens": tokens, "train/positions": positions, "train/labels": labels,
        "train/mask": np.tile(mask, (rows, 1, 1)), "generate/tokens": prompts,
        "new_tokens": np.array(args.new_tokens), "blank": np.array(20),
    }  # fmt: skip


def ours(args: argparse.Namespace, work: dict[str, np.ndarray], folder: Path) -> dict[str, Any]:
    """Calls by name: one step and its loss; generation and its tokens. Writes the weights."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from recjax.convert.language_model import language_model, write_language_model
    from recjax.llm import LanguageModel
    from recjax.models.definition import define, params_of
    from recjax.models.glm import GLM, Config
    from recjax.training.optim import OptimConfig, make_optimizer
    from recjax.training.state import TrainState
    from recjax.training.step import make_steps
    from recjax.training.token_loss import label_loss

    config = Config(
        vocab_size=30592, dim=args.dim, mlp_dim=4 * args.dim, layers=args.layers,
        heads=args.dim // 64, kv_heads=args.dim // 64, head_dim=64, start_id=START,
        blank_ids=(BLANK,),
    )  # fmt: skip
    definition = define(lambda rngs: GLM(config, rngs=rngs))
    params = jax.jit(lambda: params_of(GLM(config, rngs=nnx.Rngs(0))))()
    write_language_model(folder, language_model(config, params))
    budget = int((work["train/labels"] >= 0).sum())

    def loss(params: Any, batch: Any, data: Any, key: Any) -> Any:
        model = definition.merge(params)
        h, _ = model.hidden(batch["tokens"], positions=batch["positions"], mask=batch["mask"])
        return label_loss(h, model.head_table(), batch["labels"], budget=budget)

    optimizer = make_optimizer(OptimConfig(learning_rate=1e-3, weight_decay=0.01), 1)
    steps = make_steps(loss, optimizer)
    wanted = ("tokens", "positions", "labels", "mask")
    batch = {name: jnp.asarray(work[f"train/{name}"])[None] for name in wanted}
    trained = {path: jnp.copy(value) for path, value in params.items()}  # donated
    state = TrainState(jnp.int32(0), trained, optimizer.init(trained))
    lm = LanguageModel(definition, params, config)

    def step() -> Any:
        nonlocal state
        state, metrics = steps(state, batch, None, jax.random.key(0))
        return float(metrics["loss"][0])

    def generate() -> Any:
        got = lm.generate(work["generate/tokens"], max_new_tokens=args.new_tokens, stop=())
        return got.tokens.tolist()

    return {"train:train": step, "generate:generate": generate}


def main() -> None:
    args = parse()
    use_clock(args.clock)
    pin(args.threads)
    os.environ["JAX_PLATFORMS"] = "cpu"
    work = make_work(args)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        np.savez(folder / "work.npz", **work)
        calls = ours(args, work, folder / "model")
        first = {name: call() for name, call in calls.items()}
        seconds: dict[str, dict[str, list[float]]] = {n: {"ours": [], "peer": []} for n in calls}
        theirs: dict[str, Any] = {}
        for _ in range(args.rounds):
            for name, call in calls.items():
                seconds[name]["ours"].append(median_seconds(call, args.repeats))
            out = run_peers("bench_glm_peer.py", args, folder, list(calls))
            if out is None:
                raise SystemExit(1)
            for name, figures in out["figures"].items():
                seconds[name]["peer"].append(figures["seconds"])
                theirs.setdefault(name, figures)
    gap = abs(first["train:train"] - theirs["train:train"]["loss"])
    alike = np.mean(
        np.array(first["generate:generate"]) == np.array(theirs["generate:generate"]["tokens"])
    )
    counts = {"train:train": work["train/tokens"].size, "generate:generate": args.rows}
    counts["generate:generate"] *= args.new_tokens
    rows = []
    for name, found in seconds.items():
        mine, peer = (statistics.median(found[who]) for who in ("ours", "peer"))
        rows.append({"name": name.split(":")[0], "times_faster": peer / mine, **found})
        note = "" if peer / mine >= TARGET else f"under {TARGET}x"
        print(
            f"{rows[-1]['name']:<10}{counts[name] / mine:>10,.0f} tokens/s, the original's "
            f"{counts[name] / peer:,.0f}: {peer / mine:.2f}x {note}"
        )
    print(f"the first loss differs by {gap:.0e}; {alike:.1%} of generated tokens alike")
    if args.json:
        Path(args.json).write_text(
            json.dumps({"rows": rows, "loss_gap": gap, "tokens_alike": float(alike)}, indent=2)
        )


if __name__ == "__main__":
    main()
