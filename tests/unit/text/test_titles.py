"""Titles in generated text."""

import doctest

import pytest

from recjax.text import titles as module
from recjax.text.titles import TitleIndex, normalise, slot, strict

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
    ("one", "other"), [("Alien", "Aliens"), ("Se7en", "Seven"), ("???", "!!!"), ("A", "The")]
)
def test_different_titles(one, other):
    assert normalise(one) != normalise(other)


def test_two_items_with_one_title_both_count():
    assert TitleIndex(TITLES).find("the matrix") == (1, 2)
    assert TitleIndex(TITLES, strict).find("The Matrix") == (1,)
    assert TitleIndex(TITLES, strict).find("the matrix") == ()


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
