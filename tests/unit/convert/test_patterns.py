"""Patterns of others: `re` and the bounded matcher agree, and no pattern takes long."""

import random
import re

import pytest

from recjax.convert.patterns import Budget, PatternError, matcher

_ATOMS = (
    "a", "b", ".", "[ab]", "[^a]", "[^ab]", "[^.0-9]", r"\d", r"\w", r"\W", r"\.", "(?:a|b)",
    "(a|ab)", "a*", "b+?", "(?=a)", "(?!b)", "^", "$", r"\b", r"\B", "(a*)*", "(?:ab?){1,3}",
    "(a|)*", "(?:a?){3,}",
)  # fmt: skip
_TIMES = ("", "", "*", "?", "{0,2}", "{2}")


def test_it_agrees_with_re():
    rng = random.Random(0)
    seen = {True: 0, False: 0}
    for _ in range(3000):
        pattern = "".join(rng.choice(_ATOMS) + rng.choice(_TIMES) for _ in range(rng.randint(1, 4)))
        try:
            expected = re.compile(pattern)
        except re.error:
            continue
        matches = matcher(pattern, Budget())
        for _ in range(4):
            text = "".join(rng.choice("ab1. ") for _ in range(rng.randint(1, 6)))
            start = rng.choice((0, 0, 1))
            found = expected.fullmatch(text, start) is not None
            assert matches(text, start) == found, (pattern, text, start)
            seen[found] += 1
    assert min(seen.values()) > 400


@pytest.mark.parametrize(
    "pattern", ["(a+)+b", "(a|a)*b", "((a*)*)*b", "a{1000000000}", "(.*){1000}b", "(a|a)" * 200]
)
def test_what_takes_re_for_ever(pattern):
    budget = Budget()
    assert not matcher(pattern, budget)("a" * 60)
    assert budget.steps > 400_000


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("[", "no regular expression (unterminated character set"),
        ("(" * 900 + "a" + ")" * 900, "no regular expression (maximum recursion"),
        ("a" * 2001, "2,001 characters, expected at most 2,000"),
        ("(?<=a)b", "assert is not implemented"),
        (r"(a)\1", "groupref is not implemented"),
        ("(?i)a", "flags in a pattern"),
        ("(?i:a)", "flags in a pattern"),
        ("(?>a)b", "atomic_group is not implemented"),
        ("a++b", "possessive_repeat is not implemented"),
    ],
)
def test_what_is_refused(pattern, message):
    with pytest.raises(PatternError) as error:
        matcher(pattern, Budget())("aab")
    assert message in str(error.value)


def test_matchers_share_a_budget():
    budget = Budget(100)
    for _ in range(2):
        matcher("(a|b)*", budget)("abab")
    with pytest.raises(PatternError, match="too many ways"):
        matcher("(a|b)*", budget)("ab" * 30)
