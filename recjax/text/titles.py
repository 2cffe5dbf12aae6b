"""Which items a generated text names: exact matching of titles after a stated normalisation.

index = TitleIndex(titles)                       # by item id
index.named("The Matrix, Crying Game")           # [(titles' ids), ...]
index.find("matrix")                             # (5,), all items of that title
index.spelled("The Matrix")                      # (5,), letter by letter

Two titles are the same if their normal forms are: Unicode NFKC, case folded, "&" as "and",
apostrophes dropped, every other mark a blank, blanks collapsed, and then one leading article (the,
a, an) dropped, unless a comma follows it. Marks alone ("???") are their own normal form. Nothing is
a regular expression made of a title. The strict form is the title itself, blanks collapsed.

A list of titles is split at commas, and a title may have commas itself. Pieces in a row are such a
title if each has the form of the title's own piece. Of all ways to join pieces that one is taken
which has the fewest unknown titles, then the fewest that are not letter by letter the catalogue's,
then the fewest titles: a list of the catalogue's own titles is read as such.
"""

import dataclasses
import difflib
import unicodedata
from collections.abc import Hashable, Iterable, Sequence
from typing import TypeVar

_ARTICLES = ("the ", "a ", "an ")
_Key = TypeVar("_Key", bound=Hashable)
_DROPPED = frozenset("'`\u2019\u2018\u00b4\u02bc")  # apostrophes


class _Replacements(dict[int, str]):
    """Replacements of characters, by code: a text has few, and long lists of answers many."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        is_mark = unicodedata.category(character)[0] in "PSZC"
        replacement = "" if character in _DROPPED else " " if is_mark else character
        return self.setdefault(code, replacement)


_REPLACEMENTS = _Replacements()


def normalise(title: str) -> str:
    """A title's normal form; see above.

    >>> normalise("The  Silence of the Lambs!"), normalise("Schindler's List & You")
    ('silence of the lambs', 'schindlers list and you')
    """
    return " ".join(filter(None, _forms(title))) or strict(title)


def _forms(title: str) -> tuple[str, ...]:
    """The normal forms of the pieces between commas; the first one has no article."""
    first, *rest = map(_form, title.split(","))
    for article in _ARTICLES:
        if first.startswith(article):
            first = first.removeprefix(article)
            break
    return (first, *rest)


def _form(piece: str) -> str:
    """The normal form with its article."""
    plain = unicodedata.normalize("NFKC", piece).casefold().replace("&", " and ")
    return " ".join(plain.translate(_REPLACEMENTS).split()) or strict(piece)


def strict(title: str) -> str:
    """A title as it is, blanks collapsed."""
    return " ".join(title.split())


def slot(text: str, before: str, after: str) -> str | None:
    """The text between an answer's fixed words, or None if they are not there.

    The last `after` counts, so that a title may hold the same words. An answer that was cut off
    has no `after`: what it has then counts up to its end. An `after` of marks alone ("."), which
    titles hold, too, counts at the end only.

    Args:
        text: an answer.
        before, after: the words of its template around the titles.
    """
    start = text.find(before.strip())
    if start < 0:
        return None
    inside, after = text[start + len(before.strip()) :].strip(), after.strip()
    if not any(map(str.isalnum, after)):
        return inside.removesuffix(after).strip()
    end = inside.rfind(after)
    return (inside if end < 0 else inside[:end]).strip()


def _grouped(pairs: Iterable[tuple[_Key, int]]) -> dict[_Key, tuple[int, ...]]:
    """Items by their key."""
    groups: dict[_Key, list[int]] = {}
    for key, item in pairs:
        groups.setdefault(key, []).append(item)
    return {key: tuple(items) for key, items in groups.items()}


@dataclasses.dataclass(frozen=True)
class Named:
    """One title that a text names.

    Attributes:
        text: the words.
        items: ids of all items of that title; () = none of the catalogue.
    """

    text: str
    items: tuple[int, ...]


# How a list is read from a place on: how many titles are unknown, how many not letter by letter,
# and how many there are; the first one; and where the next begins.
_Reading = tuple[tuple[int, int, int], Named | None, int]


class TitleIndex:
    """Items by the forms of their titles.

    Args:
        titles: [I] by item id; "" is no title.
    """

    def __init__(self, titles: Sequence[str]):
        self.titles = list(titles)
        known = [(item, title) for item, title in enumerate(titles) if title.strip()]
        self._items = _grouped((normalise(title), item) for item, title in known)
        self._spelled = _grouped((strict(title), item) for item, title in known)
        # Titles with commas, by their pieces; and the most pieces after each first one.
        self._pieces = _grouped((_forms(title), item) for item, title in known if "," in title)
        self._longest: dict[str, int] = {}
        for first, *rest in self._pieces:
            self._longest[first] = max(self._longest.get(first, 0), len(rest))

    def find(self, text: str) -> tuple[int, ...]:
        """All items whose title this is; two items with one title both count."""
        return self._items.get(normalise(text), ())

    def spelled(self, text: str) -> tuple[int, ...]:
        """All items whose title this is letter by letter."""
        return self._spelled.get(strict(text), ())

    def named(self, text: str) -> list[Named]:
        """The titles in a list with commas, in order; pieces that are none have no items."""
        pieces = text.split(",")
        first, rest = [normalise(piece) for piece in pieces], [_form(piece) for piece in pieces]
        # The best reading from each place on, the last place first.
        best: list[_Reading] = [((0, 0, 0), None, 0)]
        for start in reversed(range(len(pieces))):
            ways: list[_Reading] = []
            most = min(len(pieces) - start, 1 + self._longest.get(first[start], 0))
            for count in range(most, 0, -1):
                stop = start + count
                words = ",".join(pieces[start:stop]).strip()
                items = self._pieces.get((first[start], *rest[start + 1 : stop]), ())
                if count == 1:
                    items = self.find(words)
                if count > 1 and not items:
                    continue
                unknown, unspelled, titles = best[-count][0]
                if words:
                    unknown += not items
                    unspelled += not self.spelled(words)
                    titles += 1
                named = Named(words, items) if words else None
                ways.append(((unknown, unspelled, titles), named, stop))
            best.append(min(ways, key=lambda way: way[0]))
        best.reverse()
        out, place = [], 0
        while place < len(pieces):
            _, title, place = best[place]
            if title is not None:
                out.append(title)
        return out

    def nearest(self, text: str, count: int = 3) -> list[tuple[int, float]]:
        """The items of the most alike titles, with a similarity from 0 to 1 (1 = the same).

        Likeness is difflib's ratio of the normal forms; items of one title come together.
        """
        name = normalise(text)
        matcher = difflib.SequenceMatcher(None, "", name, autojunk=False)
        scored = []
        for other, items in self._items.items():
            matcher.set_seq1(other)
            if matcher.real_quick_ratio() > 0.2:
                scored += [(item, matcher.ratio()) for item in items]
        return sorted(scored, key=lambda pair: (-pair[1], pair[0]))[:count]
