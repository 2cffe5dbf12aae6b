"""Which items a generated text names: exact matching of titles after a stated normalisation.

index = TitleIndex(titles)                       # by item id
index.named("The Matrix, Crying Game")           # [(titles' ids), ...]
index.find("matrix")                             # (5,), all items of that title

Two titles are the same if their normal forms are: Unicode NFKC, case folded, "&" as "and",
apostrophes dropped, every other mark a blank, blanks collapsed, and then one leading article (the,
a, an) dropped. A title of marks alone ("???") is its own normal form. Nothing is a regular
expression made of a title. The strict form is the title itself, blanks collapsed.

A list of titles is split at commas, and a title may have commas itself: of the pieces from each
place on, as many as possible that are together a title of the catalogue are taken as one.
"""

import dataclasses
import difflib
import unicodedata
from collections.abc import Callable, Sequence

_ARTICLES = ("the ", "a ", "an ")
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
    plain = unicodedata.normalize("NFKC", title).casefold().replace("&", " and ")
    words = " ".join(plain.translate(_REPLACEMENTS).split())
    for article in _ARTICLES:
        if words.startswith(article):
            return words.removeprefix(article)
    return words or strict(title)


def strict(title: str) -> str:
    """A title as it is, blanks collapsed."""
    return " ".join(title.split())


def slot(text: str, before: str, after: str) -> str | None:
    """The text between an answer's fixed words, or None if they are not there.

    The last `after` counts, so that a title may hold the same words. An answer that was cut off
    has no `after`: what it has then counts up to its end.

    Args:
        text: an answer.
        before, after: the words of its template around the titles.
    """
    start = text.find(before.strip())
    if start < 0:
        return None
    inside = text[start + len(before.strip()) :]
    end = inside.rfind(after.strip()) if after.strip() else len(inside)
    return (inside if end < 0 else inside[:end]).strip()


@dataclasses.dataclass(frozen=True)
class Named:
    """One title that a text names.

    Attributes:
        text: the words.
        items: ids of all items of that title; () = none of the catalogue.
    """

    text: str
    items: tuple[int, ...]


class TitleIndex:
    """Items by the normal form of their titles.

    Args:
        titles: [I] by item id; "" is no title.
        form: `normalise`, or `strict`.
    """

    def __init__(self, titles: Sequence[str], form: Callable[[str], str] = normalise):
        self._form = form
        self.titles = list(titles)
        by_form: dict[str, list[int]] = {}
        for item, title in enumerate(titles):
            if title.strip():
                by_form.setdefault(form(title), []).append(item)
        self._items = {name: tuple(items) for name, items in by_form.items()}
        self._longest = max((title.count(",") for title in titles), default=0) + 1

    def find(self, text: str) -> tuple[int, ...]:
        """All items whose title this is; two items with one title both count."""
        return self._items.get(self._form(text), ())

    def named(self, text: str) -> list[Named]:
        """The titles in a list with commas, in order; pieces that are none have no items."""
        pieces, out, start = [p for p in text.split(",") if p.strip()], [], 0
        while start < len(pieces):
            for stop in range(min(len(pieces), start + self._longest), start, -1):
                words = ",".join(pieces[start:stop]).strip()
                items = self.find(words)
                if items or stop == start + 1:
                    out.append(Named(words, items))
                    start = stop
                    break
        return out

    def nearest(self, text: str, count: int = 3) -> list[tuple[int, float]]:
        """The items of the most alike titles, with a similarity from 0 to 1 (1 = the same).

        Likeness is difflib's ratio of the normal forms; items of one title come together.
        """
        name = self._form(text)
        matcher = difflib.SequenceMatcher(None, "", name, autojunk=False)
        scored = []
        for other, items in self._items.items():
            matcher.set_seq1(other)
            if matcher.real_quick_ratio() > 0.2:
                scored += [(item, matcher.ratio()) for item in items]
        return sorted(scored, key=lambda pair: (-pair[1], pair[0]))[:count]
