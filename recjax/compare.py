"""Two runs side by side, and one run example by example: `recjax evaluate --against, --per-user`.

compare("runs/a", "runs/b")["metrics"]["test/full/ndcg@10"]   # a, b, difference, low, high
write_examples(measured, run.store, Path("users.csv"))

A file of examples has a row an example (a user of leave-one-out has one): `user` and `target`, raw
keys; and of every protocol `full/rank`, `full/hr@10`, ...: what the metrics are the means of. Of
RecSysLLM and P5 the columns of each prompt, empty where a prompt did not ask about the example; a
rank is empty, too, where the beams did not find the target.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from recjax.data.store import Store
from recjax.errors import InputError
from recjax.evaluation.intervals import Difference, paired_bootstrap
from recjax.evaluation.protocols import Measured
from recjax.out_files import check_out, csv_writer, utf8
from recjax.paths import home
from recjax.replace import new_file
from recjax.training.metrics import progress_bar
from recjax.training.workdir import open_run, read_run_config

RESAMPLES, LEVEL, SEED = 10_000, 0.95, 0  # of the bootstrap
# Targets by how often training has them: from, to.
POPULARITY = {"unseen": (0, 0), "1-5": (1, 5), "6-20": (6, 20), "more": (21, None)}
_ROWS = 1 << 14  # rows made at a time


def open_by(
    workdir: str | Path, mesh: tuple[int, int, int], protocols: Sequence[str] | None
) -> Any:
    """`open_run`, by these protocols where any are given.

    Raises:
        InputError: protocols for a run that ranks no catalogue, or what `open_run` refuses.
    """
    if not protocols:
        return open_run(workdir, mesh)
    config = read_run_config(home(workdir))
    if not hasattr(getattr(config, "evaluation", None), "protocols"):
        raise InputError(f"--protocols: {workdir} is no recommender's run; leave it out")
    return open_run(workdir, mesh, protocols=tuple(protocols))


def measure(run: Any, split: str, step: int) -> Measured:
    """Evaluates a checkpoint on one part of the split, with progress on stderr.

    Raises:
        InputError: see `SavedRun.measurer`.
    """
    measurer = run.measurer(split)
    with progress_bar(measurer.count, 0, f"evaluating {run.workdir}", "example") as bar:
        return measurer.measure(run.restore(step), bar.update)


def compare(
    a: str | Path,
    b: str | Path,
    *,
    split: str = "test",
    protocols: Sequence[str] | None = None,
    step: int | None = None,
    mesh: tuple[int, int, int] = (-1, 1, 1),
) -> dict[str, Any]:
    """Evaluates two runs on the same examples, by a paired bootstrap over users.

    Two runs of a kind are measured with the settings of A's `config.evaluation`; two of other kinds
    with A's seed. The examples count that both have, in the metrics that both have.

    Args:
        a, b: workdirs of recommenders, ratings, explanations, or of RecSysLLM or P5 with tasks.
        split: "validation" or "test".
        protocols: of two recommenders; None takes those of the runs, which must be the same.
        step: checkpoint of A; None = the best one, as it is of B.
        mesh: see `open_run`.

    Returns:
        `a`, `b`, `steps`, `split`, `users`, `examples`, and how the bootstrap was done; `metrics`:
        by full name `a`, `b`, `difference` (A's mean less B's), `low` and `high`, and `users` and
        `examples`, which are fewer where a prompt did not ask about all; `popularity`: by how often
        training has the target, `users`, `examples` and `metrics`.

    Raises:
        InputError: a run of another kind, other data, another split, other protocols, nothing that
            both have.
    """
    first, other = (open_by(workdir, mesh, protocols) for workdir in (a, b))
    for run in (first, other):
        run.measurer(split)  # whether it has one
    if first.store.fingerprint != other.store.fingerprint:
        raise InputError(
            f"{b}: of other data than {a}: {_counts(other.store)} in {other.store.path}, "
            f"{_counts(first.store)} in {first.store.path}; expected the same prepared data"
        )
    for part in ("train", split):
        first_spans, other_spans = (getattr(run.split, part) for run in (first, other))
        if len(first_spans) != len(other_spans) or not all(
            np.array_equal(getattr(first_spans, name), getattr(other_spans, name))
            for name in ("users", "starts", "stops")
        ):
            raise InputError(
                f"{b}: of another split than {a}: config.split is {other.config.split}, expected "
                f"{first.config.split}"
            )
    ours, theirs = (run.config.evaluation for run in (first, other))
    if type(ours) is type(theirs):
        named = [getattr(evaluation, "protocols", ()) for evaluation in (ours, theirs)]
        if set(named[0]) != set(named[1]):
            raise InputError(
                f"{b}: of other protocols than {a}: config.evaluation.protocols is "
                f"{','.join(named[1])}, expected {','.join(named[0])}; --protocols=A,B measures "
                "both by the same"
            )
        other = open_run(b, mesh, **dataclasses.asdict(ours))
    elif hasattr(ours, "seed") and hasattr(theirs, "seed"):
        other = open_run(b, mesh, seed=ours.seed)
    steps = [first.best_step() if step is None else step, other.best_step()]
    measured = [measure(run, split, at) for run, at in zip((first, other), steps, strict=True)]
    pair = _common(*measured)
    out = {
        "a": str(a), "b": str(b), "steps": steps, "split": split,
        "resamples": RESAMPLES, "level": LEVEL, "seed": SEED,
    }  # fmt: skip
    out |= _differences(pair, np.ones(len(pair.users), bool))
    if not out["metrics"]:
        names = [", ".join(_columns(found)) or "none" for found in measured]
        raise InputError(
            f"{b}: has no metric of an example in common with {a}: {names[1]}; expected one of "
            f"{names[0]}"
        )
    groups = {
        name: _differences(pair, chosen)
        for name, chosen in by_popularity(first, pair.targets).items()
    }
    return {**out, "popularity": groups}


@dataclasses.dataclass(frozen=True, eq=False)
class _Pair:
    """Two runs' values of n examples.

    Attributes:
        users, targets: [n].
        values: A's and B's, by full name of a metric: [2 n].
    """

    users: np.ndarray
    targets: np.ndarray
    values: dict[str, np.ndarray]


def _common(a: Measured, b: Measured) -> _Pair:
    """The examples and the metrics that both have."""
    _, in_a, in_b = np.intersect1d(a.examples, b.examples, return_indices=True)
    ours, theirs = _columns(a), _columns(b)
    values = {n: np.stack([ours[n][in_a], theirs[n][in_b]]) for n in ours if n in theirs}
    return _Pair(a.users[in_a], a.targets[in_a], values)


def by_popularity(run: Any, targets: np.ndarray) -> dict[str, np.ndarray]:
    """Targets [n] by how often training has them: a mask [n] for each of `POPULARITY` with any."""
    spans, items = run.split.train, run.store.items
    trained = np.concatenate([items[a:b] for a, b in zip(spans.starts, spans.stops, strict=True)])
    times = np.bincount(trained, minlength=run.store.n_items)[targets]
    groups = {
        name: (times >= least) & (most is None or times <= most)
        for name, (least, most) in POPULARITY.items()
    }
    return {name: chosen for name, chosen in groups.items() if chosen.any()}


def _counts(store: Store) -> str:
    counts = store.manifest["counts"]
    return f"{counts['users']:,} users and {counts['items']:,} items"


def _columns(measured: Measured) -> dict[str, np.ndarray]:
    """The compared metrics, by full name."""
    return {
        f"{measured.name}/{protocol}/{key}": column
        for protocol, columns in measured.values.items()
        for key, column in columns.items()
        if key != "rank"
    }


def _differences(pair: _Pair, chosen: np.ndarray) -> dict[str, Any]:
    """Differences over the chosen examples [n] bool, each metric's over those that both asked."""
    asked = {name: chosen & ~np.isnan(values).any(axis=0) for name, values in pair.values.items()}
    alike: dict[bytes, list[str]] = {}  # metrics of the same examples share their resamples
    for name, rows in asked.items():
        if rows.any():
            alike.setdefault(rows.tobytes(), []).append(name)
    metrics: dict[str, Any] = {}
    for names in alike.values():
        rows = asked[names[0]]
        of_a, of_b = np.stack([pair.values[name][:, rows] for name in names], axis=-1)
        result: Difference = paired_bootstrap(
            of_a, of_b, pair.users[rows], resamples=RESAMPLES, level=LEVEL, seed=SEED
        )
        for number, name in enumerate(names):
            means = float(result.a[number]), float(result.b[number])
            bounds = [float(bound[number]) for bound in (result.low, result.high)]
            low, high = (None if np.isnan(bound) else bound for bound in bounds)
            metrics[name] = {
                "a": means[0], "b": means[1], "difference": means[0] - means[1],
                "low": low, "high": high, "users": result.units, "examples": int(rows.sum()),
            }  # fmt: skip
    metrics = {name: metrics[name] for name in pair.values if name in metrics}
    any_asked = functools.reduce(np.logical_or, asked.values(), np.zeros_like(chosen))
    users = len(np.unique(pair.users[any_asked]))
    return {"users": users, "examples": int(any_asked.sum()), "metrics": metrics}


