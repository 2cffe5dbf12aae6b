"""Samples of the families: fields, what is held out, shares, and that no test item leaks."""

import dataclasses

import numpy as np
import pytest

from recjax.data.splits import leave_one_out
from recjax.errors import InputError
from recjax.recsysllm.catalogue import Names
from recjax.recsysllm.mixture import FamilySamples, Mixture, mixture
from recjax.recsysllm.passages import plain
from recjax.recsysllm.prompts import FAMILIES, HELD_OUT, PROMPTS
from recjax.recsysllm.tasks import ReviewTexts, Tasks, TasksConfig
from recjax.recsysllm.text import Behaviour, BehaviourConfig
from recjax.text.reasons import explanations, sentences

USERS, ITEMS, EACH = 8, 60, 9


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    items = np.concatenate([1 + rng.permutation(ITEMS)[:EACH] for _ in range(USERS)])
    offsets = np.arange(0, USERS * EACH + 1, EACH)
    # Each review names its interaction, so a text tells where it comes from.
    words = ("sturdy", "cheap", "loud", "pretty", "heavy", "plain", "costly", "modern")
    bodies = [f"Place {k} is a {words[k % 8]} one. More of it." for k in range(len(items))]
    heads = [f"head{k}" for k in range(len(items))]
    return items.astype(np.int32), offsets, bodies, heads


@pytest.fixture(scope="module")
def make(data):
    items, offsets, bodies, heads = data
    split = leave_one_out(offsets)
    runs = zip(split.train.starts, split.train.stops, strict=True)
    places = np.concatenate([np.arange(*run) for run in runs])
    names = Names(["", *(f"Title {k}" for k in range(1, ITEMS + 1))])

    def make(ratings=True, reviews=True, **config):
        text = Behaviour(
            BehaviourConfig(), names, [None, *({"title": t} for t in names.titles[1:])],
            items, None, split.train, {0: {"age": 30}},
        )  # fmt: skip
        written = ReviewTexts(bodies, heads, explanations(bodies, places), {1: "Jo"})
        given = 1.0 + np.arange(len(items), dtype=np.float32) % 5 if ratings else None
        tasks = Tasks(
            TasksConfig(**{"text": 0.0, "sequential": 0.0, "candidates": 5, **config}),
            text, given, offsets, written if reviews else None,
        )  # fmt: skip
        return tasks, split

    return make


ALL = {family: 1.0 for family in FAMILIES}


def test_prompts_are_organised_as_p5s():
    counts = [sum(p.family == f for p in PROMPTS.values()) for f in FAMILIES]
    assert counts == [10 + 1, 13, 12, 4, 8]  # 1-11 is ours
    assert [max(i for i in HELD_OUT if PROMPTS[i].family == f) for f in FAMILIES] == [
        "1-10", "2-13", "3-12", "4-4", "5-8",
    ]  # fmt: skip
    fields = PROMPTS["3-11"].fields
    assert {"feature", "star_rating", "user_id", "item_id", "explanation"} <= fields
    assert {"user_desc", "history", "candidates"} <= PROMPTS["2-8"].fields
    assert len({p.source for p in PROMPTS.values()}) == len(PROMPTS)


def test_no_test_item_reaches_training(make, data):
    """By the ids of interactions, and by what reviews say of their own."""
    items, _, _, _ = data
    tasks, split = make(**{**ALL, "text": 1.0})
    stream = mixture(tasks, split.train)
    hidden = {*split.validation.stops.tolist(), *split.test.stops.tolist()}
    seen, kinds = set(), set()
    for place in range(1500):
        passage = stream(place)
        seen |= set(passage.sources)
        kinds.add(passage.kind)
        text = plain((*passage.pieces, *(passage.answer or ())))
        assert not any(f"lace {k} is" in text or f"head{k}." in text for k in hidden)
    assert not seen & hidden
    assert seen == set(range(len(items))) - hidden  # and all else is read
    assert kinds == {"histories", "items", *FAMILIES}


