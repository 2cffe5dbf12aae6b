"""Titles in generated text."""

import doctest
import random

import pytest

from recjax.text import titles as module
from recjax.text.titles import TitleIndex, normalise, slot, strict

ODD = [
    "PAYDAY 2", "Hotline Miami", "PAYDAY 2: Hotline Miami", "A", "A, Tab title", "Tab title", "???",
    "🎮", "...", "Heat", "Heat, ...", "B, C", "A, B", "D,", "D", ", E", "E", "Omen, The", "The",
    "Omen, the band", "Band", "me, you!", "Me", "You!", "AND", "& And, and", "'", "F,, G", "F", "G",
]  # fmt: skip

TITLES = [
    "", "The Matrix", "Matrix", "20,000 Leagues Under the Sea", "Crying Game", "Wonderful Life",
    "???", "Swords and Sorcery - Underworld - Definitive Edition", "C++ (a*b)?", "A", "Leagues",
    "三国志", "Amélie",
]  # fmt: skip


def test_documented_example():
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("THE MATRIX", "matrix"),
        ("Schindler's List", "Schindler\u2019s  List"),
        ("Beauty & the Beast", "beauty and the Beast"),
        ("Swords and Sorcery \u2013 Underworld", "swords and sorcery: underworld"),
        ("Amélie", "Ame\u0301lie"),
        ("ﬁlm", "film"),
    ],
)
def test_same_title(one, other):
    assert normalise(one) == normalise(other)
    assert strict(one) != strict(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Alien", "Aliens"), ("Se7en", "Seven"), ("???", "!!!"), ("A", "The"),
        ("A, Tab title", "Tab title"), ("???, Heat", "Heat"), ("'", ","),
    ],
)  # fmt: skip
def test_different_titles(one, other):
    assert normalise(one) != normalise(other)


def test_two_items_with_one_title_both_count():
    assert TitleIndex(TITLES).find("the matrix") == (1, 2)
    assert TitleIndex(TITLES).spelled("The Matrix") == (1,)
    assert TitleIndex(TITLES).spelled("the matrix") == ()


def test_odd_titles_are_text_not_patterns():
    index = TitleIndex(TITLES)
    assert index.find("???") == (6,)
    assert index.find("C++ (a*b)?") == (8,)
    assert index.find("Caaab") == ()
    assert index.find("三国志") == (11,)
    assert index.find("") == ()


def test_lists_with_commas_in_titles():
    named = TitleIndex(TITLES).named(
        "Matrix, 20,000 Leagues Under the Sea, Nothing Known,, Crying Game,"
    )
    assert [(n.text, n.items) for n in named] == [
        ("Matrix", (1, 2)),
        ("20,000 Leagues Under the Sea", (3,)),
        ("Nothing Known", ()),
        ("Crying Game", (4,)),
    ]


def test_the_longest_title_wins():
    index = TitleIndex(["", "Me", "You", "Me, You"])
    assert [n.items for n in index.named("Me, You, Me")] == [(3,), (1,)]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("PAYDAY 2, Hotline Miami", ["PAYDAY 2", "Hotline Miami"]),
        ("payday 2 - hotline miami, heat", ["payday 2 - hotline miami", "heat"]),
        ("A, Tab title", ["A, Tab title"]),  # letter by letter both ways: the fewest titles
        ("Hotline Miami, A, Band", ["Hotline Miami", "A", "Band"]),
        ("Band, ???, 🎮, Heat", ["Band", "???", "🎮", "Heat"]),
        ("A, B, C", ["A", "B, C"]),  # not "A, B" and a C that is none
        ("omen, band, The Omen, The Band", ["omen", "band", "The Omen, The Band"]),
        ("Me, You!, me, you!", ["Me", "You!", "me, you!"]),
    ],
)
def test_pieces_are_compared_one_by_one(text, names):
    """No mark, comma or article of a title is that of a list."""
    assert [one.text for one in TitleIndex(ODD).named(text)] == names


def test_a_list_of_the_catalogues_own_titles_is_read_letter_by_letter():
    index, rng = TitleIndex(ODD), random.Random(0)
    for _ in range(500):
        said = ", ".join(rng.choices(ODD, k=5))
        assert all(set(index.spelled(one.text)) & set(one.items) for one in index.named(said)), said


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It is Dr. Strangelove, Alien, Heat, Braz", "Dr. Strangelove, Alien, Heat, Braz"),
        ("It is Dr. Strangelove.", "Dr. Strangelove"),
        (" It is Batteries not incl.. ", "Batteries not incl."),
    ],
)
def test_closing_marks_count_at_the_end_alone(text, found):
    assert slot(text, "It is ", ".") == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (" This user watched movie Crying Game in List2 but not in List1.", "Crying Game"),
        ("This user watched movie in List2 but not in List1.", "in List2 but not in List1."[:0]),
        ("This user watched movie In List2 but in List2 but not in List1.", "In List2 but"),
        ("This user watched movie Crying Ga", "Crying Ga"),
        ("Crying Game", None),
    ],
)
def test_slot(text, found):
    assert slot(text, "This user watched movie ", " in List2 but not in List1.") == found


def test_nearest():
    index = TitleIndex(TITLES)
    near = index.nearest("20000 Leagues Under the Seas")
    assert near[0][0] == 3 and 0.9 < near[0][1] < 1
    assert index.nearest("the matrix", 2) == [(1, 1.0), (2, 1.0)]
