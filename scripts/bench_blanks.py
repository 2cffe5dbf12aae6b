"""Speed of blank construction and of entity positions, on one core.

    python scripts/bench_blanks.py [--batch 256] [--tokens 64]

Prints examples a second: texts as tokens in, blanks drawn, both parts built, packed into rows; once
as GLM and once with the inner positions of 10,000 entities. Then a pool of 100,000 titles: seconds
to build it, memory on the device, and microseconds a step of 160 rows for dynamic positions.
"""

import _bench
import jax
import numpy as np

from recjax.arguments import Parser, positive
from recjax.errors import run_script
from recjax.recsysllm.blanks import blank
from recjax.recsysllm.dynamic import DynamicPositions, InnerState, dynamic_positions
from recjax.recsysllm.entities import EntityPool
from recjax.recsysllm.spans import BlankConfig, Marks
from recjax.text.token_batches import Encoded, lay_out, pack

MARKS = Marks(50259, 50256, 50257, 50258, 50260, 50264, 50263, 50265)


def main() -> None:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=positive, default=256)
    parser.add_argument("--tokens", type=positive, default=64)
    args = parser.parse_args()
    _bench.pin(1)
    rng = np.random.default_rng(0)
    lengths = rng.integers(args.tokens // 2, args.tokens * 3 // 2, args.batch)
    tokens = rng.integers(0, 50000, lengths.sum()).astype(np.int32)
    tokens[np.cumsum(lengths) - lengths], tokens[np.cumsum(lengths) - 1] = MARKS.cls, MARKS.eos
    texts = Encoded(tokens, tokens, np.zeros_like(tokens), lengths, [])
    ends = np.arange(50304) % 20 == 0
    config = BlankConfig(0.5, 0.3, 0.2, least=0.25, block=0.1)
    entities = [rng.integers(0, 50000, rng.integers(2, 9)).tolist() for _ in range(10_000)]
    row = 8 * args.tokens
    for name, pool in (("GLM", None), ("entities", EntityPool(entities, MARKS.sop, row))):

        def batch(pool: EntityPool | None = pool) -> None:
            done = blank(
                texts, config, MARKS, seed=0, places=np.arange(args.batch), ends=ends, pool=pool
            )
            lay_out(done, row, pack(done.lengths, row).rows)

        seconds = _bench.median_seconds(batch, 21)
        print(f"{name}: {args.batch / seconds:,.0f} examples a second of {args.tokens} tokens")
    titles = [rng.zipf(1.2, n).clip(0, 30_000).tolist() for n in rng.integers(2, 13, 100_000)]
    start = _bench.now()
    dynamic = dynamic_positions(EntityPool(titles, MARKS.sop, 1024), 50304)
    seconds = _bench.now() - start
    held = sum(array.nbytes for array in jax.tree.leaves(dynamic)) / 1e6
    print(f"100,000 titles: built in {seconds:.2f} s, {held:.1f} MB")
    written = jax.numpy.asarray(rng.zipf(1.2, (64, 160)).clip(0, 30_000).astype(np.int32))

    @jax.jit
    def write(dynamic: DynamicPositions, tokens: jax.Array) -> jax.Array:
        def step(state: InnerState, token: jax.Array) -> tuple[InnerState, jax.Array]:
            state = dynamic.update(state, token)
            return state, state.inner

        return jax.lax.scan(step, dynamic.init(tokens.shape[1]), tokens)[1]

    seconds = _bench.median_seconds(lambda: write(dynamic, written).block_until_ready(), 21)
    print(f"dynamic positions: {seconds / 64 * 1e6:.0f} us a step of 160 rows")


if __name__ == "__main__":
    run_script(main)
