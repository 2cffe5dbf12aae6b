"""The measures of the five families: rankings, choices, numbers, texts, blanks.

| metric | of |
|---|---|
| `test/text/loss`, ... | blanks and answers, in nats a token (`recjax.recsysllm.measure`) |
| `test/full/hr@5`, `ndcg@5` | beams over all titles; the history's items take no part |
| `test/full_with_seen/...` | the same, the history's items take part |
| `test/uni20/hr@1`, ... | 1 right item of C = 20 by the likelihood of each as the answer |
| `test/gen/valid_ratio` | share of beams without the constraint that are titles |
| `test/rating/rmse`, `mae`, `parsed` | numbers in answers; without one the mean rating counts |
| `test/rating/expected/rmse`, `mae` | numbers' mean, by the likelihood of each as the answer |
| `test/explanation/bleu4`, `rouge1`, ... | texts |

Numbers are clipped to the lowest and the highest rating of training.

Not as in P5's notebooks, whose measures the paper's tables follow: there texts are written by beams
with a least length and cut at blanks alone, BLEU is not smoothed, ROUGE-1 and -2 count an n-gram
once, answers without a number are left out, and of ratings only those of one decimal below 5 are
read; beams are not held to the catalogue, and what is no number is dropped. Prompts that are
answered with yes or no (1-3, 1-8, 2-11, 2-12, 5-1 to 5-4) or with like or dislike (1-4, 1-9) are
trained and not measured here; P5 ranks 100 candidates by how likely the yes of 5-1 and 5-4 is.

`test/PROMPT/...` are those of a further prompt, by its id; the ids of the zero-shot prompts are in
`recjax.recsysllm.prompts.HELD_OUT`. `.../baseline/...` is the trivial answer: the mean training
rating, or the most frequent training text.
"""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from recjax.errors import InputError
from recjax.evaluation.protocols import Measured
from recjax.evaluation.text import list_rank
from recjax.recsysllm.answered import Answered, of_numbers, of_ranks, of_texts
from recjax.recsysllm.answers import Answerer, AnswersConfig
from recjax.recsysllm.candidates import option_scores
from recjax.recsysllm.passages import Passage, Piece, Pieces, named, plain
from recjax.recsysllm.prompts import HELD_OUT, PROMPTS, Family

# Measured, in this order; the first of a kind that is trained gives the metrics without an id.
MEASURED: dict[Family, tuple[str, ...]] = {
    "rating": ("1-2", "1-11", "1-10"),
    "sequential": ("2-3", "2-13", "2-7"),
    "explanation": ("3-9", "3-3", "3-12"),
    "review": ("4-1", "4-2", "4-4"),
    "direct": ("5-5", "5-8"),
}
_NUMBERS, _EXPECTED = ("rmse", "mae", "parsed"), ("rmse", "mae")
_TEXTS = ("bleu2", "bleu4", "rouge1", "rouge2", "rougeL")


def kind_of(id: str) -> str:
    """The measure of a prompt's answer: "list", "choice", "number" or "text"."""
    prompt = PROMPTS[id]
    if prompt.target == "{target_title}":
        return "choice" if "candidates" in prompt.fields else "list"
    return "number" if prompt.target == "{star_rating}" else "text"


def measured(source: Any, name: str) -> dict[str, str]:
    """The prompts that a source's data can be asked, and the prefix of each one's metrics."""
    out: dict[str, str] = {}
    taken: set[tuple[str, str]] = set()
    only = source.options.tasks.only
    part, tasks = getattr(source.dataset.split, name), source.dataset.asked
    for family in source.families():
        ids = [i for i in MEASURED[family] if not only or i in only or i in HELD_OUT]
        ids = ids if any(i not in HELD_OUT for i in ids) else [*only, *ids]
        for id in dict.fromkeys(i for i in ids if PROMPTS[i].family == family):
            if not tasks.able(PROMPTS[id], part.stops).any():
                continue
            if PROMPTS[id].target in ("{yes_no}", "{like_dislike}"):
                continue
            # A list and a choice have one family each; numbers and texts may share one.
            kind = kind_of(id)
            group = kind if kind in ("list", "choice") else f"{family} {kind}"
            first = (group, "") not in taken and id not in HELD_OUT
            taken |= {(group, "")} if first else set()
            out[id] = "" if first else f"{id}/"
    return out


