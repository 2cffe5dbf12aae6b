"""The judge: what it is asked, how votes are counted, what it makes of scores and of texts."""

import collections
import types

import numpy as np
import pytest

from recjax.errors import InputError
from recjax.interpreter.judge import Ballot, EndpointJudge, LikelihoodJudge, Question, hold
from recjax.scoring.options import OptionScorer
from recjax.text.prompts import WORDS

SOURCES = ("random", "SASRec", "DreamRec")
TITLES = ["Alien", "Brazil", "Cat People", "Alien Resurrection", "Twelve Monkeys", "The Omen"]
OPTIONS = tuple(TITLES[:3])
THREE = Ballot(["Heat", "Toy  Story"], dict(zip(SOURCES, OPTIONS, strict=True)))


def ballots(count):
    return [THREE] * count


def keeping(judge):
    """A judge, and the list of what it has been asked."""
    asked = []

    def keeper(questions):
        asked.extend(questions)
        return judge(questions)

    return keeper, asked


def asked_of(given, **options):
    judge, asked = keeping(lambda questions: [0] * len(questions))
    hold(given, judge, **options)
    return asked


def first(questions):
    return [0] * len(questions)


def wanting(title):
    """Chooses a title wherever it stands."""
    return lambda questions: [question.options.index(title) for question in questions]


# What is asked.


def test_the_paper_s_prompt():
    (question,) = asked_of([THREE])
    first, second, third = question.options
    assert sorted(question.options) == list(OPTIONS)
    assert question.prompt == (
        "A person has watched a series of movies: Heat, Toy Story. Which of the following movies "
        f"does this person prefer? {first}, {second}, or {third}. Please pick one."
    )


def test_the_words_of_a_domain_and_two_options():
    two = Ballot(["{history}", "Doom"], {"SASRec": "Quake", "DreamRec": "Ultima"})
    (question,) = asked_of([two], words=WORDS["game"])
    assert question.prompt == (
        "A person has played a series of games: {history}, Doom. Which of the following games "
        f"does this person prefer? {question.options[0]} or {question.options[1]}. Please pick one."
    )


def test_the_order_is_uniform():
    count = 1200
    orders = collections.Counter(question.options for question in asked_of(ballots(count)))
    assert len(orders) == 6
    expected = count / 6
    assert sum((n - expected) ** 2 / expected for n in orders.values()) < 20.5  # p = 0.001


def test_the_order_depends_on_seed_and_number_only():
    orders = [question.options for question in asked_of(ballots(40))]
    assert [question.options for question in asked_of(ballots(40))] == orders
    assert [question.options for question in asked_of(ballots(7))] == orders[:7]
    other = asked_of([Ballot(["Fargo"], THREE.candidates), *ballots(39)])
    assert [question.options for question in other] == orders
    assert [question.options for question in asked_of(ballots(40), seed=1)] != orders


# How it is counted.


def test_a_judge_who_takes_the_first_place_prefers_nobody():
    verdict = hold(ballots(1500), first)
    for source in SOURCES:
        value, low, high = verdict.share(source)
        assert low < 1 / 3 < high and value == pytest.approx(1 / 3, abs=0.04)


@pytest.mark.parametrize("source", SOURCES)
def test_a_judge_who_knows_a_title_finds_it_in_every_place(source):
    verdict = hold(ballots(20), wanting(THREE.candidates[source]))
    assert verdict.share(source).value == 1 and verdict.chosen == ((source,),) * 20


def test_shares_ties_and_refusals():
    def judge(questions):
        assert [question.number for question in questions] == list(range(10))
        choices = wanting("Brazil")(questions[:5]) + wanting("Alien")(questions[5:6])
        return [*choices, "tie", "refusal", "tie", "tie"]

    verdict = hold(ballots(10), judge)
    assert (verdict.ballots, verdict.decided, verdict.ties, verdict.refusals) == (10, 6, 3, 1)
    assert verdict.chosen == (("SASRec",),) * 5 + (("random",),) + ((),) * 4
    metrics = verdict.metrics()
    assert metrics["judge/SASRec/share"] == pytest.approx(5 / 6)
    assert metrics["judge/SASRec/share_of_all"] == 0.5
    assert metrics["judge/random/share"] == pytest.approx(1 / 6)
    assert metrics["judge/DreamRec/share"] == 0
    # Wilson's, by hand: (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n).
    assert metrics["judge/SASRec/share_low"] == pytest.approx(0.4365, abs=1e-4)
    assert metrics["judge/SASRec/share_high"] == pytest.approx(0.9699, abs=1e-4)
    assert metrics["judge/SASRec/share_of_all_low"] == pytest.approx(0.2366, abs=1e-4)
    counts = {name: metrics[f"judge/{name}"] for name in ("ballots", "decided", "ties", "shared")}
    assert counts == {"ballots": 10, "decided": 6, "ties": 3, "shared": 0}
    assert metrics["judge/refusals"] == 1
    assert len(metrics) == 5 + 3 * 6


