"""Recommendations in a file or a table: `recjax recommend`.

    recommend("runs/mine", "recs.csv", k=10, say=print)       # for all users of the data
    print(format_lists(open_run("runs/mine").recommend([["tea", "cup"]], k=5)))

See `recjax.list_files` for the files.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recjax.data.requests import Request
from recjax.data.sources._lines import text_lines
from recjax.errors import InputError, printable, shorten
from recjax.evaluation.lists import Recommendations
from recjax.list_files import as_records, check_lists, list_file
from recjax.training.metrics import progress_bar
from recjax.training.workdir import open_run

SHOWN = 10  # lists of a table
_WIDEST = 60  # letters of a cell
# A key, in double quotes (those in it twice) or without any, and the comma after it.
_FIELD = re.compile(r'\s*(?:"((?:[^"]|"")*)"\s*|([^",]*))(,|$)')


def recommend(
    workdir: str | Path,
    out: str | Path | None = None,
    *,
    k: int = 10,
    users: str | Path | None = None,
    histories: Sequence[str] = (),
    among: str | Path | None = None,
    filter_seen: bool = True,
    step: int | None = None,
    overwrite: bool = False,
    mesh: tuple[int, int, int] = (-1, 1, 1),
    log: str | Path | None = None,
    skip_unknown: bool = False,
    every: bool = False,
    say: Callable[..., Any] = lambda *lines: None,
) -> dict[str, Any]:
    """Recommends to all users of a run's data, to some, to histories, or to users of a new log.

    Args:
        workdir: of a recommender's run.
        out: a file that ends in .csv, .jsonl or .parquet, which is there when it is whole; None
            says a table of the first `SHOWN` lists.
        k: length of the lists.
        users: a file with a raw user key a line; None, without histories = all users (of the log,
            where there is one).
        histories: raw item keys, oldest first, with commas between them (and in double quotes
            where a key has commas).
        among: a file with a raw item key a line; no other item is recommended.
        filter_seen: leave out the items of each whole history.
        step: checkpoint; None = the best one.
        overwrite: `out` may take the place of an earlier file of recommendations.
        mesh: see `open_run`.
        log: a new log; see `RankingRun.recommend`.
        skip_unknown: leave out unknown users, items of histories and of `among`.
        every: without `out`, make the lists of all, not of those that are shown.
        say: gets lines for people.

    Returns:
        `step`, `k`, and how many `users` or `histories` there were; `out`, or without a file
        `lists` (a record each; those of the table unless `every`); `left_out`, what was unknown,
        by kind, where that may be (see `recjax.data.requests.LEFT_OUT`).

    Raises:
        InputError: another kind of run; unknown users or items; see `read_request` and
            `check_lists`. Nothing is written then.
    """
    out = None if out is None else Path(out)
    if users is not None and histories:
        raise InputError("--users and --history exclude each other")
    if log is not None and histories:
        raise InputError("--log and --history exclude each other")
    if out is not None:
        check_lists(out, overwrite=overwrite)
    run = open_run(workdir, mesh)
    lists = getattr(run, "lists", None)  # of what ranks a catalogue, or names its titles
    if lists is None:
        return run.recommend()  # raises
    asked: list[Any] | None = None
    if users is not None:
        asked = read_keys(users)
    elif histories:
        asked = [split_keys(text) for text in histories]
    request = run.request(
        asked,
        None if among is None else read_keys(among),
        named={"users": str(users), "histories": "--history", "among": str(among), "log": "--log"},
        log=log,
        skip_unknown=skip_unknown,
    )
    if request.left_out:
        say(f"left out: {request.left_out_words()}")
    step = run.best_step() if step is None else step
    subject = "user" if request.keys else "history"
    plural = "users" if request.keys else "histories"
    done: dict[str, Any] = {"step": step, "k": k, plural: len(request)}
    if log is not None or skip_unknown:
        done["left_out"] = dict(request.left_out)
    wanted = request if out or every else _first(request, SHOWN)
    batches = lists.stream(run.restore(step), wanted, k, filter_seen=filter_seen)
    if out is None:
        ids, scores = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))

        def lists_of(some: Request) -> Recommendations:
            numbers, count = None if some.keys else some.names, len(some)
            return Recommendations(
                ids[:count], scores[:count], run.store.catalog, some.keys, numbers
            )

        say(format_lists(lists_of(_first(request, SHOWN))))
        if len(request) > SHOWN:
            say(f"{SHOWN} of {len(request):,} {plural}; --out FILE writes all")
        return {**done, "lists": as_records(lists_of(wanted), subject)}
    with (
        list_file(out, subject, run.store.catalog) as write,
        progress_bar(len(request), 0, "recommending", subject) as bar,
    ):
        names, first = request.names, 0
        for ids, scores in batches:
            write(names[first : first + len(ids)], ids, scores)
            first += len(ids)
            bar.update(len(ids))
    say(f"{out}: lists of {k} for {len(request):,} {plural}; checkpoint: step {step}")
    return {**done, "out": str(out)}


def read_keys(path: str | Path) -> list[str]:
    """The raw keys in a file, one a line; blanks around them and empty lines do not count.

    Raises:
        InputError: no such file, not UTF-8, no key in it.
    """
    return [key for _, line in text_lines(Path(path)) if (key := line.strip())]


def split_keys(text: str) -> list[str]:
    """Raw keys with commas between them; one that has a comma stands in double quotes.

    >>> split_keys('tea, "salt, coarse",cup')
    ['tea', 'salt, coarse', 'cup']
    """
    expected = "expected item keys with commas between them"
    keys, rest = [], text
    while True:
        match = _FIELD.match(rest)
        if match is None:
            raise InputError(
                f"--history {text!r}: {expected}; a double quote is open, or not alone"
            )
        quoted, plain, comma = match.groups()
        keys.append(plain.strip() if quoted is None else quoted.replace('""', '"'))
        rest = rest[match.end() :]
        if not comma:
            break
    if not all(keys):
        raise InputError(f"--history {text!r}: an empty key; {expected}")
    return keys


def format_lists(recommended: Recommendations) -> str:
    """Lists as a table for people: a block each, a line an item (rank, score, key, title)."""
    lines = []
    keys, titles = recommended.keys, recommended.titles
    width = max((len(_cell(key)) for row in keys for key in row), default=0)
    subject = "user" if recommended.users else "history"
    for number, (row, names) in enumerate(zip(keys, titles, strict=True)):
        lines.append(f"{subject} {_cell(str(recommended.names[number]))}")
        if not row:
            lines.append("    no item is left to recommend")
        for rank, (key, title) in enumerate(zip(row, names, strict=True)):
            score = recommended.scores[number, rank]
            lines.append(
                f"{rank + 1:>4} {score:>9.4f}  {_cell(key):<{width}}  {_cell(title or '')}"
            )
    return "\n".join(line.rstrip() for line in lines)


def _cell(text: str) -> str:
    return printable(shorten(text, _WIDEST))


def _first(request: Request, count: int) -> Request:
    users, of_log = (keys and keys[:count] for keys in (request.users, request.of_log))
    return dataclasses.replace(request, spans=request.spans[:count], users=users, of_log=of_log)
