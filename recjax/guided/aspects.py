"""Aspects that a person understands.

    aspects = aspect_set("movies")                        # or "clothing", "games", or a file
    aspects.names                                         # A of them

The three published sets are the paper's (Tables 6 to 8: names, order, scale from 1 to 10); the
descriptions are in our words. A set of one's own is a TOML or JSON file of the same form as
`sets/movies.toml`.
"""

import dataclasses
import re
import tomllib
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recjax.config import nearest, to_plain
from recjax.errors import InputError
from recjax.json_files import read_object
from recjax.paths import home

PUBLISHED = ("movies", "clothing", "games")
ITEM, USER = "item_id", "user_id"
_SETS = Path(__file__).parent / "sets"
_MOST = 100  # aspects of a set, and steps of a scale
_LONGEST = 100  # characters of a name
_LARGEST = 1 << 20  # bytes of a file
_TAIL = re.compile(r"\s*\([^()]*\)\s*$")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@dataclasses.dataclass(frozen=True)
class Aspect:
    """One aspect.

    Attributes:
        name: of its column, and in prompts.
        description: of it, for prompts; may be "".
        low, high: the meaning of the least and of the most; may be "".
    """

    name: str
    description: str = ""
    low: str = ""
    high: str = ""


@dataclasses.dataclass(frozen=True)
class AspectSet:
    """Aspects in their order, all on one scale of whole numbers.

    Attributes:
        name: of the set.
        aspects: A of them.
        item, items: words for one item, and for several.
        least, most: ends of the scale.
    """

    name: str
    aspects: tuple[Aspect, ...]
    item: str = "item"
    items: str = "items"
    least: int = 1
    most: int = 10

    def __len__(self) -> int:
        return len(self.aspects)

    @property
    def names(self) -> tuple[str, ...]:
        """A names."""
        return tuple(aspect.name for aspect in self.aspects)

    @property
    def ratings(self) -> tuple[int, ...]:
        """The whole numbers from least to most."""
        return tuple(range(self.least, self.most + 1))

    def place(self, name: str) -> int:
        """The place of an aspect by its name, without regard to case and a last part in brackets.

        Raises:
            InputError: none of that name; with the nearest.
        """
        places = {plain(own): k for k, own in enumerate(self.names)}
        if plain(name) not in places:
            raise InputError(f"no aspect '{name}' in '{self.name}'; {nearest(name, self.names)}")
        return places[plain(name)]

    def first(self, count: int) -> "AspectSet":
        """The set of the first `count` aspects."""
        if not 0 < count <= len(self):
            raise InputError(f"{count} aspects of '{self.name}': expected 1 to {len(self)}")
        return dataclasses.replace(self, aspects=self.aspects[:count])


def plain(name: str) -> str:
    """A name as names are compared: lower case, single blanks, no last part in brackets."""
    return bare(name).casefold()


def bare(name: str) -> str:
    """A name with single blanks, composed letters and no last part in brackets."""
    return unicodedata.normalize("NFC", " ".join((_TAIL.sub("", name) or name).split()))


def aspect_set(source: str | Path) -> AspectSet:
    """A published set by its name, or one of a TOML or JSON file.

    >>> aspect_set("movies").names[:2]
    ('story complexity', 'dialogue complexity')

    Args:
        source: one of `PUBLISHED`; else the name of a file that ends in .toml or .json.

    Raises:
        InputError: naming the file and key: no such file or set, a key that is missing, unknown or
            of another kind, two aspects of one name, a scale of fewer than two steps.
    """
    path = home(source)
    if str(source) in PUBLISHED:
        path = _SETS / f"{source}.toml"
    elif path.suffix.lower() not in (".toml", ".json"):
        raise InputError(
            f"aspects '{source}': {nearest(source, PUBLISHED)}; or a .toml or .json file"
        )
    as_toml = path.suffix.lower() == ".toml"
    return _built(_read_toml(path) if as_toml else read_object(path), str(path))


