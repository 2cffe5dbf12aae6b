#!/usr/bin/env python
"""Speed of a language model: training an adapter or LoRA on it, and generation, in one run.

    RECJAX_DATA=... python scripts/bench_llm.py [--peers PYTHON] [--only stories-15m]
    python scripts/bench_llm.py --device gpu [--peers PYTHON]      # LLaMA-7B's shape in bfloat16

PYTHON is that of an environment with torch, transformers and peft (`bench_llm_peers.py`): it gets
the same weights, tokens and labels, and by turns with ours, so that both see the same machine.
Losses and generated tokens are compared, too. Training has labels on the second half of every row,
an answer as long as its prompt, and tokens a second count the real ones. Generation writes a fixed
number of tokens after prompts of different lengths (left-padded), or after RecInterpreter's prompt
(section 3.1). All rows of that prompt differ in the soft token only, so recjax encodes the common
prefix once and caches it.
"""

import argparse
import dataclasses
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from _bench import (
    default_dtype,
    has_gpu,
    llama_tokenizer,
    make_params,
    median_seconds,
    pin,
    preset,
    run_peers,
    write_config_alone,
)

from recjax.arguments import Parser, positive
from recjax.errors import run_script
from recjax.paths import flag_file

PROMPT = (
    "A person has watched a series of movies. The watching list can be represented as: {soft}. "
    "Describe this watching history of the person in detail."
)
WIDTH = 64  # of the recommender's vectors
TRAIN = {"cpu": ("8x256", "16x128"), "gpu": ("8x512",)}
ROWS = {"cpu": (16, 64), "gpu": (64,)}
TARGETS = {"adapter": 1.5, "lora": 1.5, "generate": 2.0, "shared": 3.0}  # times the peer, on a CPU
GPU_TARGET, GPU_SHARE = 1.3, 0.5  # times the peer; of the card's matmul rate, in training


def parse() -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--only", help="presets of recjax.models.llama, with commas")
    parser.add_argument("--what", help="measurements, with commas (see the table's names)")
    parser.add_argument("--threads", type=positive, default=4, help="cores, on a CPU")
    parser.add_argument("--peers", help="python of an environment with torch, transformers, peft")
    parser.add_argument("--rounds", type=positive, default=3, help="turns of ours and the peer's")
    parser.add_argument("--repeats", type=positive, default=3, help="timed calls a turn")
    parser.add_argument("--train", help="rows x tokens of a training step, with commas (8x512)")
    parser.add_argument("--rows", help="prompts of a generation, with commas")
    parser.add_argument("--new-tokens", type=positive, default=64, help="that each of them writes")
    parser.add_argument("--no-flops", action="store_true", help="no count by the compiler (CPU)")
    parser.add_argument("--peer-seconds", type=float, metavar="S", help="limit of each peer's turn")
    parser.add_argument("--out", type=flag_file, help="also write the figures as JSON")
    args = parser.parse_args()
    args.train = args.train.split(",") if args.train else TRAIN[args.device]
    args.rows = [int(n) for n in args.rows.split(",")] if args.rows else ROWS[args.device]
    default = "stories-15m,stories-110m" if args.device == "cpu" else "llama-7b"
    args.only = (args.only or default).split(",")
    return args


def names(args: argparse.Namespace) -> list[str]:
    """All measurements: `kind:which`."""
    train = [f"{kind}:{batch}" for kind in ("adapter", "lora") for batch in args.train]
    written = [f"generate:{kind}{n}" for kind in ("mixed", "shared") for n in args.rows]
    return train + written