@dataclasses.dataclass(frozen=True, eq=False)
class TaskEvaluator:
    """Blanks, and answers of every prompt that is measured.

    Attributes:
        blanks: measures the loss (`measure.BlankEvaluator`).
        source: a `mixed.Mixed`.
        answerer: of parameters.
        name: "validation" or "test".
        seed: of the choice of questions.
        most: tokens of an answer that the model can write; None = any number.
    """

    blanks: Any
    source: Any
    answerer: Callable[[Any], Answerer]
    name: str
    seed: int = 0
    most: int | None = None
    by_beams: ClassVar[tuple[str, ...]] = ("list",)  # kinds of answers whose ranks beams give

    @property
    def _config(self) -> AnswersConfig:
        return self.source.options.answers

    @property
    def count(self) -> int:
        """How many examples the blanks have, and how many questions there are."""
        return self.blanks.count + sum(len(asked) for _, asked in self._questions.values())

    @functools.cached_property
    def _questions(self) -> dict[str, tuple[np.ndarray, list[Passage]]]:
        most = self._config.max_examples
        return {
            id: self.source.questions(self.name, id, most, self.seed)
            for id in measured(self.source, self.name)
        }

    @functools.cached_property
    def _prefixes(self) -> dict[str, str]:
        return measured(self.source, self.name)

    @property
    def metric_names(self) -> list[str]:
        """The names that `run` gives."""
        out = list(self.blanks.metric_names)
        for id, prefix in self._prefixes.items():
            start, family, kind = f"{self.name}/{prefix}", PROMPTS[id].family, kind_of(id)
            ranks = [f"{m}@{k}" for k in self._cutoffs(kind) for m in ("hr", "ndcg")]
            if kind == "list":
                out += [f"{start}{p}/{m}" for p in ("full", "full_with_seen") for m in ranks]
                out.append(f"{start}gen/valid_ratio")
            elif kind == "choice":
                out += [f"{start}{self._uni}/{m}" for m in ranks]
            else:
                names = _NUMBERS if kind == "number" else _TEXTS
                out += [f"{start}{family}/{m}" for m in names]
                if kind == "number":
                    out += [f"{start}{family}/expected/{m}" for m in _EXPECTED]
                out += [f"{start}{family}/baseline/{m}" for m in names]
        return out

    @property
    def _uni(self) -> str:
        return f"uni{self.source.options.tasks.candidates}"

    def _cutoffs(self, kind: str) -> tuple[int, ...]:
        if kind in self.by_beams:
            return self._config.beam_cutoffs
        candidates = self.source.options.tasks.candidates
        return tuple(k for k in self._config.cutoffs if k <= candidates)

    def check(self) -> None:
        """Raises `InputError` where nothing can be measured; warns of what is left out."""
        self.blanks.check()
        config, kinds = self._config, set(map(kind_of, self._prefixes))
        if self.most is not None and config.tokens > self.most and kinds & {"number", "text"}:
            raise InputError(
                f"config.text.answers.tokens: {config.tokens}; expected at most {self.most}, as "
                "far as the model's positions go"
            )
        candidates = self.source.options.tasks.candidates
        for kind in sorted(kinds & {"list", "choice"}):
            left_out = [k for k in config.cutoffs if k not in self._cutoffs(kind)]
            if not left_out:
                continue
            metrics = ", ".join(f"hr@{k} and ndcg@{k}" for k in left_out)
            reason = f"tasks.candidates: {candidates} are never ranked lower"
            if kind in self.by_beams:
                reason = f"answers.beams: {config.beams} beams find no longer lists"
            warnings.warn(
                f"config.text.{reason}; {metrics} of {kind}s are left out; expected at least "
                f"{max(left_out)} for them",
                stacklevel=2,
            )

    def run(self, params: Any, progress: Callable[[int], Any] = lambda n: None) -> dict[str, float]:
        """Metrics by name; `progress` gets the number of examples done."""
        return self.measure(params, progress).metrics

    def measure(self, params: Any, progress: Callable[[int], Any] = lambda n: None) -> Measured:
        """As `run`, with the values of each target: by prompt and protocol (`2-13/full`), NaN where
        a prompt did not ask about it."""
        split, answerer = getattr(self.source.dataset.split, self.name), self.answerer(params)
        chosen_places = [chosen for chosen, _ in self._questions.values()]
        chosen_by_any = np.unique(np.concatenate([np.zeros(0, np.int64), *chosen_places]))
        values: dict[str, dict[str, np.ndarray]] = {}
        metrics = dict(self.blanks.run(params, progress))
        for id, (chosen, passages) in self._questions.items():
            found = self.ask(answerer, params, id, chosen, passages, progress)
            prefix = self._prefixes[id]
            rows = np.searchsorted(chosen_by_any, chosen)
            for protocol, columns in found.values.items():
                of_all = values[f"{prefix}{protocol}"] = {}
                for key, column in columns.items():
                    of_all[key] = np.full(len(chosen_by_any), np.nan)
                    of_all[key][rows] = column
            metrics |= {f"{self.name}/{prefix}{k}": value for k, value in found.metrics.items()}
        asked = split[chosen_by_any]
        targets = self.source.dataset.store.items[asked.stops]
        return Measured(self.name, asked.stops, asked.users, targets, values, metrics)

    def ask(
        self,
        answerer: Answerer,
        params: Any,
        id: str,
        chosen: np.ndarray,
        passages: Sequence[Passage],
        progress: Callable[[int], Any] = lambda n: None,
    ) -> Answered:
        """The measures of a prompt's answers.

        Args:
            answerer: of the parameters.
            params: of the model.
            id: of the prompt.
            chosen: [n] numbers of the part's examples.
            passages: [n] the questions about them.
            progress: gets the number of questions that are done.
        """
        kind, family = kind_of(id), PROMPTS[id].family
        if kind == "list":
            ranks = self.ranks(answerer, chosen, passages, progress)
            found = of_ranks(ranks, self._cutoffs(kind))
            free = answerer.titles(passages[: self._config.free], free=True)
            valid = [bool(items) for lines in free for items, _ in lines]
            found.metrics["gen/valid_ratio"] = float(np.mean(valid))
            return found
        if kind == "choice":
            found = of_ranks(
                {self._uni: self.choices(answerer, params, passages)}, self._cutoffs(kind)
            )
            progress(len(passages))
            return found
        written = answerer.texts([dataclasses.replace(p, answer=()) for p in passages], progress)
        answers = [plain(p.answer or ()) for p in passages]
        if kind == "number":
            known = self._training(id, float)
            expected = self.expected(answerer, params, passages, sorted(set(known)))
            return of_numbers(family, written, expected, answers, known)
        return of_texts(family, written, answers, self._training(id, str))

    def expected(
        self,
        answerer: Answerer,
        params: Any,
        passages: Sequence[Passage],
        numbers: Sequence[float],
    ) -> list[float]:
        """The mean of the numbers that may be answered, by the likelihood of each."""
        answers = [f"{n:g}" for n in numbers]
        scores = self.answer_log_probs(answerer, params, passages, answers)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        return (weights @ np.array(numbers) / weights.sum(axis=1)).tolist()

    def answer_log_probs(
        self,
        answerer: Answerer,
        params: Any,
        passages: Sequence[Passage],
        answers: Sequence[str],
    ) -> np.ndarray:
        """[n K] the log-probability of each of K answers to each of n questions."""
        options = [[(Piece(answer),) for answer in answers]] * len(passages)
        return np.stack(self._option_scores(answerer, params, passages, options, mean=False))

    def _option_scores(
        self,
        answerer: Answerer,
        params: Any,
        passages: Sequence[Passage],
        options: Sequence[Sequence[Pieces]],
        *,
        mean: bool,
    ) -> list[np.ndarray]:
        blanks = self.blanks
        return option_scores(
            answerer.blanking, blanks.config, blanks.predict, params, passages, options,
            mean=mean, sharding=blanks.sharding,
        )  # fmt: skip

    def _training(self, id: str, form: Callable[[str], Any]) -> list[Any]:
        """Training answers to a prompt; for a text prompt, those of its whole family."""
        dataset, target = self.source.dataset, PROMPTS[id].target
        train = dataset.split.train
        runs = [np.arange(a, b) for a, b in zip(train.starts, train.stops, strict=True)]
        places = np.concatenate(runs)
        if target == "{star_rating}":
            return [form(f"{r:g}") for r in dataset.store.ratings[places].tolist()]
        written = dataset.asked.written
        if target == "{review_headline}":
            texts = [written.headlines[k] for k in places.tolist()]
        else:
            texts = [(written.reasons[k] or ("", ""))[1] for k in places.tolist()]
        return [form(text) for text in texts if text]

    def ranks(
        self,
        answerer: Answerer,
        chosen: np.ndarray,
        passages: Sequence[Passage],
        progress: Callable[[int], Any] = lambda n: None,
    ) -> dict[str, np.ndarray]:
        """Ranks of the targets among the beams' items, by protocol; infinite = not found."""
        dataset = self.source.dataset
        part, items = getattr(dataset.split, self.name), dataset.store.items
        titles = answerer.titles(passages, progress=progress)
        out: dict[str, list[float]] = {"full": [], "full_with_seen": []}
        for k, lines in zip(chosen.tolist(), titles, strict=True):
            start, stop = int(part.starts[k]), int(part.stops[k])
            groups = [group for group, _ in lines]
            seen = frozenset(items[start:stop].tolist())
            target = int(items[stop])
            out["full"].append(list_rank(groups, target, seen))
            out["full_with_seen"].append(list_rank(groups, target, frozenset()))
        return {protocol: np.array(ranks) for protocol, ranks in out.items()}

    def choices(self, answerer: Answerer, params: Any, passages: Sequence[Passage]) -> np.ndarray:
        """The pessimistic rank of each right candidate."""
        options = [[named([name]) for name in passage.options] for passage in passages]
        scores = self._option_scores(answerer, params, passages, options, mean=True)
        ranks = []
        for passage, values in zip(passages, scores, strict=True):
            right = passage.options.index((passage.answer or ())[0].text)
            others = np.delete(values, right)
            ranks.append(1 + int(np.sum(~(others < values[right]))))
        return np.array(ranks, np.float64)
