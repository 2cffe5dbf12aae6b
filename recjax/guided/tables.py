"""A score file of all items or users of a store; an interrupted one goes on where it was.

    subjects = item_subjects(open_store("prepared/ml-100k"))
    score_all(subjects, rate, "item_scores.tsv")

Until the file is whole, its rows stand in the folder `FILE.parts` (`recjax.guided.shards`).
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recjax.config import nearest
from recjax.data.store import Store
from recjax.errors import InputError, shorten
from recjax.guided.aspects import ITEM, USER, AspectSet
from recjax.guided.prompts import (
    FIELDS,
    Question,
    answer_form,
    check_fields,
    item_text,
    question,
    user_text,
)
from recjax.guided.score_files import ENDINGS, read_scores, write_scores
from recjax.guided.scoring import EndpointRater, Rated, Rater
from recjax.guided.shards import Progress
from recjax.out_files import check_out, table_of
from recjax.replace import new_file
from recjax.training.metrics import progress_bar

PARTS = ".parts"  # after a score file's name
_CHUNK = 4096  # texts in memory at a time; in the order of their lengths
_TRIAL = 20  # answers of which one at least must have a score


@dataclasses.dataclass(frozen=True, eq=False)
class Subjects:
    """Items or users to score.

    Attributes:
        kind: "item" or "user".
        keys: n raw ids.
        text: of the subject at a place; "" where nothing is known of it.
        settings: what the texts follow from, JSON-ready.
    """

    kind: str
    keys: Sequence[str]
    text: Callable[[int], str]
    settings: dict[str, Any]

    @property
    def column(self) -> str:
        """Name of the ids in a score file."""
        return ITEM if self.kind == "item" else USER

    def among(self, wanted: Sequence[str], where: str) -> "Subjects":
        """Some of them, in the given order.

        Raises:
            InputError: an unknown key, or one that stands twice.
        """
        places = {key: place for place, key in enumerate(self.keys)}
        chosen: dict[str, int] = {}
        for key in wanted:
            if key not in places:
                raise InputError(f"{where}: no {self.kind} '{key}'; {nearest(key, places)}")
            if key in chosen:
                raise InputError(f"{where}: {self.kind} {key} a second time")
            chosen[key] = places[key]
        own = list(chosen.values())
        return dataclasses.replace(
            self, keys=list(chosen), text=lambda place: self.text(own[place])
        )


def item_subjects(store: Store, fields: Sequence[str] = (), longest: int = 1000) -> Subjects:
    """All items of a store.

    Args:
        store: prepared data.
        fields: of the catalogue that are told; by default those of `FIELDS` that there are.
        longest: characters of a field.

    Raises:
        InputError: a field that no item has.
    """
    check_fields(fields, store.catalog)
    records = store.catalog[1:]
    return Subjects(
        "item",
        [record["key"] for record in records if record],
        lambda place: item_text(records[place], fields or FIELDS, longest),
        {"data": store.fingerprint, "fields": list(fields), "longest": longest},
    )


def user_subjects(
    store: Store,
    fields: Sequence[str] = (),
    longest: int = 200,
    *,
    history: int = 14,
    leave_out: int = 0,
) -> Subjects:
    """All users of a store; those with no item left have no text.

    Args:
        store: prepared data; ratings are told where it has them.
        fields, longest: of each item; see `item_subjects`.
        history: items that are told, the newest ones.
        leave_out: the newest items of each user that are not told: those of a test.
    """
    check_fields(fields, store.catalog)

    def text(place: int) -> str:
        first, last = int(store.offsets[place]), int(store.offsets[place + 1]) - leave_out
        part = slice(max(first, last - history), max(first, last))
        records = [store.catalog[int(item)] for item in store.items[part]]
        ratings = None if store.ratings is None else store.ratings[part].tolist()
        return user_text(records, ratings, fields or FIELDS, longest)

    settings = {
        "data": store.fingerprint, "fields": list(fields), "longest": longest,
        "history": history, "leave_out": leave_out,
    }  # fmt: skip
    return Subjects("user", store.user_keys, text, settings)


def check_scores(out: Path, *, overwrite: bool = False) -> None:
    """Whether a file of scores may be written; no other file is ever replaced.

    Raises:
        InputError: see `recjax.out_files.check_out`.
    """
    check_out(out, ENDINGS, overwrite=overwrite, ours=table_of([ITEM], [USER]))


def check_pairs(out: Path, *, overwrite: bool = False) -> None:
    """Checks that a file of `write_pairs` may be written; see `check_scores`."""
    ours = table_of(["prompt", "answer"], ["system", "prompt", "answer"])
    check_out(out, (".jsonl",), overwrite=overwrite, ours=ours)


def score_all(
    subjects: Subjects,
    rate: Rater | EndpointRater,
    out: str | Path,
    *,
    known: str | Path = "",
    shard: int = 10_000,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Scores all subjects into a file; those that have been scored before are not asked again.

    Args:
        subjects: items or users.
        rate: of their kind.
        out: ends in .tsv, .csv or .parquet.
        known: a score file whose rows are taken over; its subjects are not scored.
        shard: rows of a part.
        overwrite: replace a file that is there once the new one is whole, and forget parts of other
            settings; the same call goes on where it was.

    Returns:
        `finished`, `out`, `total`, `scored` (in this call), `before` (by calls before it), `known`
        (taken over), `left` (where a budget ended), `without_text`, and of answers that were read:
        `malformed` answers, and scores `missing`, `out_of_range` and `extra`.

    Raises:
        InputError: see `check_scores`, `Progress`; what `rate` raises, after which the same command
            goes on; answers of which none has a score.
    """
    out = Path(out)
    check_scores(out, overwrite=overwrite)
    settings = {**rate.settings, **subjects.settings, "known": _digest(known)}
    parts = out.with_name(out.name + PARTS)
    known_rows = _known(known, subjects, rate.aspects)
    with Progress(parts, subjects.keys, settings, shard=shard, overwrite=overwrite) as progress:
        for place, row_scores in known_rows.items():
            if not progress.has(place):
                progress.add(place, {"scores": row_scores, "known": True})
        before = progress.done - len(known_rows)
        scored = _score_open(subjects, rate, progress, parts)
        counts = {"malformed": 0, "missing": 0, "out_of_range": 0, "extra": 0, "without_text": 0}
        values = np.full((len(subjects.keys), len(rate.aspects)), np.nan, np.float32)
        for place, row in enumerate(progress.rows()):
            for name in counts:
                counts[name] += (row or {}).get(name, 0)
            if row is not None:  # None becomes NaN
                values[place] = np.array(row["scores"], np.float32)
        left = len(subjects.keys) - progress.done
        result = {
            "finished": not left, "out": str(out), "total": len(subjects.keys), "scored": scored,
            "before": before, "known": len(known_rows), "left": left, **counts,
        }  # fmt: skip
        if not left:
            write_scores(out, subjects.keys, values, rate.aspects, subjects.column)
            progress.remove()
    return result