def format_comparison(result: dict[str, Any]) -> str:
    """The result of `compare` as tables: all metrics; then, by popularity of the target, HR and
    NDCG at 10 (or at the longest cutoff) and MRR."""
    ahead = f"A = {result['a']} (step {result['steps'][0]}), "
    ahead += f"B = {result['b']} (step {result['steps'][1]})"
    how = (
        f"{_number(result)}; {result['level']:.0%} intervals by {result['resamples']:,} paired "
        f"resamples of users, seed {result['seed']}"
    )
    lines = [ahead, how, *_rows(result, list(result["metrics"]))]
    cutoffs = {int(k) for name in result["metrics"] if (k := name.partition("@")[2])}
    k = 10 if 10 in cutoffs else max(cutoffs, default=0)
    ends = (f"/hr@{k}", f"/ndcg@{k}", "/mrr", "/mae", "/rougeL")
    short = [name for name in result["metrics"] if name.endswith(ends)]
    for name, group in result["popularity"].items():
        words = {"unseen": "not in training", "more": "more than 20 times in training"}
        title = words.get(name, f"{name} times in training")
        lines += ["", f"target {title}: {_number(group)}"]
        lines += _rows(group, [name for name in short if name in group["metrics"]])
    return "\n".join(lines)


def _number(counts: dict[str, Any]) -> str:
    return f"{counts['examples']:,} examples of {counts['users']:,} users"


