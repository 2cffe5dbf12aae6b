"""A judge: which of several recommendations would this user prefer?

    ballots = [Ballot(history, {"random": "Omen", "SASRec": "Alien", "DreamRec": "Brazil"}), ...]
    verdict = hold(ballots, LikelihoodJudge(lm))
    verdict.share("DreamRec")            # Share(value=0.51, low=0.41, high=0.60)

RecInterpreter (Yang et al. 2023, section 4.4, Table 3) asks ChatGPT, for what an oracle item is
called may be in no catalogue, and then no rank tells how good it is. The judge here is a local
language model's likelihood, any OpenAI-compatible endpoint (`EndpointJudge`), or any
function from questions to choices.

Deviations: the order of the options is drawn for each ballot, for judges prefer places as well as
titles; ties and refusals are counted; shares have intervals. The paper does none of the three.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from recjax.errors import InputError
from recjax.evaluation.intervals import wilson
from recjax.llm import LanguageModel
from recjax.scoring.endpoint import Endpoint
from recjax.scoring.options import OptionScorer, named_option
from recjax.text.prompts import WORDS, Words, listed
from recjax.text.titles import normalise, strict

# Section 4.4, with the words of the domain.
_PROMPT = (
    "A person has {past} a series of {items}: {history}. "
    "Which of the following {items} does this person prefer? {options}. Please pick one."
)
_TIE = 1e-6  # nats a token: less than what the shape of a batch changes


@dataclasses.dataclass(frozen=True)
class Ballot:
    """A user's history and what each source recommends.

    Attributes:
        history: titles, newest last.
        candidates: title by the name of its source.
    """

    history: Sequence[str]
    candidates: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Question:
    """A ballot as a judge gets it.

    Attributes:
        number: of the ballot, from 0.
        prompt: the whole text.
        options: the titles in the order of the prompt; no two have one normal form.
    """

    number: int
    prompt: str
    options: tuple[str, ...]


# Which option (its place in `Question.options`), or why none.
Choice = int | Literal["tie", "refusal"]
Judge = Callable[[Sequence[Question]], Sequence[Choice]]


class Share(NamedTuple):
    """A share and its 95 % interval (Wilson's)."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The choices of a judge over all ballots.

    Attributes:
        sources: their names.
        chosen: for each ballot the sources whose title was chosen: one, several that recommend the
            same title, or none (a tie or a refusal).
        ties: ballots in which the judge found the best options equally good.
        refusals: ballots in which it named none, or several.
    """

    sources: tuple[str, ...]
    chosen: tuple[tuple[str, ...], ...]
    ties: int
    refusals: int

    @property
    def ballots(self) -> int:
        """The number of ballots."""
        return len(self.chosen)

    @property
    def decided(self) -> int:
        """Ballots that are no tie and no refusal."""
        return sum(map(bool, self.chosen))

    @property
    def shared(self) -> int:
        """Decided ballots whose chosen title came from several sources."""
        return sum(len(names) > 1 for names in self.chosen)

    def votes(self, source: str) -> float:
        """Ballots that a source won; one that k sources won together is 1/k for each."""
        return sum(1 / len(names) for names in self.chosen if source in names)

    def share(self, source: str) -> Share:
        """The share of the decided ballots; 0 with the interval from 0 to 1 if none is decided."""
        return self._share(source, self.decided)

    def share_of_all(self, source: str) -> Share:
        """The share of all ballots, ties and refusals included."""
        return self._share(source, self.ballots)

    def _share(self, source: str, n: int) -> Share:
        votes = self.votes(source)
        return Share(votes / max(n, 1), *wilson(votes, n))

    def metrics(self) -> dict[str, float]:
        """All figures by name: `judge/DreamRec/share`, its `_low` and `_high`, `judge/ties`."""
        out: dict[str, float] = {
            f"judge/{name}": getattr(self, name)
            for name in ("ballots", "decided", "ties", "refusals", "shared")
        }
        for source in self.sources:
            for name in ("share", "share_of_all"):
                value, low, high = getattr(self, name)(source)
                prefix = f"judge/{source}/{name}"
                out |= {prefix: value, f"{prefix}_low": low, f"{prefix}_high": high}
        return out


def hold(
    ballots: Sequence[Ballot], judge: Judge, *, words: Words = WORDS["movie"], seed: int = 0
) -> Verdict:
    """Asks a judge about each ballot and counts.

    Titles of one normal form (`recjax.text.titles`) are one option, spelled as the first
    source spells it; if it is chosen, each of its sources gets an equal part of the vote. Where
    all sources recommend one title nothing is asked, and all get their part.

    Args:
        ballots: all with the same sources. Numbered from 0.
        judge: `LikelihoodJudge`, `EndpointJudge`, or a function.
        words: of the domain.
        seed: of the order of the options, which depends on it and the ballot's number only.

    Raises:
        InputError: no ballots; or, naming the ballot's number, an empty history or title, fewer
            than two sources or other ones than ballot 0 has.
    """
    if not ballots:
        raise InputError("no ballots")
    sources = tuple(ballots[0].candidates)
    options = [_options(ballot, number, sources) for number, ballot in enumerate(ballots)]
    questions = []
    for number, (ballot, titles) in enumerate(zip(ballots, options, strict=True)):
        if len(titles) > 1:
            order = np.random.default_rng([seed, number]).permutation(len(titles))
            shown = tuple(list(titles)[place] for place in order)
            questions.append(Question(number, _prompt(ballot.history, shown, words), shown))
    choices = judge(questions) if questions else ()
    chosen = [tuple(next(iter(titles.values()))) for titles in options]
    for question, choice in zip(questions, choices, strict=True):
        if isinstance(choice, str):
            chosen[question.number] = ()
        else:
            chosen[question.number] = tuple(options[question.number][question.options[choice]])
    ties, refusals = (sum(choice == kind for choice in choices) for kind in ("tie", "refusal"))
    return Verdict(sources, tuple(chosen), ties, refusals)


def _options(ballot: Ballot, number: int, sources: tuple[str, ...]) -> dict[str, list[str]]:
    """The different titles of a ballot, each with its sources; checked."""
    if len(sources) < 2 or set(ballot.candidates) != set(sources):
        expected = ", ".join(sources) if len(sources) > 1 else "at least two sources"
        raise InputError(
            f"ballot {number}: candidates of {', '.join(ballot.candidates) or 'no source'}; "
            f"expected {expected}"
        )
    history = ballot.history
    if isinstance(history, str) or not len(history) or not all(map(str.strip, history)):
        raise InputError(f"ballot {number}: a history that is empty or has an empty title")
    titles: dict[str, str] = {}
    out: dict[str, list[str]] = {}
    for source in sources:
        title = strict(ballot.candidates[source])
        if not title:
            raise InputError(f"ballot {number}: {source} has an empty title")
        out.setdefault(titles.setdefault(normalise(title), title), []).append(source)
    return out


def _prompt(history: Sequence[str], options: Sequence[str], words: Words) -> str:
    comma = "," if len(options) > 2 else ""
    return _PROMPT.format(
        past=words.past,
        items=words.items,
        history=listed([strict(title) for title in history]),
        options=f"{listed(options[:-1])}{comma} or {options[-1]}",
    )


class LikelihoodJudge:
    """The option that a language model holds most likely as the answer.

    Options are scored by `recjax.scoring.options`; two best ones within 1e-6 are a tie.

    Args:
        lm: with a tokenizer.

    Raises:
        InputError: `lm` has no tokenizer.
    """

    def __init__(self, lm: LanguageModel):
        self._scorer = OptionScorer(lm)

    def __call__(self, questions: Sequence[Question]) -> list[Choice]:
        return [_best(scores) for scores in self.scores(questions)]

    def scores(self, questions: Sequence[Question]) -> list[np.ndarray]:
        """Nats a token, an array with one number an option for each question.

        Raises:
            InputError: a prompt with an option is longer than what the model was trained on.
        """
        return self._scorer(
            [question.prompt for question in questions],
            [question.options for question in questions],
            [f"ballot {question.number}" for question in questions],
        )


def _best(scores: np.ndarray) -> Choice:
    second, first = np.sort(scores)[-2:]
    return "tie" if first - second <= _TIE else int(scores.argmax())


@dataclasses.dataclass(frozen=True)
class EndpointJudge:
    """The option that the answer of an endpoint names: see `named_option` for how it is read.

    Called, it raises the `InputError` of `Endpoint.ask`.
    """

    endpoint: Endpoint

    def __call__(self, questions: Sequence[Question]) -> list[Choice]:
        texts = self.endpoint.ask([question.prompt for question in questions])
        named = [named_option(t, q.options) for t, q in zip(texts, questions, strict=True)]
        return ["refusal" if place is None else place for place in named]
