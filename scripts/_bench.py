"""The speed scripts' common part: the clock, runs of the Beauty configs, timing of training steps;
random language models, and the processes of peers."""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:  # recjax needs no installation to be measured
    sys.path.insert(0, str(ROOT))

_clock = time.perf_counter


def use_clock(name: str) -> None:
    """`wall`, or `cpu`: this process's seconds on its core, which others may use too."""
    global _clock
    _clock = {"wall": time.perf_counter, "cpu": time.process_time}[name]


def now() -> float:
    return _clock()


def pin(threads: int) -> None:
    """On that many cores, which the other environments' processes inherit; and, as the `recjax`
    command, with `keep_freed`, which they do not."""
    from recjax.memory import keep_freed

    keep_freed()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    os.environ["OMP_NUM_THREADS"] = str(threads)


def peak_gb() -> float:
    """GB that this process has held at its peak."""
    unit = 1 if sys.platform == "darwin" else 1024  # of the kernel's count, in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def median_seconds(call: Callable[[], Any], repeats: int = 7) -> float:
    """Median of `call`'s seconds; it has run once before."""
    call()
    times = []
    for _ in range(repeats):
        start = now()
        call()
        times.append(now() - start)
    return statistics.median(times)


def has_gpu() -> bool:
    """Asks another process: in this one JAX would take the card's memory before the peer runs."""
    code = "import jax; print(jax.default_backend())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return done.stdout.strip() == "gpu"


def preset(name: str, known: Mapping[str, Any]) -> Any:
    """The config of a published size; `InputError` with the nearest one that is known."""
    from recjax.config import nearest
    from recjax.errors import InputError

    if name not in known:
        raise InputError(f"no preset '{name}'; {nearest(name, known)}")
    return known[name]


def make_params(config: Any, dtype: str) -> Any:
    """A LLaMA's random weights."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from recjax.models.definition import params_of
    from recjax.models.llama import Llama

    return jax.jit(lambda: params_of(Llama(config, rngs=nnx.Rngs(0), dtype=jnp.dtype(dtype))))()


def default_dtype(device: str) -> str:
    """Of a language model's parameters and activations."""
    return "float32" if device == "cpu" else "bfloat16"


def write_config_alone(config: Any, folder: Path) -> None:
    """A Hugging Face folder of a LLaMA without its weights."""
    from recjax.convert.llama_hf import write_config

    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(write_config(config, "bfloat16")))


def llama_tokenizer() -> Path | None:
    """The folder of LLaMA's tokenizer, where RECJAX_DATA has it."""
    from recjax.data.prepare import resolve
    from recjax.errors import InputError

    try:
        return resolve("tokenizers/llama2")
    except InputError:
        print("no tokenizers/llama2 below RECJAX_DATA: other tokens in the place of LLaMA's")
        return None