def test_earlier_ratings_are_told_where_they_are_asked_for(make, data):
    items, offsets, _, _ = data
    tasks, split = make(rating=1.0, rated=3, only=("1-11",))
    prompt = PROMPTS["1-11"]
    assert tasks.able(prompt, offsets[:-1]).sum() == 0  # nobody's first has any before it
    assert tasks.able(prompt, split.test.stops).all()
    place = int(split.test.stops[1])
    passage = tasks.passage("1-11", int(offsets[1]), place, place, np.random.default_rng(0))
    told = [f"Title {items[k]} {1 + k % 5}" for k in range(place - 3, place)]
    assert f" gave so far: {', '.join(told)}. Stars" in passage.text
    assert passage.sources == tuple(range(place - 3, place + 1))
    assert plain(passage.answer) == str(1 + place % 5)
    entities = [piece.text for piece in passage.pieces if piece.entity]
    assert entities == [f"Title {items[k]}" for k in range(place - 3, place + 1)]
    second = tasks.passage("1-11", 0, 1, 9, np.random.default_rng(0))
    assert f"so far: Title {items[0]} 1. Stars" in second.text
    stream = mixture(tasks, split.train)
    hidden = {*split.validation.stops.tolist(), *split.test.stops.tolist()}
    assert not {k for place in range(300) for k in stream(place).sources} & hidden
    with pytest.raises(InputError, match="rated: prompt 1-11 tells earlier ratings; expected 1"):
        make(rating=1.0, only=("1-11",))


def test_held_out_prompts_are_never_trained(make):
    tasks, split = make(**ALL)
    stream = mixture(tasks, split.train)
    used = {stream(place).prompt for place in range(3000)}
    assert used == set(PROMPTS) - HELD_OUT - {"1-11"}
    one, _ = make(sequential=1.0, only=("2-3", "2-12"))
    assert {mixture(one, split.train)(k).prompt for k in range(60)} == {"2-3", "2-12"}
    with pytest.raises(InputError, match=r"only: prompt 2-13 is held out; expected ids that are"):
        make(sequential=1.0, only=("2-3", "2-13"))


def test_shares_hold(make):
    tasks, split = make(rating=0.5, sequential=0.3, direct=0.2)
    stream = mixture(tasks, split.train)
    kinds = [stream(place).kind for place in range(1000)]
    assert [kinds.count(k) for k in ("rating", "sequential", "direct")] == [500, 300, 200]
    assert len(stream) == 2 * USERS * (EACH - 2)
    epoch = [p.sources[-1] for p in map(stream, range(len(stream))) if p.kind == "rating"]
    assert len(set(epoch)) > len(epoch) - 9  # each interaction about once


def test_a_stream_is_a_function_of_its_seed(make):
    tasks, split = make(**ALL)
    other = dataclasses.replace(tasks, seed=1)
    same = [mixture(tasks, split.train)(k) for k in range(30)]
    assert same == [mixture(make(**ALL)[0], split.train)(k) for k in range(30)]
    assert same != [mixture(other, split.train)(k) for k in range(30)]


def test_answers_are_right(make, data):
    items, _, _, _ = data
    tasks, _ = make(**ALL)
    rng = np.random.default_rng(3)

    def one(id, place=13):
        return tasks.passage(id, 9, place, 16, rng)

    target = f"Title {items[13]}"
    answer = {id: plain(one(id).answer) for id in PROMPTS}
    assert {answer[f"2-{k}"] for k in (1, 7, 13)} == {target} == {answer["5-8"]}
    assert answer["1-1"] == answer["4-2"] == "4" and answer["1-4"] == "like"
    assert answer["4-1"] == "head13"
    assert answer["3-9"] == "Place 13 is a plain one."
    assert answer["3-7"] == "4; Place 13 is a plain one."
    assert one("3-9").long and not one("2-1").long and not one("3-7").long
    told = [p.text for p in one("2-8").pieces if p.entity]
    history = [f"Title {k}" for k in items[9:13]]
    assert told[:4] == history and len(told) == 4 + 5 and target in told[4:]
    met = {f"Title {k}" for k in items[9:16]}
    assert set(told[4:]) & met == {target}
    for id, text in (("1-3", "4 stars"), ("5-4", target)):
        for _ in range(12):
            passage = one(id)
            says = plain(passage.answer) == "yes"
            assert says == (text in passage.text or f"Does {text} suit" in passage.text)
    assert "age 30" in plain(tasks.passage("2-4", 0, 4, 7, rng).pieces)
    assert "Jo" in one("2-4").text
    assert "user_" in tasks.passage("2-4", 18, 20, 25, rng).text


def test_items_of_one_title_are_one_candidate(make, data):
    items, _, _, _ = data
    tasks, _ = make(**ALL)
    titles = ["", *(f"Title {k // 2}" for k in range(1, ITEMS + 1))]
    twins = dataclasses.replace(tasks.behaviour, names=Names(titles))
    tasks = dataclasses.replace(tasks, behaviour=twins)
    met, target = {titles[k] for k in items[9:16]}, titles[items[13]]
    for seed in range(20):
        passage = tasks.passage("2-8", 9, 13, 16, np.random.default_rng(seed))
        assert len(set(passage.options)) == 5 and met.intersection(passage.options) == {target}