class _Useless(InputError):
    """None of the first answers has a score."""

    def __init__(self, subject: str, rated: Rated, count: int):
        told = f": '{shorten(rated.answer)}'" if rated.answer else ""
        super().__init__(
            f"none of the first {count} answers has a score, such as that about {subject}{told}; "
            "nothing is kept"
        )


def _score_open(
    subjects: Subjects, rate: Rater | EndpointRater, progress: Progress, parts: Path
) -> int:
    """Scores the subjects without a row; returns their number."""
    aspects, scored, useful = rate.aspects, 0, progress.done > 0
    total, places = len(subjects.keys), list(progress.open_places())
    with progress_bar(total, progress.done, f"scoring {subjects.kind}s", subjects.kind) as bar:
        for first in range(0, len(places), _CHUNK):
            texts = {place: subjects.text(place) for place in places[first : first + _CHUNK]}
            for place in [place for place, text in texts.items() if not text]:
                del texts[place]
                progress.add(place, {"scores": [None] * len(aspects), "without_text": 1})
                bar.update(1)
            order = sorted(texts, key=lambda place: (len(texts[place]), place))
            names = [f"{subjects.kind} {subjects.keys[place]}" for place in order]

            def done(
                at: int, rated: Rated, order: list[int] = order, names: list[str] = names
            ) -> None:
                nonlocal scored, useful
                progress.add(order[at], _row(rated))
                scored += 1
                useful = useful or any(score is not None for score in rated.scores)
                if not useful and scored == _TRIAL:
                    raise _Useless(names[at], rated, scored)
                bar.update(1)

            if not order:
                continue
            try:
                rated_texts = rate([texts[place] for place in order], done, names)
                if rated_texts and not useful:
                    raise _Useless(names[len(rated_texts) - 1], rated_texts[-1], scored)
            except _Useless:
                progress.remove()
                raise
            except InputError as error:
                if not progress.done:
                    raise
                raise InputError(
                    f"{error}; {progress.done:,} of {total:,} are kept in {parts}, and the same "
                    "command goes on"
                ) from None
            if len(rated_texts) < len(order):  # a budget has ended
                break
    return scored