def run_peers(
    script: str, args: argparse.Namespace, folder: Path, what: Sequence[str]
) -> dict[str, Any] | None:
    """The figures of a peers' script (see `bench_llm_peers.py`), or None where it fails.

    Args:
        script: its name.
        args: `peers`, `device`, `repeats`, `threads`; `clock`, `dtype` and `peer_seconds` (a limit
            for the peer) where the script has them.
        folder: has `model` and `work.npz`.
        what: measurements.
    """
    command = [args.peers, str(ROOT / "scripts" / script)]
    command += ["--model", str(folder / "model"), "--work", str(folder / "work.npz")]
    command += ["--what", ",".join(what), "--device", args.device, "--repeats", str(args.repeats)]
    command += ["--dtype", getattr(args, "dtype", default_dtype(args.device))]
    command += ["--threads", str(args.threads), "--clock", getattr(args, "clock", "wall")]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    limit = getattr(args, "peer_seconds", None)
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=limit
        )
    except subprocess.TimeoutExpired:
        print(f"the peer took more than {limit:g} s", file=sys.stderr)
        return None
    if done.returncode:
        print(f"the peer failed\n{done.stderr[-2000:]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


# Beauty's sizes, of simulated users: for speed alone.
LIKE_BEAUTY = {
    "source": "simulated",
    "options": {"users": 22_363, "items": 12_101, "mean_length": 8.9, "max_length": 200},
}


def make_run(
    config: str,
    store: Path,
    overrides: Sequence[tuple[str, str]] = (),
    data: Mapping[str, Any] | None = None,
) -> Any:
    """The run of a Beauty config.

    Args:
        config: `sasrec` or `sasrec:ce`, for `beauty_sasrec.py` and its arguments.
        store: folder of the prepared data, made by the first call.
        overrides: see `recjax.config.load_config`.
        data: in place of the config's, e.g. `LIKE_BEAUTY`.

    Raises:
        InputError: no such config, or it refuses the argument.
    """
    from recjax.config import build, load_config
    from recjax.data.prepare import prepare
    from recjax.training.recommender import RecommenderRun, RunConfig, complete

    name, colon, argument = config.partition(":")
    path = f"{ROOT}/configs/recommenders/beauty_{name}.py{colon}{argument}"
    ours = [("data.store", str(store))]

    def filled(section: Any) -> Any:
        given = {key: section[key] for key in section}
        return complete(given if data is None else given | {"data": {**data, "store": str(store)}})

    section, _ = load_config(path, [*ours, *overrides], filled)
    settings = build(RunConfig, section, "config")
    return RecommenderRun(settings, prepare(settings.data))


def train_figures(run: Any, seconds: float = 12.0) -> dict[str, float]:
    """Speed of training steps, each with the making of its batch.

    Args:
        run: of `make_run`.
        seconds: calls are timed for about this long; three at least, ten at most.
    """
    import jax

    steps, count = run.make_steps(), run.config.train.steps_per_call
    state, times, host, weights, items = run.init_state(), [], [], [], []
    begun = now()
    for call in range(11):
        start = now()
        batch = run.place(call * count, count)
        ready = now()
        state, metrics = steps(state, batch)
        jax.block_until_ready(metrics)
        if call:  # the first one compiles
            times.append((now() - start) / count)
            host.append((ready - start) / count)
            weights.append(float(metrics["weight"].mean()))
            items.append(float((batch["ids"] > 0).sum()) / count)
        else:
            begun = now()
        if len(times) >= 3 and now() - begun > seconds:
            break
    step, positions = statistics.median(times), statistics.mean(weights)
    if run.config.model.get("stage") == "pretrain":  # its losses are of whole rows
        positions = statistics.mean(items)
    return {
        "step_seconds": step,
        "samples_per_second": run.config.train.batch_size / step,
        "positions_per_sample": positions / run.config.train.batch_size,
        "positions_per_second": positions / step,
        "host_share": statistics.median(host) / step,
    }


def profile(run: Any) -> dict[str, float]:
    """Milliseconds of one step's parts, and the arithmetic that the compiler counts in it."""
    import jax
    import optax

    from recjax.training import cross_entropy

    frozen = run.frozen

    def loss(params, *inputs):
        return run.loss_fn({**frozen, **params}, *inputs)

    batch = {k: v[0] for k, v in run.place(0, 1).items()}
    params, key = run.init_state().params, jax.random.key(0)
    data = jax.tree.map(jax.numpy.asarray, run.objective.data)
    inputs, repeats = (params, batch, data, key), 4

    def total(*inputs):
        return loss(*inputs)[0]

    # Several in one call, as in training: a call asks the system for its memory anew.
    @jax.jit
    def forward(params, batch, data, key):
        def one(sum, key):
            return sum + total(params, batch, data, key), None

        return jax.lax.scan(one, 0.0, jax.random.split(key, repeats))[0]

    @jax.jit
    def both(params, batch, data, key):
        def one(params, key):
            grads = jax.grad(total)(params, batch, data, key)
            return jax.tree.map(lambda p, g: p - 1e-9 * g, params, grads), None

        return jax.lax.scan(one, params, jax.random.split(key, repeats))[0]

    encode = jax.jit(
        lambda params, batch: run.model.merge({**frozen, **params}).encode(
            batch["ids"], positions=batch["positions"], segments=batch["segments"]
        )
    )
    grads = jax.tree.map(jax.numpy.zeros_like, params)
    state = run.optimizer.init(params)

    def update(grads, state, params):
        updates, state = run.optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    update = jax.jit(update)

    def milliseconds(function, *args) -> float:
        return 1e3 * median_seconds(lambda: jax.block_until_ready(function(*args)), 7)

    parts = {
        "encoder forward, no dropout": milliseconds(encode, params, batch),
        "loss forward (dropout, noise, negatives)": milliseconds(forward, *inputs) / repeats,
        "loss forward and backward": milliseconds(both, *inputs) / repeats,
        "optimiser": milliseconds(update, grads, state, params),
    }
    if run.config.model["name"] != "gru4rec":  # the compiler counts a loop's body once
        whole, cross_entropy._CHUNK_ELEMENTS = cross_entropy._CHUNK_ELEMENTS, 1 << 40
        cost = jax.jit(jax.grad(total)).lower(*inputs).compile().cost_analysis()
        cross_entropy._CHUNK_ELEMENTS = whole
        parts["GFLOP, forward and backward"] = cost["flops"] / 1e9
    return parts
