"""What is asked about items and users, and how answers are read."""

import dataclasses

import pytest

from recjax.errors import InputError
from recjax.guided.aspects import Aspect, AspectSet, aspect_set
from recjax.guided.prompts import (
    answer_form,
    check_fields,
    counted,
    item_text,
    parse,
    question,
    user_text,
)

SONGS = AspectSet(
    "songs", (Aspect("tempo", "how fast it is", "slow", "fast"), Aspect("mood (of it)"),
              Aspect("tempo change")), "song", "songs", 0, 10,
)  # fmt: skip
RECORD = {
    "id": 1, "key": "a", "title": "Alien  &\nmore", "year": 1979.0, "genres": ["Horror", "Sci-Fi"],
    "categories": [["A", "B"], ["A", "C"]], "description": "word " * 400,
}  # fmt: skip


def test_the_question_about_an_item():
    asked = question(SONGS, "item", "title: X")
    for part in (
        "a critic of songs", "one song with a whole number from 0 to 10",
        "\ntempo: how fast it is (0 = slow; 10 = fast)\nmood (of it)\ntempo change\n",
        "\ntempo: <rating>\nmood (of it): <rating>\ntempo change: <rating>\nWrite nothing else.",
    ):  # fmt: skip
        assert part in asked.system
    assert asked.user == "This is known of the song:\ntitle: X"
    assert asked.text == f"{asked.system}\n\n{asked.user}\n\n"
    brief = question(SONGS, "item", "title: X", brief=True)
    assert (brief.system, brief.text) == ("", "title: X\n\n")
    assert answer_form(SONGS).text([0, 9, 10]) == "tempo: 0\nmood (of it): 9\ntempo change: 10"


def test_the_text_of_an_item():
    text = item_text(RECORD, longest=12)
    assert text.split("\n") == [
        "title: Alien & more", "year: 1979", "genres: Horror, Sci- ...", "categories: A, B, C",
        "description: word word wo ...",
    ]  # fmt: skip
    assert item_text(RECORD, ("genres",)) == "genres: Horror, Sci-Fi"
    assert item_text(None) == "title: unknown"


def test_the_text_of_a_user():
    records = [RECORD, {"title": None}]
    assert user_text(records, [4.0, 2.5], ("title", "year")) == (
        "1. rating: 4; title: Alien & more; year: 1979\n2. rating: 2.5; title: unknown"
    )
    assert user_text(records[1:]) == "1. title: unknown"
    assert "which song this user will like next" in question(SONGS, "user", "x").system


def test_fields_that_no_item_has():
    check_fields(("title", "year"), [None, RECORD])
    with pytest.raises(InputError, match="--fields: no item has 'genre'; did you mean 'genres'"):
        check_fields(("title", "genre"), [None, RECORD])


@pytest.mark.parametrize(
    "answer",
    [
        "tempo: 3\nmood (of it): 10\ntempo change: 0",
        "tempo: 3, mood: 10, tempo change: 0",
        "1. **Tempo**: 3\n2. **Mood**: 10/10\n3. **Tempo change**: 0 out of 10",
        "| tempo | 3 |\n| mood | 10 |\n| tempo change | 0 |",
        "Sure! Here are my ratings:\n\ntempo = 3\nMOOD (of  it) - 10\ntempo change is 0.",
        "- tempo: <3>\n- mood: [10]\n- tempo  change: 0.0",
        '{"tempo": 3, "mood (of it)": 10, "tempo change": 0}',
    ],
)
def test_answers_that_say_it_in_other_forms(answer):
    found = parse(answer, SONGS)
    assert found.scores == (3, 10, 0) and found.well_formed


@pytest.mark.parametrize(
    ("answer", "scores", "wrong"),
    [
        ("", (None, None, None), (3, 0, 0)),
        ("I cannot rate this song.", (None, None, None), (3, 0, 0)),
        ("tempo: 3\nmood: 4", (3, 4, None), (1, 0, 0)),
        ("tempo: 3\nmood: high\ntempo change: 1", (3, None, 1), (1, 0, 0)),
        ("tempo: 11\nmood: -1\ntempo change: 1", (None, None, 1), (0, 2, 0)),
        ("tempo: 3\ntempo: 5\nmood: 4\ntempo change: 1", (3, 4, 1), (0, 0, 1)),
        ("tempo: 3\nloudness: 5\nmood: 4\ntempo change: 1", (3, 4, 1), (0, 0, 1)),
        ("tempo: 5-7\nmood: 5 to 7\ntempo change: 1", (None, None, 1), (2, 0, 0)),
        ("tempo: 5th\nmood: 50%\ntempo change: 1e3", (None, None, None), (3, 0, 0)),
        ("tempo: 7.5-8\nmood: 7~8\ntempo change: 8\u201110", (None, None, None), (3, 0, 0)),
        ("tempo: 7.5 to 8\nmood: 7.5%\ntempo change: 7 or 8", (None, None, None), (3, 0, 0)),
        ("tempo: 4/5\nmood: 1,000\ntempo change: 4 out of 100", (None, None, None), (3, 0, 0)),
        ("tempo: 8\u20149\nmood: 9/10.\ntempo change: 5, I think", (None, 9, 5), (1, 0, 0)),
        ("uptempo: 5\ntempos: 5", (None, None, None), (3, 0, 2)),
        ("tempo: <rating>\nmood: 4.5\ntempo change: 1", (None, 4.5, 1), (1, 0, 0)),
        ("tempo: " + "9" * 400 + "\nmood: 1\ntempo change: 1", (None, 1, 1), (0, 1, 0)),
    ],
)
def test_missing_extra_and_out_of_range(answer, scores, wrong):
    found = parse(answer, SONGS)
    assert found.scores == scores
    assert (found.missing, found.out_of_range, found.extra) == wrong and not found.well_formed


def test_letters_whose_case_is_a_matter_of_language():
    names = ("İçerik", "I\u015f\u0131k", "intellectual challenge", "Straße")
    aspects = AspectSet("k", tuple(map(Aspect, names)))
    answer = "içerik: 3\n\u0131\u015f\u0131k: 4\nİntellectual challenge: 5\nSTRASSE: 6"
    found = parse(answer, aspects)
    assert found.scores == (3, 4, 5, 6) and found.well_formed
    assert parse("i\u0307ntellectual challenge: 5", aspects).scores == (None,) * 4


def test_the_published_names_come_back():
    for name in ("movies", "clothing", "games"):
        aspects = aspect_set(name)
        chosen = [k % 10 for k in range(12)]
        found = parse(answer_form(aspects).text(chosen), aspects)
        assert found.well_formed and found.scores == tuple(k + 1 for k in chosen)


def test_what_was_wrong_is_counted():
    answers = [parse(text, SONGS) for text in ("", "tempo: 99", "tempo:1 mood:1 tempo change:1")]
    assert counted(answers) == {"malformed": 2, "missing": 5, "out_of_range": 1, "extra": 0}
    assert dataclasses.asdict(answers[2])["scores"] == (1, 1, 1)


def test_long_answers_take_no_time():
    parse(("tempo " * 5 + "x" * 50 + ": \n") * 2000, SONGS)
    parse("a" * 200_000 + ":" * 1000, SONGS)
    parse(" " * 100_000 + "tempo" + "*" * 100_000, SONGS)