def _row(rated: Rated) -> dict[str, Any]:
    row: dict[str, Any] = {"scores": list(rated.scores)}
    if rated.parsed is not None and not rated.parsed.well_formed:
        row["malformed"] = 1
        row |= {n: getattr(rated.parsed, n) for n in ("missing", "out_of_range", "extra")}
        row["answer"] = (rated.answer or "")[:2000]
    return row


def _digest(path: str | Path) -> str:
    if not path:
        return ""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def _known(
    path: str | Path, subjects: Subjects, aspects: AspectSet
) -> dict[int, list[float | None]]:
    """Rows of a score file by the subjects' places."""
    if not path:
        return {}
    ids = {key: place for place, key in enumerate(subjects.keys)}
    scores = read_scores(path, ids, len(ids), subjects.column, aspects)
    values = np.where(scores.known, scores.values, np.nan)
    rows = np.flatnonzero(scores.known.any(1)).tolist()
    return {place: [None if np.isnan(v) else float(v) for v in values[place]] for place in rows}


def write_pairs(
    subjects: Subjects,
    scores: str | Path,
    aspects: AspectSet,
    out: str | Path,
    form: str = "text",
    brief: bool = False,
) -> dict[str, Any]:
    """Prompts and given answers as JSON lines, for system `finetune`: `{"prompt", "answer"}`, and
    `"system"` for chats.

    Args:
        subjects: those with scores are written, in the order of `subjects`.
        scores: a score file of a teacher; each score is rounded to a rating. Rows with a gap are
            left out.
        aspects: of the answers.
        out: ends in .jsonl.
        form: "text" or "chat", of the model that is fine-tuned.
        brief: prompts are the texts alone.

    Returns:
        `pairs` written, and the subjects `left_out`.

    Raises:
        InputError: see `check_pairs`, `recjax.guided.score_files.read_item_scores`; no row without
            a gap.
    """
    ids = {key: place for place, key in enumerate(subjects.keys)}
    found = read_scores(scores, ids, len(ids), subjects.column, aspects)
    if not found.known.all(axis=1).any():
        raise InputError(f"{scores}: each row has a gap; expected some with a score of each aspect")
    answers, pairs = answer_form(aspects), 0
    with new_file(Path(out)) as file:
        for place in range(len(subjects.keys)):
            text = subjects.text(place)
            if not text or not found.known[place].all():
                continue
            prompt = question(aspects, subjects.kind, text, brief)
            ratings = np.rint(found.values[place]).astype(int) - aspects.least
            pair = {**_prompt(prompt, form), "answer": answers.text(ratings.tolist())}
            file.write((json.dumps(pair, ensure_ascii=False) + "\n").encode("utf-8", "replace"))
            pairs += 1
    return {"out": str(out), "pairs": pairs, "left_out": len(subjects.keys) - pairs}


def _prompt(asked: Question, form: str) -> dict[str, str]:
    if form == "chat":
        system = {"system": asked.system} if asked.system else {}
        return {**system, "prompt": asked.user}
    return {"prompt": asked.text}
