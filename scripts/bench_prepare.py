#!/usr/bin/env python
"""Prepares a simulated csv with string ids, with its rows on the disk: rate and peak memory.

    python scripts/bench_prepare.py --folder /big/disk/prepare [--rows 5000000 --k-core 5]

Ids are hexadecimal text, few users and items have most of the rows, times are in no order. The csv
is kept for the next call. `--in-memory` prepares as usual, for comparison.
"""

import argparse
import json
import shutil
import time
from pathlib import Path

import numpy as np
from _bench import peak_gb

from recjax.arguments import Parser, count, positive
from recjax.errors import run_script
from recjax.paths import flag_path

CHUNK = 1 << 20


def parse() -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=flag_path, required=True)
    parser.add_argument("--rows", type=positive, default=5_000_000)
    parser.add_argument("--users", type=count, default=0, help="default: a twentieth of the rows")
    parser.add_argument("--items", type=count, default=0, help="default: a hundredth of the rows")
    parser.add_argument("--k-core", type=positive, default=5)
    parser.add_argument("--in-memory", action="store_true")
    return parser.parse_args()


def write_csv(file: Path, rows: int, users: int, items: int) -> None:
    rng = np.random.default_rng(0)
    pattern = np.frombuffer(b"U00000000,B00000000,0000000000\n", np.uint8)
    signs = np.frombuffer(b"0123456789abcdef", np.uint8)
    with file.open("wb") as out:
        out.write(b"user,item,timestamp\n")
        for start in range(0, rows, CHUNK):
            count = min(CHUNK, rows - start)
            user = (users * rng.random(count) ** 1.5).astype(np.int64)
            item = (items * rng.random(count) ** 3).astype(np.int64)
            times = rng.integers(1_500_000_000, 1_700_000_000, count)
            # An odd factor modulo a power of two: ids in no order, none twice.
            user, item = (user * 2654435761) % 2**32, (item * 2246822519) % 2**32
            lines = np.tile(pattern, (count, 1))
            for values, base, end, digits in (
                (user, 16, 9, 8),
                (item, 16, 19, 8),
                (times, 10, 30, 10),
            ):
                left = values
                for place in range(end - 1, end - 1 - digits, -1):
                    left, digit = np.divmod(left, base)
                    lines[:, place] = signs[digit]
            out.write(lines.tobytes())


def main() -> None:
    args = parse()
    from recjax.data.prepare import DataConfig, prepare

    args.folder.mkdir(parents=True, exist_ok=True)
    users, items = args.users or args.rows // 20, args.items or args.rows // 100
    file, store = args.folder / f"log{args.rows}.csv", args.folder / "store"
    start = time.perf_counter()
    if not file.exists():
        write_csv(file, args.rows, users, items)
    written = time.perf_counter() - start
    shutil.rmtree(store, ignore_errors=True)
    before = peak_gb()
    start, busy = time.perf_counter(), time.process_time()
    made = prepare(
        DataConfig(
            "table", str(store), str(file), k_core_users=args.k_core, k_core_items=args.k_core,
            out_of_core=not args.in_memory,
        )
    )  # fmt: skip
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    print(json.dumps({
        "rows": args.rows, "csv_gb": file.stat().st_size / 1e9, "written_s": round(written, 1),
        "out_of_core": not args.in_memory, "counts": made.manifest["counts"],
        "seconds": round(seconds, 1), "rows_per_second": round(args.rows / seconds),
        "cpu_s": round(busy, 1), "rows_per_cpu_s": round(args.rows / busy),
        "peak_gb": peak_gb(), "peak_before_gb": before,
    }))  # fmt: skip


if __name__ == "__main__":
    run_script(main)
