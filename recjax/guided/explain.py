"""Why an item is recommended: aspects of the user and of the item side by side.

    explain(open_run("runs/refined"), "u1", k=5).items[0].sentence
    changed_lists(run, steps).stream(params, request, 10)      # "more tension, shorter"

A refined or fused run's score is linear in the guided part: it is a base part plus the sum, over
the aspects, of the user's weight times the item's standardised score. So the parts are exact.

Letters: B users, I items, A aspects, D width of the scored vectors.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from recjax.config import nearest
from recjax.data.pipeline import EvalBatches, in_order
from recjax.data.requests import Request
from recjax.errors import InputError
from recjax.evaluation.lists import TopLists
from recjax.guided.aspects import Aspect
from recjax.guided.fusion import FusedRun
from recjax.guided.refine import GuidedRun
from recjax.report.sections import Radar, Section, Table, Text
from recjax.typing import Array, Params

Refined = GuidedRun | FusedRun
STEP = 0.5  # of the deviation of a user's scores over the catalogue: what one step of a taste is
_UNKNOWN = "It is recommended for what others chose together; no scores are known of it."
_SHOWN = 2.5  # deviations from the average at a chart's rim


@dataclasses.dataclass(frozen=True, eq=False)
class Reason:
    """One recommended item and the parts of its score.

    Attributes:
        key, title: of the item.
        score: base + guided.
        base: the part of the learned vectors; a change of taste counts in `guided`.
        guided: the sum of `parts`.
        share: |guided| / (|guided| + |base|), each as it differs from the catalogue's mean.
        aspects: [A] standardised, of the item.
        parts: [A] the user's weight times the item's score, of each aspect.
        sentence: the same in words.
        known: whether any source has scores of it; if none has, `aspects` and `parts` are zeros.
    """

    key: str
    title: str
    score: float
    base: float
    guided: float
    share: float
    aspects: np.ndarray
    parts: np.ndarray
    sentence: str
    known: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Explanation:
    """A user's aspects and the items recommended.

    Attributes:
        who: the user's key, or "this history"; with what a changed taste wants.
        names: A.
        leaning: [A] the user's weights, scaled to a mean square of 1: above 0 wants more of it.
        items: best first.
    """

    who: str
    names: tuple[str, ...]
    leaning: np.ndarray
    items: list[Reason]

    def sections(self) -> list[Section]:
        """The sections of a report."""
        lines = [
            f"{n}. {item.title}: {item.sentence}" for n, item in enumerate(self.items, start=1)
        ]
        rows: list[list[Any]] = [
            [i.title, i.score, i.base, i.guided, i.share if i.known else ""] for i in self.items
        ]
        best = next((item for item in self.items if item.known), self.items[0])
        compared: list[list[Any]] = [
            [name, float(self.leaning[n]), float(best.aspects[n]), float(best.parts[n])]
            for n, name in enumerate(self.names)
        ]
        out: list[Section] = [
            Text(f"Recommended to {self.who}", "\n\n".join(lines)),
            Table(
                "What the scores are made of",
                ["item", "score", "learned", "aspects", "share of aspects"],
                rows,
                "The sum of both parts. Shares are of what differs from the mean item.",
            ),
        ]
        if len(self.names) >= 3:
            chart = {self.who: self.leaning.tolist(), best.title: best.aspects.tolist()}
            note = "In deviations from the catalogue's mean, which is the ring of 0."
            out.append(Radar("Aspects", self.names, chart, -_SHOWN, _SHOWN, note))
        columns = ["aspect", self.who, best.title, "part of the score"]
        return [*out, Table("Agreement by aspect", columns, compared)]


def check_refined(run: Any) -> Refined:
    """The run itself; `InputError` for one without a guided part."""
    if not isinstance(run, GuidedRun | FusedRun):
        raise InputError(
            f"{run.workdir}: a run without a guided part; expected one of config.system 'guided' "
            "or 'fused'"
        )
    return run


def explain(
    run: Refined,
    asked: Any,
    k: int = 5,
    *,
    items: Sequence[str] = (),
    steps: np.ndarray | None = None,
    named: Mapping[str, str] | None = None,
) -> Explanation:
    """Explains the k best items for a user or a history, or the given ones.

    Args:
        run: a refined or fused recommender's.
        asked: a user key, or a history: a list of item keys, the newest last.
        k: how many items, unless `items` are given.
        items: raw keys of the items to explain.
        steps: [A] change of the user's taste (`read_change`).
        named: what errors call `users`, `histories` and `items` (flags).

    Raises:
        InputError: an unknown user or item, k below 1, a run without a guided part, nothing left to
            recommend.
    """
    check_refined(run)
    if k < 1:
        raise InputError(f"k: expected a whole number from 1, got {k!r}")
    request = run.request([asked], named=named)
    chosen = [run.store.item_ids.get(str(key), 0) for key in items]
    if 0 in chosen:
        unknown = items[chosen.index(0)]
        hint = nearest(unknown, run.store.item_ids)
        name = (named or {}).get("items", "items")
        raise InputError(f"{name}: '{unknown}' is not in the data; {hint}")
    params = run.restore(run.best_step())
    h, table = _vectors(run, params, request)
    mapping = run.aspect_map(params)
    weights = np.asarray(h[-mapping.shape[0] :] @ mapping, np.float64)
    number, scores = run.store.n_items, np.asarray(run.guided.items, np.float64)
    total = np.asarray(table[:number] @ h, np.float64)
    base = total - scores @ weights
    if steps is not None:
        weights = weights + STEP * total[1:].std() * steps
    parts = scores * weights
    guided = parts.sum(axis=1)
    total = base + guided
    who = f"user {request.users[0]}" if request.users else "this history"
    if steps is not None:
        who += f" who wants {_changes(run.guided.names, steps)}"
    if not chosen:
        open_ = np.ones(number, bool)
        open_[0] = False
        span = request.spans
        open_[request.items[span.starts[0] : span.stops[0]]] = False
        order = np.argsort(-np.where(open_, total, -np.inf), kind="stable")
        chosen = [int(item) for item in order[: min(k, int(open_.sum()))]]
        if not chosen:
            raise InputError(f"{who}: no item is left to recommend; items=[...] explains others")
    sizes = [np.abs(column - column[1:].mean()) for column in (base, guided)]
    size = float(np.sqrt(np.mean(weights**2)))
    names, reasons = run.guided.names, []
    for item in chosen:
        record = run.store.catalog[item] or {}
        share = float(sizes[1][item] / max(sizes[0][item] + sizes[1][item], 1e-30))
        known = bool(run.guided.known[item])
        reasons.append(
            Reason(
                record["key"], record.get("title") or record["key"], float(total[item]),
                float(base[item]), float(guided[item]), share, scores[item], parts[item],
                sentence(names, scores[item], parts[item], share) if known else _UNKNOWN, known,
            )
        )  # fmt: skip
    return Explanation(who, names, weights / size if size else weights, reasons)


def _changes(names: Sequence[str], steps: np.ndarray) -> str:
    """A change of taste in words: "more tension, less pace"."""
    changed = [(name, step) for name, step in zip(names, steps, strict=True) if step]
    return ", ".join(f"{'more' if step > 0 else 'less'} {name}" for name, step in changed)


def _vectors(run: Refined, params: Params, request: Request) -> tuple[Array, Array]:
    """`(vector [D], table [I D])` of the request's one history."""
    batches = EvalBatches(
        request.items, request.spans, run.window, 1, packed=run.packed, closing=run.closing,
        targeted=False, users=run.personal and request.users is not None,
    )  # fmt: skip
    batch = batches(0)
    place = in_order(batch)[0]
    own = {k: jnp.asarray(v) for k, v in batch.items() if k not in ("examples", "weights")}
    h, table = run.encode(params, own)
    return h[place], table


