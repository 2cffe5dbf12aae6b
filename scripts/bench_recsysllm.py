"""Speed of RecSysLLM's data: passages of tasks, blanks and rows a second, on one core.

    python scripts/bench_recsysllm.py [--config configs/recsysllm/ml100k.py] [--batches 4]

Prints the milliseconds that a batch of `config.train.batch_size` passages takes, tokens a second,
and how many times as fast that is as a step of LoRA on `--model` parameters reads them, at
`--flops` of a device.
"""

import _bench

from recjax.arguments import Parser, positive
from recjax.config import load_config
from recjax.errors import run_script
from recjax.training.system import load_system
from recjax.training.workdir import build_config


def main() -> None:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", default="configs/recsysllm/ml100k.py")
    parser.add_argument("--batches", type=positive, default=4)
    parser.add_argument(
        "--model", type=float, default=1e10, help="parameters of the step (GLM-10B)"
    )
    parser.add_argument("--flops", type=float, default=4e14, help="a device's, as it reaches them")
    args = parser.parse_args()
    _bench.pin(1)
    section, _ = load_config(args.config)
    config = build_config(section)
    system = load_system(config.system)
    store = system.store(config, True)
    run = system.run(system.settled(config, store), store)
    run.batches(0)  # what is read once
    start, tokens = _bench.now(), 0
    for step in range(1, 1 + args.batches):
        tokens += int((run.batches(step)["segments"] > 0).sum())
    seconds = (_bench.now() - start) / args.batches
    rate = tokens / args.batches / seconds
    needed = args.flops / (4 * args.model)  # forward, and backward through frozen matrices
    print(
        f"{run.batches.per_step} passages: {1e3 * seconds:.0f} ms a batch, {rate:,.0f} tokens a "
        f"second; a step needs {needed:,.0f} ({rate / needed:.1f} times as fast)"
    )


if __name__ == "__main__":
    run_script(main)
