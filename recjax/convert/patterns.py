"""Regular expressions from files of others: matched in bounded time.

Python's `re` tries one way after another, and a pattern such as `(a+)+b` has exponentially many.
Here the set of all places that a part of the pattern can end at is followed instead, and each step
counts against a budget. Whether a whole text matches is the same: only a group's content, which
nobody asks for, depends on the way.
"""

import re
from collections.abc import Callable
from re import _constants as codes  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

LONGEST = 2000  # characters of a pattern
_STEPS = 600_000  # of all texts together: a second or two
_PLAIN = re.compile(r"[^*+?{|(\\\[]*")  # `re` has one way only through such a pattern
_CLASSES: dict[Any, Callable[[str], bool]] = {
    codes.CATEGORY_DIGIT: str.isdecimal,
    codes.CATEGORY_SPACE: str.isspace,
    codes.CATEGORY_WORD: lambda c: c.isalnum() or c == "_",
}
_NOT = {
    codes.CATEGORY_NOT_DIGIT: codes.CATEGORY_DIGIT,
    codes.CATEGORY_NOT_SPACE: codes.CATEGORY_SPACE,
    codes.CATEGORY_NOT_WORD: codes.CATEGORY_WORD,
}


class PatternError(ValueError):
    """A pattern that is broken, too costly, or beyond what is implemented."""


class Budget:
    """Steps that are left to all the matchers that share it."""

    def __init__(self, steps: int = _STEPS):
        self.steps = steps

    def spend(self) -> None:
        """Counts one step; raises when none is left."""
        self.steps -= 1
        if self.steps < 0:
            raise PatternError("too many ways to match; expected a simpler pattern")


def matcher(pattern: str, budget: Budget) -> Callable[..., bool]:
    """`(text, start=0)`: whether the pattern matches the text from there to its end, as
    `re.compile(pattern).fullmatch(text, start)` tells it: `^` is the text's beginning alone.

    Args:
        pattern: of Python's `re`, without flags, references back, and looks behind.
        budget: of the file that the pattern stands in.

    Raises:
        PatternError: at once, or by the matcher that is returned: broken, too long, not
            implemented, or the budget is spent.
    """
    if len(pattern) > LONGEST:
        raise PatternError(f"{len(pattern):,} characters, expected at most {LONGEST:,}")
    try:
        if _PLAIN.fullmatch(pattern):
            compiled = re.compile(pattern)
            return lambda text, start=0: compiled.fullmatch(text, start) is not None
        tree = parser.parse(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise PatternError(f"no regular expression ({error})") from None
    if tree.state.flags & ~re.UNICODE.value:
        raise PatternError("flags in a pattern are not implemented")
    search = _Search(budget)

    def matches(text: str, start: int = 0) -> bool:
        if text != search.text:
            search.text, search.known = text, {}
        try:
            return len(text) in search.sequence(tree, frozenset({start}))
        except RecursionError:
            raise PatternError("nested too deeply") from None

    return matches


class _Search:
    """The places in a text that parts of a pattern end at."""

    def __init__(self, budget: Budget):
        self.text, self.budget = "", budget
        self.known: dict[tuple[int, int], frozenset[int]] = {}

    def sequence(self, items: Any, starts: frozenset[int]) -> frozenset[int]:
        for code, value in items:
            starts = frozenset().union(*(self.one(code, value, at) for at in starts))
            if not starts:
                break
        return starts

    def one(self, code: Any, value: Any, at: int) -> frozenset[int]:
        self.budget.spend()
        if code in (codes.LITERAL, codes.NOT_LITERAL, codes.ANY, codes.IN):
            fits = at < len(self.text) and _fits(code, value, self.text[at])
            return frozenset({at + 1}) if fits else frozenset()
        if code is codes.AT:
            return frozenset({at}) if self.anchored(value, at) else frozenset()
        key = (id(value), at)
        if key not in self.known:
            self.known[key] = self.compound(code, value, at)
        return self.known[key]

    def compound(self, code: Any, value: Any, at: int) -> frozenset[int]:
        here = frozenset({at})
        if code is codes.SUBPATTERN:
            _, on, off, items = value
            if on or off:
                raise PatternError("flags in a pattern are not implemented")
            return self.sequence(items, here)
        if code is codes.BRANCH:
            return frozenset().union(*(self.sequence(way, here) for way in value[1]))
        if code in (codes.MAX_REPEAT, codes.MIN_REPEAT):
            least, most, items = value
            return self.repeated(least, most, items, here)
        if code in (codes.ASSERT, codes.ASSERT_NOT) and value[0] > 0:
            found = bool(self.sequence(value[1], here))
            return here if found == (code is codes.ASSERT) else frozenset()
        raise PatternError(f"{str(code).lower()} is not implemented")

    def repeated(self, least: int, most: Any, items: Any, ends: frozenset[int]) -> frozenset[int]:
        # After as many turns as there are places, one more changes nothing: a turn moves on, or
        # has stood still before and can again.
        enough = len(self.text) + 1
        for _ in range(min(least, enough)):
            ends = self.sequence(items, ends)
        more, new = min(int(most) - least, enough), ends
        while more > 0 and new:
            new = self.sequence(items, new) - ends
            ends, more = ends | new, more - 1
        return ends

    def anchored(self, what: Any, at: int) -> bool:
        if what in (codes.AT_BEGINNING, codes.AT_BEGINNING_STRING):
            return at == 0
        if what is codes.AT_END_STRING:
            return at == len(self.text)
        if what is codes.AT_END:
            return at == len(self.text) or self.text[at:] == "\n"
        word = [
            0 <= k < len(self.text) and _CLASSES[codes.CATEGORY_WORD](self.text[k])
            for k in (at - 1, at)
        ]
        return (word[0] != word[1]) == (what is codes.AT_BOUNDARY)


def _fits(code: Any, value: Any, char: str) -> bool:
    if code is codes.LITERAL:
        return ord(char) == value
    if code is codes.NOT_LITERAL:
        return ord(char) != value
    if code is codes.ANY:
        return char != "\n"
    if code is codes.RANGE:
        return value[0] <= ord(char) <= value[1]
    if code is codes.CATEGORY:
        return not _CLASSES[_NOT[value]](char) if value in _NOT else _CLASSES[value](char)
    negated = bool(value) and value[0][0] is codes.NEGATE
    return any(_fits(kind, part, char) for kind, part in value[negated:]) != negated
