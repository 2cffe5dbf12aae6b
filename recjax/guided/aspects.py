"""Aspects that a person understands, and files of scores on them.

    aspects = aspect_set("movies")                        # or "clothing", "games", or a file
    items = read_item_scores("item_scores.tsv", store.catalog)
    users = read_user_scores("user_scores.tsv", store.user_numbers, items.aspects)
    items.attributes().standardized()                     # [I A], a column an aspect

The three published sets are the paper's (Tables 6 to 8: names, order, scale from 1 to 10); the
descriptions are in our words. A set of one's own is a TOML or JSON file of the same form as
`sets/movies.toml`.

Scores are a table (csv, tsv or parquet) with a column of ids, `item_id` or `user_id`, and one for
each aspect; any model or a person may have written it. Beside it may stand the set that it is of,
as `FILE.aspects.json`; without it the columns say which of the published sets it is, and other
columns are a set of their own, from 1 to 10. Where there is no number for an item, the mean of its
aspect over the known ones stands in for it, and is counted.

Letters: I items and padding, U users, A aspects.
"""

import dataclasses
import re
import tomllib
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recjax.config import nearest
from recjax.data.attributes import Attributes, Catalog, read_numbers
from recjax.errors import InputError
from recjax.json_files import read_object
from recjax.paths import home

PUBLISHED = ("movies", "clothing", "games")
ITEM, USER = "item_id", "user_id"
BESIDE = ".aspects.json"  # after a score file's name
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
        """The place of an aspect; case, and a last part in brackets, are of no matter.

        Raises:
            InputError: none of that name; with the nearest.
        """
        places = {plain(own): k for k, own in enumerate(self.names)}
        if plain(name) not in places:
            raise InputError(f"no aspect '{name}' in '{self.name}'; {nearest(name, self.names)}")
        return places[plain(name)]

    def first(self, count: int) -> "AspectSet":
        """The set of the first so many aspects."""
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
        known = ", ".join(map(repr, PUBLISHED))
        raise InputError(f"aspects '{source}': expected {known}, or a .toml or .json file")
    as_toml = path.suffix.lower() == ".toml"
    return _built(_read_toml(path) if as_toml else read_object(path), str(path))


def _read_toml(path: Path) -> dict[str, Any]:
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: expected a file")
    try:
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


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """Scores by item or user.

    Attributes:
        aspects: their set.
        values: [I A] or [U A] float32; the mean of an aspect where there is no number.
        known: [I A] or [U A] bool.
        missing: items or users with no number at all, the padding not counted.
        gaps: single numbers that are missing of the others.
    """

    aspects: AspectSet
    values: np.ndarray
    known: np.ndarray
    missing: int
    gaps: int

    def attributes(self) -> Attributes:
        """As item attributes: an item counts as known where any of its numbers is.

        Standardised, an item without numbers is 0, which is the mean; so is a missing number.
        """
        known = np.asarray(self.known.any(1))
        values = np.where(known[:, None], self.values, 0)
        return Attributes(self.aspects.names, values, known)

    def says(self, what: str = "items") -> str:
        """One line about what is missing; "" where nothing is."""
        parts = []
        if self.missing:
            parts.append(f"{self.missing:,} {what} have no scores")
        if self.gaps:
            parts.append(f"{self.gaps:,} single scores are missing")
        return "; ".join(parts) + ": the mean of the others stands in" if parts else ""


def read_item_scores(
    path: str | Path, catalog: Catalog, aspects: AspectSet | None = None
) -> Scores:
    """Scores of a catalogue's items, [I A]; row 0 (the padding) is not known.

    Args:
        path: of the table, with a column `item_id`; rows of other items are left out.
        catalog: `store.catalog`.
        aspects: the expected set; by default the file says which.

    Raises:
        InputError: naming the file and line: see `recjax.data.attributes.read_numbers`; a number
            out of the scale, columns of another set, no item of the catalogue.
    """
    ids = {str(record["key"]): k for k, record in enumerate(catalog) if record}
    return read_scores(path, ids, len(catalog), ITEM, aspects)


def read_user_scores(
    path: str | Path, users: Mapping[str, int], aspects: AspectSet | None = None
) -> Scores:
    """Scores of users, [U A].

    Args:
        path: of the table, with a column `user_id`.
        users: raw id -> number, such as `store.user_numbers`.
        aspects: the expected set, such as that of the items.

    Raises:
        InputError: see `read_item_scores`.
    """
    return read_scores(path, users, len(users), USER, aspects)