def check_set(aspects: AspectSet, where: str) -> None:
    """Whether a set keeps the rules of a file's; `InputError` that begins with `where`."""
    _built(to_plain(aspects), where)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: expected a file")
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
        if len(data) > _LARGEST:
            raise InputError(f"{path}: more than {_LARGEST:,} bytes; expected fewer")
        return tomllib.loads(data.decode("utf-8-sig"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    except InputError:
        raise
    except (ValueError, RecursionError) as error:  # of TOML, and of UTF-8
        raise InputError(f"{path}: not readable as TOML ({error})") from None


def _built(found: Mapping[str, Any], where: str) -> AspectSet:
    """A checked set from the content of a file."""
    fields = _fields(found, AspectSet, where)
    aspects = fields.get("aspects")
    if not isinstance(aspects, list) or not 0 < len(aspects) <= _MOST:
        raise InputError(f"{where}: aspects: expected a list of 1 to {_MOST}")
    rows = []
    for place, entry in enumerate(aspects, start=1):
        own = f"{where}: aspect {place}"
        if isinstance(entry, str):
            entry = {"name": entry}
        if not isinstance(entry, Mapping):
            raise InputError(f"{own}: expected a name, or a table with 'name'")
        rows.append(Aspect(**_fields(entry, Aspect, own)))
    fields["aspects"] = tuple(rows)
    out = AspectSet(**fields)
    if out.least < 0 or not out.least < out.most or out.most - out.least >= _MOST:
        raise InputError(
            f"{where}: a scale from {out.least} to {out.most}; expected 0 <= least < most, at most "
            f"{_MOST} steps"
        )
    seen: dict[str, str] = {plain(name): name for name in (ITEM, USER)}
    for name in out.names:
        if plain(name) in seen:
            raise InputError(f"{where}: aspect '{name}': '{seen[plain(name)]}' is taken already")
        seen[plain(name)] = name
    return out


def _fields(found: Mapping[str, Any], kind: type, where: str) -> dict[str, Any]:
    """The keys of a table, as the fields of a dataclass; texts on one line."""
    known = {field.name: field for field in dataclasses.fields(kind)}
    out: dict[str, Any] = {}
    for key, value in found.items():
        if key not in known:
            raise InputError(f"{where}: unknown key '{key}'; {nearest(key, known)}")
        if key != "aspects":
            wanted = int if known[key].type is int else str
            if type(value) is not wanted:
                expected = "a whole number" if wanted is int else "text"
                raise InputError(f"{where}: {key}: expected {expected}")
        out[key] = " ".join(value.split()) if isinstance(value, str) else value
    for key, field in known.items():
        if field.default is dataclasses.MISSING and out.get(key, "") == "":
            raise InputError(f"{where}: lacks '{key}'")
    for key in ("name", "item", "items"):
        text = out.get(key, "-")
        if not text or len(text) > _LONGEST or _CONTROL.search(text):
            raise InputError(f"{where}: {key}: expected 1 to {_LONGEST} plain characters")
    return out


def check_same(given: AspectSet, other: AspectSet, where: str, expected: str) -> None:
    """Whether two sets have the same names and the same scale.

    Args:
        one, other: the sets; the order of their aspects is of no matter.
        where: `one` comes from, for the error.
        expected: name of the other.

    Raises:
        InputError: naming an aspect that only one of them has, or both scales.
    """
    for first, second, verb in ((other, given, "lacks"), (given, other, "has, beyond it,")):
        names = set(map(plain, second.names))
        for name in first.names:
            if plain(name) not in names:
                raise InputError(f"{where}: expected the aspects of {expected}; it {verb} '{name}'")
    if (given.least, given.most) != (other.least, other.most):
        raise InputError(
            f"{where}: a scale from {given.least} to {given.most}; {expected} has one from "
            f"{other.least} to {other.most}"
        )


def set_of(names: Sequence[str], path: Path) -> AspectSet:
    """The set of a table's columns: a published one, or one of its own.

    Args:
        names: of the columns; where they hold all aspects of a published set and further ones,
            those aspects are described as there.
        path: of the table, whose name is the name of a set of its own.

    Raises:
        InputError: names that no set may have.
    """
    found = set(map(plain, names))
    if len(names) > _MOST:
        raise InputError(f"{path}:1: {len(names)} columns of aspects; expected 1 to {_MOST}")
    stem = " ".join(_CONTROL.sub(" ", path.stem).split())[:_LONGEST]
    own: dict[str, Any] = {"name": stem or "scores", "aspects": list(names)}
    for published in map(aspect_set, PUBLISHED):
        known = {plain(aspect.name): aspect for aspect in published.aspects}
        if known.keys() == found:
            return published
        if known.keys() < found:
            aspects = [to_plain(known.get(plain(name), Aspect(name))) for name in names]
            own |= {"aspects": aspects, "item": published.item, "items": published.items}
            break
    return _built(own, f"{path}:1")
