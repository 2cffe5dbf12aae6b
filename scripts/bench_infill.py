"""Speed of infilling with a GLM of random weights: entity positions, constraint, shared texts.

    python scripts/bench_infill.py [--preset glm-base] [--layers 4] [--clock cpu]

Prints: a trie of 100,000 titles (seconds to build it, memory on the device); milliseconds a token
of greedy infilling, without entities and with the positions of these, beside `generate` of the same
model; milliseconds a step of 20 beams a text, free, with the positions, and constrained to the
titles as well; and of such a step, the share of constraint and positions timed alone.

No title is shorter than what is written, so that all calls take the same number of steps.
"""

import dataclasses

import _bench
import jax
import jax.numpy as jnp
import numpy as np

from recjax.arguments import Parser, positive
from recjax.errors import run_script
from recjax.generate.constrained import constrain
from recjax.llm import LanguageModel
from recjax.models.definition import define, params_of
from recjax.models.language import family_for, presets
from recjax.recsysllm.dynamic import DynamicPositions, dynamic_positions
from recjax.recsysllm.entities import EntityPool
from recjax.recsysllm.infill import Infiller
from recjax.recsysllm.spans import Marks

VOCAB, NEW, BEAMS = 50304, 8, 20
MARKS = Marks(50259, 50256, 50257, 50258, 50260, 50264, 50263, 50265)


def make_model(preset: str, layers: int | None) -> LanguageModel:
    """A GLM with GPT-2's vocabulary and command tokens, whole or its first layers."""
    from flax import nnx

    config = _bench.preset(preset, presets())
    own = {"vocab_size": VOCAB, "start_id": MARKS.sop, "blank_ids": (MARKS.mask,)}
    config = dataclasses.replace(config, **own)
    config = config if layers is None else dataclasses.replace(config, layers=layers)
    dtype = jnp.dtype(_bench.default_dtype(jax.default_backend()))

    def build(rngs: nnx.Rngs) -> nnx.Module:
        return family_for(config).build(config, rngs=rngs, dtype=dtype)

    params = jax.jit(lambda: params_of(build(nnx.Rngs(0))))()
    return LanguageModel(define(build), params, config)


def step_alone(
    pool: EntityPool, dynamic: DynamicPositions, rows: int, repeats: int
) -> dict[str, float]:
    """Milliseconds a step of the trie's parts, on rows that stand anywhere in it."""
    constraint = constrain(pool.trie, (MARKS.eop,), VOCAB, dynamic.trie)
    rng = np.random.default_rng(1)
    nodes = jnp.asarray(rng.integers(0, len(pool.trie), (64, rows)), jnp.int32)
    tokens = jnp.asarray(rng.zipf(1.2, (64, rows)).clip(0, 30_000), jnp.int32)
    logits = jax.random.normal(jax.random.key(0), (rows, VOCAB))

    @jax.jit
    def mask(constraint, logits):
        # The logits are the loop's state, so that each step's are computed.
        return jax.lax.scan(
            lambda x, node: (jnp.where(x == 0, 1.0, constraint(node, x, 0)), None), logits, nodes
        )[0]

    @jax.jit
    def copied(logits):
        return jax.lax.scan(lambda x, node: (jnp.where(x == 0, 1.0, x + 1), None), logits, nodes)[0]

    @jax.jit
    def update(constraint, dynamic):
        def step(state, at):
            node = constraint.update(at[0], at[1], jnp.ones(rows, bool))
            state = dynamic.update(state, at[1])
            return state, (node, state.inner)

        return jax.lax.scan(step, dynamic.init(rows), (nodes, tokens))[1]

    def milliseconds(function, *args) -> float:
        call = lambda: jax.block_until_ready(function(*args))  # noqa: E731
        return 1e3 * _bench.median_seconds(call, repeats) / 64

    bare = milliseconds(copied, logits)
    return {
        "mask": max(milliseconds(mask, constraint, logits) - bare, 0.0),
        "update": milliseconds(update, constraint, dynamic),
    }


def main() -> None:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--preset", default="glm-base")
    parser.add_argument("--layers", type=positive, help="by default the preset's")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--repeats", type=positive, default=5)
    parser.add_argument("--texts", type=positive, default=2, help="a batch of beams")
    parser.add_argument("--rows", type=positive, default=16, help="a batch of greedy infilling")
    parser.add_argument("--length", type=positive, default=120, help="tokens of a text")
    args = parser.parse_args()
    _bench.use_clock(args.clock)
    _bench.pin(1)
    rng = np.random.default_rng(0)
    titles = [rng.zipf(1.2, n).clip(0, 30_000).tolist() for n in rng.integers(9, 17, 100_000)]
    start = _bench.now()
    pool = EntityPool(titles, MARKS.sop, 512)
    dynamic = dynamic_positions(pool, VOCAB)
    held = dynamic.trie.nbytes / 1e6
    print(f"trie of 100,000 titles: built in {_bench.now() - start:.2f} s, {held:.1f} MB")

    lm = make_model(args.preset, args.layers)
    free, placed, both = (
        Infiller(lm, marks=MARKS, **options)
        for options in (
            {},
            {"pool": pool},
            {"pool": pool, "constraint": "pool"},
        )
    )
    body = rng.integers(0, 50_000, (args.rows, args.length)).astype(np.int32)
    body[:, 0], body[:, args.length // 2], body[:, -1] = MARKS.cls, MARKS.mask, MARKS.eos
    prompts = np.append(body, np.full((args.rows, 1), MARKS.sop, np.int32), axis=1)

    def timed(calls: dict, steps: int) -> dict[str, float]:
        """Milliseconds a step; the calls take turns, so that all meet the same machine."""
        times: dict[str, list[float]] = {name: [] for name in calls}
        for repeat in range(args.repeats + 1):
            for name, call in calls.items():
                begun = _bench.now()
                call()
                if repeat:
                    times[name].append(_bench.now() - begun)
        return {name: 1e3 * float(np.median(some)) / steps for name, some in times.items()}

    new = 4 * NEW
    found = timed(
        {
            "generate": lambda: lm.generate(prompts, max_new_tokens=new, stop=()),
            "infill": lambda: free(body, max_new_tokens=new),
            "infill, entity positions": lambda: placed(body, max_new_tokens=new),
        },
        new,
    )
    assert (free(body, max_new_tokens=new).lengths == new).all()
    plain = found["generate"]
    for name, each in found.items():
        print(f"greedy, {args.rows} rows, {name}: {each:.2f} ms a token, {each / plain:.3f}x")

    some, options = body[: args.texts], {"max_new_tokens": NEW, "beams": BEAMS}
    found = timed(
        {
            "free": lambda: free(some, **options),
            "entity positions": lambda: placed(some, **options),
            "constrained, entity positions": lambda: both(some, **options),
        },
        NEW,
    )
    assert all((f(some, **options).lengths == NEW).all() for f in (free, both))
    plain = found["free"]
    for name, each in found.items():
        print(
            f"{BEAMS} beams, {args.texts} texts, {name}: {each:.2f} ms a step, {each / plain:.3f}x"
        )
    alone = step_alone(pool, dynamic, args.texts * BEAMS, args.repeats)
    step = found["constrained, entity positions"]
    parts = ", ".join(f"{name} {ms:.3f} ms ({ms / step:.1%})" for name, ms in alone.items())
    print(f"of that step, timed alone: {parts}")


if __name__ == "__main__":
    run_script(main)