def _rows(group: dict[str, Any], names: list[str]) -> list[str]:
    width = max(map(len, names), default=0)
    lines = [f"{'':<{width}}{'A':>9}{'B':>9}{'A - B':>9}  interval"]
    for name in names:
        row = group["metrics"][name]
        interval = "-" if row["low"] is None else f"{row['low']:+.4f} .. {row['high']:+.4f}"
        fewer = "" if row["examples"] == group["examples"] else f"  ({_number(row)})"
        lines.append(
            f"{name:<{width}}{row['a']:>9.4f}{row['b']:>9.4f}{row['difference']:>+9.4f}  {interval}"
            f"{fewer}"
        )
    return lines


def check_examples_file(path: Path) -> None:
    """Whether `write_examples` may write a file.

    Raises:
        InputError: see `recjax.out_files.check_out`; nothing is ever replaced.
    """
    check_out(path, _WRITERS, flag="--per-user", overwrite=None)


def write_examples(measured: Measured, store: Store, path: Path) -> None:
    """Writes the values of each example. The file appears when it is complete.

    Raises:
        InputError: see `check_examples_file`; the disk is full or not writable.
    """
    check_examples_file(path)
    values = {
        f"{protocol}/{key}": column
        for protocol, columns in measured.values.items()
        for key, column in columns.items()
    }
    items = [record["key"] if record else None for record in store.catalog]

    def chunks() -> Iterator[dict[str, list[Any]]]:
        for first in range(0, len(measured.users), _ROWS):
            part = slice(first, first + _ROWS)
            yield {
                "user": [utf8(store.user_keys[user]) for user in measured.users[part]],
                "target": [utf8(items[item]) for item in measured.targets[part]],
                **{name: _written(name, column[part]) for name, column in values.items()},
            }

    with new_file(path) as file:
        _WRITERS[path.suffix](file, ["user", "target", *values], chunks())


def _written(name: str, column: np.ndarray) -> list[Any]:
    """A column's values; None for those that are no numbers and for ranks that are not finite."""
    values = [value if math.isfinite(value) else None for value in column.tolist()]
    if name.endswith("/rank"):
        return [None if value is None else int(value) for value in values]
    return values


_Chunks = Iterator[dict[str, list[Any]]]


def _write_csv(file: IO[bytes], names: list[str], chunks: _Chunks) -> None:
    with csv_writer(file) as writer:
        writer.writerow(names)
        for chunk in chunks:
            writer.writerows(zip(*chunk.values(), strict=True))


def _write_jsonl(file: IO[bytes], names: list[str], chunks: _Chunks) -> None:
    for chunk in chunks:
        for row in zip(*chunk.values(), strict=True):
            record = dict(zip(names, row, strict=True))
            file.write((json.dumps(record, ensure_ascii=False) + "\n").encode())


def _write_parquet(file: IO[bytes], names: list[str], chunks: _Chunks) -> None:
    import pyarrow
    from pyarrow import parquet

    kinds = {name: pyarrow.string() if k < 2 else pyarrow.float64() for k, name in enumerate(names)}
    kinds |= {name: pyarrow.int32() for name in names if name.endswith("/rank")}
    schema = pyarrow.schema(list(kinds.items()))
    with parquet.ParquetWriter(file, schema) as writer:
        for chunk in chunks:
            writer.write_table(pyarrow.table(chunk, schema=schema))


_WRITERS: dict[str, Callable[[IO[bytes], list[str], _Chunks], None]] = {
    ".csv": _write_csv, ".jsonl": _write_jsonl, ".parquet": _write_parquet,
}  # fmt: skip