def read_scores(
    path: str | Path, ids: Mapping[str, int], rows: int, key: str, aspects: AspectSet | None = None
) -> Scores:
    """Scores by raw id; `read_item_scores` and `read_user_scores` are the usual ways.

    Args:
        path: of the table.
        ids: raw id -> row of the result.
        rows: of the result.
        key: name of the column of ids, `ITEM` or `USER`.
        aspects: the expected set; by default the file says which.

    Raises:
        InputError: see `read_item_scores`.
    """
    path = home(path)
    own = _set_beside(path)
    if own is not None and aspects is not None:
        check_same(own, aspects, f"{path}{BESIDE}", f"'{aspects.name}'")
    scale = own or aspects
    ends = (scale.least, scale.most) if scale else (1, 10)
    sets: list[AspectSet] = []

    def check(names: tuple[str, ...]) -> None:
        if not names:
            raise InputError(f"{path}:1: no column beside '{key}'; expected one for each aspect")
        sets.append(aspects or own or _set_of(names, path))
        _check_columns(names, sets[0], path)

    names, values = read_numbers(path, ids, rows, key, within=ends, gaps=True, check=check)
    chosen, found = sets[0], list(map(plain, names))
    values = values[:, [found.index(plain(name)) for name in chosen.names]]
    known = ~np.isnan(values)
    if not known.any():
        raise InputError(f"{path}: no score of a known {key.removesuffix('_id')} (column '{key}')")
    counts = known.sum(0)
    means = np.where(known, values, 0).sum(0) / np.maximum(counts, 1)
    means = np.where(counts > 0, means, sum(ends) / 2)
    some = known.any(1)
    return Scores(
        chosen,
        np.where(known, values, means).astype(np.float32),
        known,
        missing=len(ids) - int(some.sum()),
        gaps=int((~known[some]).sum()),
    )


def check_same(one: AspectSet, other: AspectSet, where: str, expected: str) -> None:
    """Whether two sets have the same names and the same scale.

    Args:
        one, other: the sets; the order of their aspects is of no matter.
        where: `one` comes from, for the error.
        expected: name of the other.

    Raises:
        InputError: naming an aspect that only one of them has, or both scales.
    """
    for first, second, said in ((other, one, "lacks"), (one, other, "has, beyond it,")):
        names = set(map(plain, second.names))
        for name in first.names:
            if plain(name) not in names:
                raise InputError(f"{where}: expected the aspects of {expected}; it {said} '{name}'")
    if (one.least, one.most) != (other.least, other.most):
        raise InputError(
            f"{where}: a scale from {one.least} to {one.most}; {expected} has one from "
            f"{other.least} to {other.most}"
        )


def _set_beside(path: Path) -> AspectSet | None:
    beside = path.with_name(path.name + BESIDE)
    return aspect_set(beside) if beside.exists() else None


def _check_columns(names: Sequence[str], aspects: AspectSet, path: Path) -> None:
    """Whether the columns are the aspects of a set, one for each."""
    wanted, found = set(map(plain, aspects.names)), list(map(plain, names))
    for name in aspects.names:
        if plain(name) not in found:
            raise InputError(
                f"{path}:1: no column for the aspect '{name}' of '{aspects.name}'; "
                f"{nearest(name, names)}"
            )
    for place, name in enumerate(names):
        if plain(name) not in wanted:
            raise InputError(
                f"{path}:1: the column '{name}' is no aspect of '{aspects.name}'; "
                f"{nearest(name, aspects.names)}"
            )
        if plain(name) in found[:place]:
            first = names[found.index(plain(name))]
            raise InputError(f"{path}:1: the columns '{first}' and '{name}' are one aspect")


def _set_of(names: Sequence[str], path: Path) -> AspectSet:
    """The published set whose aspects all are columns, else one of the columns alone."""
    found = set(map(plain, names))
    for published in PUBLISHED:
        known = aspect_set(published)
        if set(map(plain, known.names)) == found:
            return known
    if len(names) > _MOST:
        raise InputError(f"{path}:1: {len(names)} columns of aspects; expected 1 to {_MOST}")
    stem = " ".join(_CONTROL.sub(" ", path.stem).split())[:_LONGEST]
    return _built({"name": stem or "scores", "aspects": list(names)}, f"{path}:1")
