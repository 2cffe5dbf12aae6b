"""A judge behind an endpoint: which option an answer names. The endpoint: tests/unit/scoring."""

import pytest

from recjax.interpreter.endpoint import EndpointJudge, named_option
from recjax.interpreter.judge import Ballot, hold

OPTIONS = ("Alien", "Brazil", "Cat People")


class Said:
    """An endpoint that answers by what the prompt holds."""

    def ask(self, prompts):
        numbers = [int(prompt.split("Film ")[1].split(".")[0]) for prompt in prompts]
        return [
            ["Cat People, surely.", "Alien or Brazil", "", "cat people"][n % 4] for n in numbers
        ]


def test_a_vote_with_a_judge_who_refuses_some():
    sources = ("random", "SASRec", "DreamRec")
    given = [Ballot([f"Film {n}"], dict(zip(sources, OPTIONS, strict=True))) for n in range(12)]
    verdict = hold(given, EndpointJudge(Said()))
    assert verdict.chosen == (("DreamRec",), (), (), ("DreamRec",)) * 3
    assert verdict.refusals == 6 and verdict.ties == 0
    assert verdict.share("DreamRec").value == 1
    assert verdict.share_of_all("DreamRec").value == 0.5


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("Brazil", OPTIONS, 1),
        ("brazil.", OPTIONS, 1),
        ("Based on the history, this person would prefer **Cat People** (1982).", OPTIONS, 2),
        ("I pick Alien: Resurrection!", ("Alien", "Alien Resurrection", "Brazil"), 1),
        ("I pick Alien!", ("Alien", "Alien Resurrection", "Brazil"), 0),
        ("Alien, not Alien Resurrection", ("Alien", "Alien Resurrection"), None),
        ("Alien Resurrection Alien Resurrection", ("Alien", "Alien Resurrection"), 1),
        ("The Omen it is", ("Omen", "Brazil"), 0),
        ("pick the matrix", ("The Matrix", "Brazil"), 0),
        ("Schindler\u2019s List & You", ("Schindlers List and You", "Brazil"), 0),
        ("1984", ("1984", "Brazil"), 0),
        ("???", ("???", "Brazil"), 0),
        ("What???", ("???", "Brazil"), None),
        (".*", ("Alien", "Brazil"), None),
        ("Al.en", ("Al.en (x)", "Alien"), None),
        ("Aliens", OPTIONS, None),
        ("Alien or Brazil", OPTIONS, None),
        ("As a language model I cannot say.", OPTIONS, None),
        ("", OPTIONS, None),
    ],
)
def test_what_an_answer_names(text, options, expected):
    assert named_option(text, options) == expected