def sentence(names: Sequence[str], aspects: np.ndarray, parts: np.ndarray, share: float) -> str:
    """One plain sentence: the two aspects that speak most for an item, and how much they decide.

    Args:
        names: A.
        aspects: [A] standardised, of the item.
        parts: [A] of the score.
        share: see `Reason`.
    """
    best = [n for n in np.argsort(-parts)[:2] if parts[n] > 0]
    if not best:
        return "It is recommended for what others chose together; its aspects do not speak for it."
    named = " and ".join(f"{'high' if aspects[n] > 0 else 'low'} in {names[n]}" for n in best)
    return f"It is {named}, as this taste has it; aspects decide {share:.0%} of its score."


def read_change(text: str, names: Sequence[str], aspects: Sequence[Aspect] = ()) -> np.ndarray:
    """A change of taste in words as steps [A]: "more tension, less pace", "shorter".

    Parts between commas are `more NAME` or `less NAME`, where NAME is a part of one aspect's name;
    or a comparative whose stem stands in the `low` or `high` of one aspect ("very short").

    Raises:
        InputError: a part that names no aspect, or several.
    """
    steps = np.zeros(len(names))
    for part in filter(None, (part.strip().casefold() for part in text.split(","))):
        word, _, rest = part.partition(" ")
        if word in ("more", "less") and rest:
            matches = [n for n, name in enumerate(names) if rest.strip() in name.casefold()]
            exact = [n for n in matches if names[n].casefold() == rest.strip()]
            matches, sign = exact or matches, 1.0 if word == "more" else -1.0
        else:
            matches, sign = _comparative(part, names, aspects)
        if len(matches) != 1:
            fault = "several aspects" if matches else "no aspect"
            raise InputError(
                f"change '{part}': names {fault}; expected 'more NAME' or 'less NAME'; "
                f"{nearest(rest or part, names)}"
            )
        steps[matches[0]] += sign
    if not steps.any():
        raise InputError(f"change '{text}': changes nothing; expected 'more NAME' or 'less NAME'")
    return steps