def test_numbers_of_items_do_not_follow_their_order(make):
    tasks, _ = make(**ALL)
    users, items = tasks._numbers
    assert sorted(items) == list(range(1, ITEMS + 2)) and sorted(users) == list(range(1, USERS + 1))
    assert abs(np.corrcoef(items, np.arange(len(items)))[0, 1]) < 0.4


@pytest.mark.parametrize(
    "family, given, message",
    [
        ("rating", {"ratings": False}, r"config.text.tasks.rating: the data have no ratings"),
        ("review", {"reviews": False}, r"tasks.review: the data have no.*reviews.*tasks.reviews"),
        ("explanation", {"reviews": False}, r"config.text.tasks.explanation: .*no explanations"),
        ("direct", {"only": ("2-1",)}, r"config.text.tasks.only: no prompt of direct"),
        ("direct", {"candidates": 200}, r"config.text.tasks.candidates: 200; a user has met"),
    ],
)
def test_a_task_without_its_fields_is_an_error(make, family, given, message):
    tasks, split = make(**given, **{family: 1.0})
    with pytest.raises(InputError, match=message):
        [mixture(tasks, split.train)(k) for k in range(50)]


def test_ratings_that_are_no_stars_are_an_error(make):
    tasks, split = make(rating=1.0)
    for change, told in (
        (lambda r: 2 * r, "2 to 10"), (lambda r: r > 3, "0 to 1"), (lambda r: r - 2, "-1 to 3"),
    ):  # fmt: skip
        other = dataclasses.replace(tasks, ratings=change(tasks.ratings).astype(np.float32))
        with pytest.raises(InputError, match=f"tasks.rating: the data have ratings from {told}; i"):
            mixture(other, split.train)(0)
    halves = dataclasses.replace(tasks, ratings=tasks.ratings / 2)
    mixture(halves, split.train)(0)


def test_tasks_config_checks():
    with pytest.raises(InputError, match="expected text or a family"):
        TasksConfig(text=0.0, sequential=0.0)
    with pytest.raises(InputError, match="no prompt '2-99'"):
        TasksConfig(only=("2-99",))


def test_explanations_come_from_training_words():
    bodies = ["The battery lasts long here."] * 6 + ["Nothing. Its zipper broke quite early."]
    bodies += ["So it is."] * 30
    trained = np.r_[:6, 7:37]
    found = explanations(bodies, trained, least=1)
    assert found[0] == ("battery", "The battery lasts long here.")
    assert found[6] is None  # its words stand in no training review
    words = explanations(["Meine Stra\u00dfe war laut."] * 5, np.arange(5))
    assert words[0] == ("meine", "Meine Stra\u00dfe war laut.")
    accented = explanations(["\u00c9l \u00e9s ma\u00f1anero ya."] * 5, np.arange(5))
    assert accented[0][0] == "ma\u00f1anero"  # whole
    assert sentences("One. Two!  Three") == ["One.", "Two!", "Three"]
    assert Mixture({"a": [1]}, {"a": 1.0}).names == ["a"]


def test_too_few_interactions_or_items_are_told_as_that(make):
    tasks, split = make(sequential=1.0, rating=1.0)
    short = dataclasses.replace(split.train, stops=split.train.starts)
    for family in ("rating", "sequential"):
        with pytest.raises(InputError, match=f"tasks.{family}: config.split leaves no interaction"):
            _ = FamilySamples(tasks, family, short)._able
    dull = dataclasses.replace(tasks.written, reasons=[None] * len(tasks.written.reasons))
    with pytest.raises(InputError, match=r"no explanations \(by the rule of recjax.text.reasons"):
        _ = FamilySamples(
            dataclasses.replace(tasks, written=dull), "explanation", split.train
        )._able
    tasks, split = make(sequential=1.0, only=("2-11",))
    ones = np.ones_like(tasks.behaviour.items)
    few = dataclasses.replace(
        tasks.behaviour, items=ones, names=Names(["", "Tea"]), catalog=[None, {"title": "Tea"}]
    )
    tasks = dataclasses.replace(tasks, behaviour=few)
    with pytest.raises(InputError, match=r"prompt 2-11 asks about an item .* met 1 of 1 titles"):
        [mixture(tasks, split.train)(k) for k in range(20)]
