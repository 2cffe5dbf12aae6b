"""A judge behind an OpenAI-compatible endpoint.

judge = EndpointJudge(Endpoint("https://api.example.com/v1", "some-model"))
verdict = hold(ballots, judge)
"""

import dataclasses
from collections.abc import Sequence

from recjax.interpreter.judge import Choice, Question
from recjax.scoring.endpoint import Endpoint
from recjax.text.titles import normalise


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


def named_option(text: str, options: Sequence[str]) -> int | None:
    """Which option a text names, or None: it names none, or several.

    Text and titles are compared in their normal forms, whole words only, also inside a sentence.
    Longer titles are looked for first and taken out of the text, so that "Alien" is not found in
    "Alien Resurrection". A title of marks alone ("???") must be the whole answer. A title that is
    an everyday word ("It") is found where the word is meant: nothing tells the two apart.

    >>> named_option("I would pick Alien: Resurrection.", ["Alien", "Alien Resurrection"])
    1
    """
    left = f" {normalise(text)} "
    found = []
    for place, name in sorted(enumerate(map(normalise, options)), key=lambda pair: -len(pair[1])):
        if f" {name} " in left:
            found.append(place)
            while f" {name} " in left:  # twice over a shared blank, too
                left = left.replace(f" {name} ", " | ")
    return found[0] if len(found) == 1 else None