def prompt_ids(vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """RecInterpreter's prompt: ids [T], and which place is soft [T] bool."""
    from recjax.text.tokenizers import load_tokenizer

    folder = llama_tokenizer() if vocab_size == 32000 else None
    if folder:
        ids, is_soft = load_tokenizer(folder).encode_with_soft(PROMPT, soft=1, bos=True)
    else:  # its length by LLaMA's tokenizer, and any ids
        ids, is_soft = np.random.default_rng(2).integers(1, vocab_size, 35), np.arange(35) == 21
    return np.asarray(ids, np.int64), np.asarray(is_soft, bool)


def make_work(args: argparse.Namespace, vocab_size: int, dim: int) -> dict[str, np.ndarray]:
    """Inputs of all measurements, by name."""
    rng = np.random.default_rng(0)
    work: dict[str, np.ndarray] = {"new_tokens": np.array(args.new_tokens)}
    work["adapter"] = (0.02 * rng.standard_normal((WIDTH, dim))).astype(np.float32)

    def rows(count: int, length: int, shortest: int) -> tuple[np.ndarray, np.ndarray]:
        lengths = rng.integers(shortest, length + 1, (count, 1))
        lengths[0] = length
        mask = np.arange(length) >= length - lengths
        return rng.integers(1, vocab_size, mask.shape) * mask, mask

    for name in args.train:
        count, length = map(int, name.split("x"))
        tokens, mask = rows(count, length, 3 * length // 4)
        work[f"{name}/tokens"], work[f"{name}/mask"] = tokens, mask
        answer = np.arange(length) >= length // 2
        work[f"{name}/labels"] = np.where(answer, tokens, -100)
        work[f"{name}/is_soft"] = np.tile(np.arange(length) == length // 2 - 3, (count, 1))
        work[f"{name}/vectors"] = rng.standard_normal((count, WIDTH)).astype(np.float32)
    ids, is_soft = prompt_ids(vocab_size)
    for count in args.rows:
        work[f"mixed{count}/tokens"], work[f"mixed{count}/mask"] = rows(count, 40, 20)
        shared = f"shared{count}"
        work[f"{shared}/tokens"] = np.tile(ids, (count, 1))
        work[f"{shared}/is_soft"] = np.tile(is_soft, (count, 1))
        work[f"{shared}/mask"] = np.ones((count, len(ids)), bool)
        work[f"{shared}/vectors"] = rng.standard_normal((count, WIDTH)).astype(np.float32)
    return work


class Ours:
    """recjax's measurements; a program is compiled when it is first needed, and kept."""

    def __init__(self, config: Any, params: Any, work: dict[str, np.ndarray]):
        from recjax.llm import LanguageModel
        from recjax.models.definition import define
        from recjax.models.llama import Llama

        self.config, self.params, self.work = config, params, work
        self.definition = define(lambda rngs: Llama(config, rngs=rngs))
        self.llm = LanguageModel(self.definition, params, config)
        self.calls: dict[str, Any] = {}

    def write(self, folder: Path) -> None:
        """The weights in Hugging Face's form."""
        from recjax.convert.language_model import language_model
        from recjax.convert.writing import write_language_model

        write_language_model(folder, language_model(self.config, self.params))

    def measure(self, name: str, repeats: int) -> dict[str, Any]:
        """Median seconds; the first step's loss, or the tokens."""
        kind, _, which = name.partition(":")
        first: dict[str, Any] = {}
        if name not in self.calls:
            make = self.generation if kind == "generate" else self.training
            self.calls[name] = make(kind, which)
            key = "tokens" if kind == "generate" else "loss"
            first = {key: np.asarray(self.calls[name]()).tolist()}
        return {"seconds": median_seconds(self.calls[name], repeats)} | first

    def training(self, kind: str, which: str) -> Any:
        """A call that does one step and returns its loss."""
        import jax
        import jax.numpy as jnp

        from recjax.training.freezing import split_params, with_frozen
        from recjax.training.state import TrainState
        from recjax.training.step import make_steps

        loss, params, rules, optimizer = self.trained(kind, which)
        trained, frozen = split_params(params, rules)
        steps = make_steps(with_frozen(loss), optimizer)
        wanted = ("tokens", "labels", "mask", "is_soft", "vectors")
        batch = {name: jnp.asarray(self.work[f"{which}/{name}"])[None] for name in wanted}
        trained = {path: jnp.copy(value) for path, value in trained.items()}  # donated
        state = TrainState(jnp.int32(0), trained, optimizer.init(trained))

        def call() -> Any:
            nonlocal state
            state, metrics = steps(state, batch, (frozen, None), jax.random.key(0))
            return metrics["loss"][0].block_until_ready()

        return call

    def trained(self, kind: str, which: str, unroll: int | None = None) -> tuple[Any, ...]:
        """(loss, parameters, freezing rules, optimiser) of a kind of training."""
        import jax
        import jax.numpy as jnp
        from flax import nnx
        from jax.sharding import AxisType

        from recjax.models.definition import define
        from recjax.models.llama import PARAM_AXES, Llama
        from recjax.nn.lora import LoRAConfig, add_lora
        from recjax.nn.soft import place_soft
        from recjax.training.freezing import LORA
        from recjax.training.optim import OptimConfig, make_optimizer
        from recjax.training.parallel import MESH_AXES
        from recjax.training.state import init_params
        from recjax.training.token_loss import token_loss

        config = dataclasses.replace(self.config, unroll=unroll or self.config.unroll)
        params, rules = dict(self.params), LORA

        def build(rngs: nnx.Rngs) -> Llama:
            model = Llama(config, rngs=rngs)
            return add_lora(model, LoRAConfig(rank=8), rngs) if kind == "lora" else model

        definition = define(build)
        if kind == "lora":
            mesh = jax.make_mesh((1, 1, 1), MESH_AXES, (AxisType.Auto,) * 3)
            params |= init_params(build, 0, PARAM_AXES, mesh, but=params)
        else:
            params["adapter/kernel"] = jnp.asarray(self.work["adapter"])
            rules = ((r"adapter/.*", "trained"), (r".*", "frozen"))
        budget = int((self.work[f"{which}/labels"][:, 1:] >= 0).sum())

        def loss(params: Any, batch: Any, data: Any, key: Any) -> Any:
            model = definition.merge(params)
            x = model.embed(batch["tokens"])
            if kind == "adapter":
                soft = batch["vectors"] @ params["adapter/kernel"]  # float32, as it is trained
                x = place_soft(x, batch["is_soft"], soft[:, None])
            h, _ = model.hidden(x, mask=batch["mask"])
            return token_loss(h, model.head_table(), batch["labels"], budget=budget)

        optim = OptimConfig(learning_rate=1e-3, weight_decay=0.01)  # torch's AdamW
        return loss, params, rules, make_optimizer(optim, 1)

    def generation(self, kind: str, which: str) -> Any:
        """A call that generates and returns the tokens."""
        work = self.work
        tokens, mask = work[f"{which}/tokens"], work[f"{which}/mask"]
        soft = None
        if f"{which}/is_soft" in work:
            soft = work[f"{which}/is_soft"], (work[f"{which}/vectors"] @ work["adapter"])[:, None]
        return lambda: (
            self.llm.generate(
                tokens, mask=mask, soft=soft, max_new_tokens=int(work["new_tokens"]), stop=()
            ).tokens
        )

    def flops_per_token(self, kind: str, which: str) -> float:
        """FLOPs of loss and gradient a token, as the compiler counts them, over N.

        N counts the weights of matrix products: the layers', and the head's for the labelled share
        of the tokens. Layers are unrolled: the compiler counts the body of a loop once.
        """
        import jax

        from recjax.training import cross_entropy
        from recjax.training.freezing import split_params, with_frozen

        loss, params, rules, _ = self.trained(kind, which, unroll=self.config.layers)
        trained, frozen = split_params(params, rules)
        wanted = ("tokens", "labels", "mask", "is_soft", "vectors")
        batch = {name: jax.numpy.asarray(self.work[f"{which}/{name}"]) for name in wanted}

        def total(trained: Any, frozen: Any) -> Any:
            return with_frozen(loss)(trained, batch, (frozen, None), None)[0]

        chunk, cross_entropy._CHUNK_ELEMENTS = cross_entropy._CHUNK_ELEMENTS, 1 << 40
        cost = jax.jit(jax.grad(total)).lower(trained, frozen).compile().cost_analysis()
        cross_entropy._CHUNK_ELEMENTS = chunk
        return cost["flops"] / batch["tokens"].size / self.used(which)

    def used(self, which: str) -> float:
        """N of `flops_per_token`."""
        labels = self.work[f"{which}/labels"]
        layers = sum(
            v.size for k, v in self.params.items() if k.startswith("layers/") and v.ndim > 2
        )
        head = self.config.vocab_size * self.config.dim
        return layers + head * (labels[:, 1:] >= 0).sum() / labels.size


def matmul_rate(size: int, dtype: str) -> float:
    """FLOP/s of a product of two square matrices."""
    import jax
    import jax.numpy as jnp

    x = jnp.ones((size, size), dtype)
    product = jax.jit(lambda a: a @ a)
    return 2 * size**3 / median_seconds(lambda: product(x).block_until_ready(), 20)


def tokens_of(name: str, work: dict[str, np.ndarray]) -> int:
    """Real tokens that a training step reads, or tokens that a generation writes."""
    kind, _, which = name.partition(":")
    mask = work[f"{which}/mask"]
    return len(mask) * int(work["new_tokens"]) if kind == "generate" else int(mask.sum())


def measure(args: argparse.Namespace, size: str, folder: Path) -> list[dict[str, Any]]:
    """Rows of figures. On a CPU by turns, with the same weights on both sides; on a GPU the peer
    first (recjax keeps the card's memory), each with random weights of its own."""
    from recjax.models.llama import PRESETS

    config, gpu = preset(size, PRESETS), args.device == "gpu"
    what = args.what.split(",") if args.what else names(args)
    work = make_work(args, config.vocab_size, config.dim)
    np.savez(folder / "work.npz", **work)
    rows: dict[str, dict[str, Any]] = {name: {"name": name} for name in what}
    found: dict[str, dict[str, list]] = {name: {"ours": [], "peer": []} for name in what}

    def peer(keep: bool) -> None:
        out = run_peers("bench_llm_peers.py", args, folder, what) if args.peers else None
        for name, figures in (out or {"figures": {}})["figures"].items():
            found[name]["peer"].append(figures.pop("seconds"))
            if keep:
                rows[name] |= {f"peer's {key}": value for key, value in figures.items()}
        if out:
            rows[what[0]]["versions"] = out["versions"] | {"attention": out["attention"]}

    if gpu:
        write_config_alone(config, folder / "model")
        peer(keep=False)
    ours = Ours(config, make_params(config, default_dtype(args.device)), work)
    if not gpu:
        ours.write(folder / "model")
    for turn in range(1 if gpu else args.rounds):
        for name in what:
            figures = ours.measure(name, args.repeats)
            found[name]["ours"].append(figures.pop("seconds"))
            if not gpu:
                rows[name] |= {f"our {key}": value for key, value in figures.items()}
        if not gpu:
            peer(keep=not turn)
    for name, seconds in found.items():
        kind, _, which = name.partition(":")
        for who, values in seconds.items():
            if values:
                count = tokens_of(name, work)
                rows[name][f"{who}_tokens_per_second"] = count / statistics.median(values)
                rows[name][f"{who}_seconds"] = values
        if kind != "generate":  # padding is computed, too
            flops = 4 * ours.used(which) * work[f"{which}/tokens"].size
            rows[name]["flops_per_second"] = flops / statistics.median(seconds["ours"])
            if not gpu and not args.no_flops:
                rows[name]["flops_per_token_over_n"] = ours.flops_per_token(kind, which)
    return list(rows.values())


def show(size: str, rows: list[dict[str, Any]], args: argparse.Namespace, rate: float) -> None:
    """Prints the table, and adds `times_faster` and what differs to its rows."""
    layout = "{:<14}{:<22}{:>12}{:>12}{:>8}  {}"
    print(layout.format("model", "what", "tokens/s", "peer's", "ratio", ""))
    for row in rows:
        peer, notes = row.get("peer_tokens_per_second"), []
        kind = row["name"].split(":")[0]
        if peer:
            row["times_faster"] = row["ours_tokens_per_second"] / peer
            target = TARGETS["shared" if "shared" in row["name"] else kind]
            if args.device == "gpu":
                target = GPU_TARGET
            if row["times_faster"] < target:
                notes.append(f"under {target:g}x")
        if "flops_per_second" in row:
            row["matmul_share"] = row["flops_per_second"] / rate
            notes.append(f"{row['matmul_share']:.0%} of the matmul rate")
            if args.device == "gpu" and row["matmul_share"] < GPU_SHARE:
                notes.append(f"under {GPU_SHARE:.0%}")
        if "flops_per_token_over_n" in row:
            notes.append(f"{row['flops_per_token_over_n']:.2f} N FLOPs a token")
        if "peer's loss" in row:
            row["loss_difference"] = abs(row["peer's loss"] - row["our loss"])
            notes.append(f"loss differs by {row['loss_difference']:.0e}")
        mine, theirs = row.pop("our tokens", None), row.pop("peer's tokens", None)
        if mine and theirs:
            row["tokens_alike"] = float((np.array(mine) == np.array(theirs)).mean())
            notes.append(f"{row['tokens_alike']:.1%} of tokens alike")
        ratio = f"{row['times_faster']:.2f}x" if peer else "-"
        ours, theirs = f"{row['ours_tokens_per_second']:,.0f}", f"{peer:,.0f}" if peer else "-"
        print(layout.format(size, row["name"], ours, theirs, ratio, "; ".join(notes)), flush=True)


def main() -> None:
    args = parse()
    if args.device == "cpu":
        pin(args.threads)
        os.environ["JAX_PLATFORMS"] = "cpu"
    elif not has_gpu():
        raise SystemExit("--device gpu: JAX finds no GPU here")
    rows = {}
    for size in args.only:
        with tempfile.TemporaryDirectory() as folder:
            rows[size] = measure(args, size, Path(folder))
    cpu = args.device == "cpu"
    rate = matmul_rate(2048, "float32") if cpu else matmul_rate(8192, "bfloat16")
    where = f"{args.threads} core(s), float32" if cpu else "GPU, bfloat16"
    print(f"{where}: matrix product {rate / 1e9:,.0f} GFLOP/s")
    for size, found in rows.items():
        show(size, found, args, rate)
    if args.out:
        figures = {"device": args.device, "threads": args.threads, "matmul_gflops": rate / 1e9}
        args.out.write_text(json.dumps({**figures, "models": rows}, indent=2) + "\n")


if __name__ == "__main__":
    run_script(main)