def test_nothing_decided_says_nothing():
    verdict = hold(ballots(2), lambda questions: ["tie"] * 2)
    assert verdict.share("SASRec") == (0.0, 0.0, 1.0)
    assert verdict.share_of_all("SASRec").value == 0


def test_one_title_of_two_sources_is_one_option_whose_vote_is_split():
    """Spelled in two ways, but of one normal form."""
    both = Ballot(["Heat"], {"random": "Alien", "SASRec": "The Omen", "DreamRec": "omen!"})
    judge, asked = keeping(wanting("The Omen"))
    verdict = hold([both, both, THREE], lambda q: judge(q[:2]) + wanting("Cat People")(q[2:]))
    assert [sorted(question.options) for question in asked] == [["Alien", "The Omen"]] * 2
    assert verdict.chosen == (("SASRec", "DreamRec"),) * 2 + (("DreamRec",),)
    assert verdict.shared == 2
    assert [verdict.votes(source) for source in SOURCES] == [0, 1, 2]
    assert verdict.share("DreamRec").value == pytest.approx(2 / 3)
    lost = hold([both], wanting("Alien"))
    assert lost.shared == 0 and lost.share("random").value == 1


def test_where_all_recommend_one_title_nobody_is_asked():
    same = Ballot(["Heat"], dict.fromkeys(SOURCES, "Alien"))
    judge, asked = keeping(wanting("Brazil"))
    verdict = hold([same, THREE], judge)
    assert [question.number for question in asked] == [1]
    assert verdict.chosen == (SOURCES, ("SASRec",)) and verdict.shared == 1
    assert verdict.votes("random") == pytest.approx(1 / 3)

    def never(questions):
        raise AssertionError("nothing to ask")

    alone = hold([same] * 7, never)
    assert alone.shared == 7
    assert alone.share("random").value == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Ballot([], THREE.candidates), "ballot 2: a history that is empty"),
        (Ballot(["Heat", " "], THREE.candidates), "ballot 2: a history that .*an empty title"),
        (Ballot("Heat", THREE.candidates), "ballot 2: a history"),
        (Ballot(["Heat"], {**THREE.candidates, "DreamRec": " "}), "ballot 2: DreamRec has an empt"),
        (Ballot(["Heat"], {"random": "Alien"}), "ballot 2: candidates of random; expected random,"),
        (Ballot(["Heat"], {**THREE.candidates, "x": "Alien"}), "ballot 2: candidates of .* x; exp"),
    ],
)
def test_bad_ballots(wrong, message):
    with pytest.raises(InputError, match=message):
        hold([THREE, THREE, wrong], first)


def test_no_ballots_and_one_source():
    with pytest.raises(InputError, match="no ballots"):
        hold([], first)
    with pytest.raises(InputError, match="ballot 0: candidates of a; expected at least two"):
        hold([Ballot(["Heat"], {"a": "Alien"})], first)


# What the judge makes of a language model's scores (tests/unit/scoring), and of an endpoint's text.


@pytest.fixture
def judge_of(monkeypatch):
    """`judge_of(score)`: a likelihood judge whose model gives each title `score(title)`."""

    def make(score):
        def scored(self, prompts, options, names):
            assert names[0].startswith("ballot ") and len(names) == len(prompts)
            return [np.array([score(title) for title in some]) for some in options]

        monkeypatch.setattr(OptionScorer, "__call__", scored)
        lm = types.SimpleNamespace(
            tokenizer=object(), definition=None, check_causal=lambda user: None
        )
        return LikelihoodJudge(lm)

    return make


@pytest.mark.parametrize("title", OPTIONS)
def test_the_likelier_title_is_chosen(judge_of, title):
    verdict = hold(ballots(6), judge_of(lambda one: -1.0 if one == title else -2.0))
    (source,) = [source for source in SOURCES if THREE.candidates[source] == title]
    assert verdict.chosen == ((source,),) * 6


def test_a_model_without_preference_is_a_tie(judge_of):
    verdict = hold(ballots(3), judge_of(lambda one: -3.0))
    assert verdict.ties == 3 and verdict.decided == 0


def test_only_the_two_best_make_a_tie(judge_of):
    question = Question(0, "Which?", OPTIONS)
    assert judge_of(lambda one: -4.0 - (one == "Cat People"))([question]) == ["tie"]
    assert judge_of(lambda one: -4.0 + (one == "Cat People"))([question]) == [2]


@pytest.mark.parametrize(("above", "expected"), [(5e-7, "tie"), (2e-6, 0)])
def test_how_near_a_tie_is(judge_of, above, expected):
    scores = dict(zip(OPTIONS, (-3.0 + above, -4.0, -3.0), strict=True))
    assert judge_of(scores.get)([Question(0, "Which?", OPTIONS)]) == [expected]


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