def _comparative(
    word: str, names: Sequence[str], aspects: Sequence[Aspect]
) -> tuple[list[int], float]:
    stem = re.sub(r"ier$", "y", word) if word.endswith("ier") else word.removesuffix("er")
    if not word.endswith("er") or len(stem) < 3:
        return [], 1.0
    stems = {stem, stem + "e", stem[:-1] if stem[-1] == stem[-2] else stem}
    signs: dict[int, float] = {}
    for aspect in aspects:
        for words, sign in ((aspect.low, -1.0), (aspect.high, 1.0)):
            if stems & set(re.findall(r"\w+", words.casefold())) and aspect.name in names:
                signs[list(names).index(aspect.name)] = sign
    return list(signs), next(iter(signs.values()), 1.0)


def changed_lists(run: Refined, steps: np.ndarray) -> TopLists:
    """A maker of lists for a changed taste, at the speed of `run.lists`.

    Args:
        run: a refined or fused recommender's.
        steps: [A]; a step adds `STEP` deviations of the user's scores for a deviation of the item.
    """
    scores = np.asarray(run.guided.items @ steps, np.float32)[:, None]

    def encode(params: Params, batch: dict[str, Array]) -> tuple[Array, Array]:
        h, table = run.encode(params, batch)
        real = table[1 : len(scores)]
        centred = real - real.mean(axis=0)
        covariance = centred.T @ centred / len(real)
        deviation = jnp.sqrt(jnp.maximum(jnp.einsum("BD,DE,BE->B", h, covariance, h), 0.0))
        own = jnp.pad(jnp.asarray(scores), ((0, len(table) - len(scores)), (0, 0)))
        return (
            jnp.concatenate([h, STEP * deviation[:, None]], axis=-1),
            jnp.concatenate([table, own], axis=-1),
        )

    return dataclasses.replace(run.lists, encode=encode)


def aspects_of(run: Refined) -> Mapping[str, Aspect]:
    """The aspects of a run's score files, by name."""
    return {
        aspect.name: aspect for aspect_set in run.guided.aspects for aspect in aspect_set.aspects
    }
