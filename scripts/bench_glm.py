#!/usr/bin/env python
"""Speed of GLM beside its original code in PyTorch: a step of blank infilling, and generation.

    python scripts/bench_glm.py --peers PYTHON
    python scripts/bench_glm.py --device gpu [--peers PYTHON]      # GLM-large's shape in bfloat16

PYTHON is that of an environment with torch and safetensors (`bench_glm_peer.py`, the original code
written again): it gets the same random weights, tokens, positions and masks, and by turns with
ours, so that both see the same machine. The first loss and the generated tokens are compared, too.
A row of training is a text of which 15 % are blanks of about three tokens; all parameters are
trained. Generation fills one blank with a fixed number of tokens. On a GPU the share of the
measured matrix-product rate that training reaches stands beside it; without a peer, our figures
stand alone.
"""

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from _bench import default_dtype, has_gpu, median_seconds, pin, run_peers, use_clock
from bench_llm import matmul_rate

from recjax.arguments import Parser, positive
from recjax.errors import run_script
from recjax.paths import flag_file

TARGET = 1.3  # times the peer
SIZES: dict[str, dict[str, Any]] = {
    "cpu": {"dim": 512, "layers": 6, "train": "8x128", "rows": 16, "rounds": 3},
    "gpu": {"dim": 1024, "layers": 24, "train": "16x512", "rows": 64, "rounds": 1},
}
START, BLANK = 30522, 103  # <sop> and [MASK] of BERT's vocabulary


def parse() -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=tuple(SIZES), default="cpu")
    parser.add_argument("--peers", help="python of an environment with torch; a CPU needs it")
    parser.add_argument("--peer-seconds", type=float, help="limit for the peer, each turn")
    parser.add_argument("--dim", type=positive)
    parser.add_argument("--layers", type=positive)
    parser.add_argument("--train", help="rows x tokens of a training step")
    parser.add_argument("--rows", type=positive, help="prompts of a generation")
    parser.add_argument("--new-tokens", type=positive, default=64, help="that each of them writes")
    parser.add_argument("--threads", type=positive, default=4, help="cores")
    parser.add_argument("--rounds", type=positive, help="turns of ours and the peer's")
    parser.add_argument("--repeats", type=positive, default=3, help="timed calls a turn")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: one core's")
    parser.add_argument("--out", type=flag_file, help="also write the figures as JSON")
    out = parser.parse_args()
    for name, value in SIZES[out.device].items():
        if getattr(out, name) is None:
            setattr(out, name, value)
    out.dtype = default_dtype(out.device)
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


def ours(
    args: argparse.Namespace, work: dict[str, np.ndarray], folder: Path
) -> tuple[dict[str, Any], int]:
    """Calls by name: one step and its loss; generation and its tokens. And the FLOPs of a step's
    matrix products. Writes the weights."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from recjax.convert.language_model import language_model
    from recjax.convert.writing import write_language_model
    from recjax.llm import LanguageModel
    from recjax.models.definition import define, params_of
    from recjax.models.glm import GLM, Config
    from recjax.training.flops import product_flops
    from recjax.training.optim import OptimConfig, make_optimizer
    from recjax.training.state import TrainState
    from recjax.training.step import make_steps
    from recjax.training.token_loss import label_loss

    config = Config(
        vocab_size=30592, dim=args.dim, mlp_dim=4 * args.dim, layers=args.layers,
        heads=args.dim // 64, kv_heads=args.dim // 64, head_dim=64, start_id=START,
        blank_ids=(BLANK,),
    )  # fmt: skip

    def build(rngs: nnx.Rngs) -> GLM:
        return GLM(config, rngs=rngs, dtype=jnp.dtype(args.dtype))

    definition = define(build)
    params = jax.jit(lambda: params_of(build(nnx.Rngs(0))))()
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
    one = {name: value[0] for name, value in batch.items()}
    gradient = jax.grad(lambda params: loss(params, one, None, None)[0])
    flops = product_flops(jax.make_jaxpr(gradient)(params))

    def step() -> Any:
        nonlocal state
        state, metrics = steps(state, batch, None, jax.random.key(0))
        return float(metrics["loss"][0])

    def generate() -> Any:
        got = lm.generate(work["generate/tokens"], max_new_tokens=args.new_tokens, stop=())
        return got.tokens.tolist()

    return {"train:train": step, "generate:generate": generate}, flops


def main() -> None:
    args = parse()
    use_clock(args.clock)
    if args.device == "cpu":
        if not args.peers:
            raise SystemExit("--peers PYTHON: on a CPU the figures are those beside the original")
        pin(args.threads)
        os.environ["JAX_PLATFORMS"] = "cpu"
    elif not has_gpu():
        raise SystemExit("--device gpu: JAX finds no GPU here")
    else:
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # the peer needs some of the card
    work = make_work(args)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        np.savez(folder / "work.npz", **work)
        calls, flops = ours(args, work, folder / "model")
        first = {name: call() for name, call in calls.items()}
        seconds: dict[str, dict[str, list[float]]] = {n: {"ours": [], "peer": []} for n in calls}
        theirs: dict[str, Any] = {}
        for _ in range(args.rounds):
            for name, call in calls.items():
                seconds[name]["ours"].append(median_seconds(call, args.repeats))
            if not args.peers:
                continue
            out = run_peers("bench_glm_peer.py", args, folder, list(calls))
            if out is None and args.device == "cpu":
                raise SystemExit(1)
            for name, figures in (out or {"figures": {}})["figures"].items():
                seconds[name]["peer"].append(figures["seconds"])
                theirs.setdefault(name, figures)
    counts = {"train:train": work["train/tokens"].size, "generate:generate": args.rows}
    counts["generate:generate"] *= args.new_tokens
    figures = {"device": args.device, "rows": []}
    for name, found in seconds.items():
        mine = statistics.median(found["ours"])
        row = {"name": name.split(":")[0], "ours_tokens_per_second": counts[name] / mine, **found}
        said = f"{row['name']:<10}{counts[name] / mine:>10,.0f} tokens/s"
        if found["peer"]:
            peer = statistics.median(found["peer"])
            row |= {"peer_tokens_per_second": counts[name] / peer, "times_faster": peer / mine}
            note = "" if peer / mine >= TARGET else f" under {TARGET}x"
            said += f", the original's {counts[name] / peer:,.0f}: {peer / mine:.2f}x{note}"
        figures["rows"].append(row)
        print(said)
    if args.device == "gpu":
        rate = matmul_rate(8192, args.dtype)
        own = flops / statistics.median(seconds["train:train"]["ours"])
        figures |= {"matmul_gflops": rate / 1e9, "matmul_share": own / rate}
        print(f"training reaches {own / rate:.1%} of the matrix-product rate")
    if theirs:
        gap = abs(first["train:train"] - theirs["train:train"]["loss"])
        ours_said = np.array(first["generate:generate"])
        alike = float(np.mean(ours_said == np.array(theirs["generate:generate"]["tokens"])))
        figures |= {"loss_gap": gap, "tokens_alike": alike}
        print(f"the first loss differs by {gap:.0e}; {alike:.1%} of generated tokens alike")
    if args.out:
        args.out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    run_script(main)
