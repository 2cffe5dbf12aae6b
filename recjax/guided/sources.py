"""Sources of an embedding's guided part: scores of aspects, attributes, vectors of texts.

One door: `config.guided.items` names sources, and each becomes columns by item id.

    scores:item_scores.tsv    a score file (`recjax.guided.aspects`)
    labels:genres             labels of the catalogue, a column of zeros and ones each
    number:price              a number of the catalogue
    words:title,genres        vectors of words of the catalogue (`recjax.data.words`)
    array:vectors.npz         `item_id` [n] raw ids and `values` [n A], e.g. an LLM's text vectors

Columns are standardised over the items that have them. An item that a source does not have gets the
mean (0), and is counted. Letters: I items and padding, U users, A columns.
"""

import dataclasses
import functools
import hashlib
from pathlib import Path
from typing import Any, Literal

import numpy as np

from recjax.array_files import read_npz
from recjax.config import nearest
from recjax.data.attributes import Attributes, multi_hot, numbers
from recjax.data.prepare import resolve
from recjax.data.store import Store
from recjax.data.words import word_vectors
from recjax.errors import InputError
from recjax.guided.aspects import AspectSet
from recjax.guided.score_files import read_item_scores, read_user_scores
from recjax.paths import names as names_of
from recjax.ranges import Checked, Count, FieldError

KINDS = ("scores", "labels", "number", "words", "array")
_RECENT = "recent"
_LARGEST = 1e15  # of an array's values: squares of a catalogue's have a sum in float32


@dataclasses.dataclass(frozen=True)
class GuidedConfig(Checked):
    """Section `guided`: where the guided part of items and users comes from."""

    items: tuple[str, ...] = ()  # sources, KIND:NAME
    columns: tuple[str, ...] = ("all",)  # which of the aspects; all
    at_least: Count = 10  # of labels: those of fewer items are left out
    # "recent:K": the mean of the last K items of the history (0: of all in the window);
    # "scores:FILE": by raw user id, with the items' columns; a user without a row is average.
    vector: str = "recent:10"
    # Scores of users are standardised by the moments of "users" (which leaves how each differs
    # from the others) or of "items" (which leaves what all want, too: so a policy is rewarded).
    moments: Literal["users", "items"] = "users"
    control: Literal["none", "shuffled", "random"] = "none"  # items' scores, by the run's seed

    def __post_init__(self):
        super().__post_init__()
        if not self.items:
            raise FieldError("items", f"expected at least one source (KIND:NAME, {_kinds()})")
        for spec in self.items:
            kind, colon, name = spec.partition(":")
            if kind not in KINDS or not colon or not name:
                raise FieldError("items", f"expected KIND:NAME ({_kinds()}), got '{spec}'")
        if not self.columns:
            raise FieldError("columns", "expected names of columns, or 'all'")
        kind, _, rest = self.vector.partition(":")
        if not (kind == _RECENT and rest.isdecimal()) and not (kind == "scores" and rest):
            raise FieldError("vector", f"expected recent:K or scores:FILE, got '{self.vector}'")
        if self.moments != "users" and kind == _RECENT:
            raise FieldError("moments", "is of scores of users: expected vector scores:FILE")
        doubled = sorted({name for name in self.columns if self.columns.count(name) > 1})
        if doubled:
            raise FieldError("columns", f"'{doubled[0]}' stands there twice")

    @property
    def recent(self) -> int | None:
        """K; None where users have scores of their own."""
        kind, _, rest = self.vector.partition(":")
        return int(rest) if kind == _RECENT else None

    def settled(self) -> "GuidedConfig":
        """This config with absolute paths; `InputError` if a file is missing."""
        return dataclasses.replace(
            self,
            items=tuple(_absolute(spec, "items") for spec in self.items),
            vector=_absolute(self.vector, "vector"),
        )


def _kinds() -> str:
    return ", ".join(KINDS)


def _absolute(spec: str, key: str) -> str:
    kind, _, name = spec.partition(":")
    if kind not in ("scores", "array"):
        return spec
    return f"{kind}:{resolve(name, f'config.guided.{key}').absolute()}"


@dataclasses.dataclass(frozen=True, eq=False)
class Guided:
    """The guided part of the items and users of a data set.

    Attributes:
        names: A names of the columns.
        items: [I A] float32, standardised over the known items; 0 where an item is not known.
        known: [I] bool; row 0 is the padding.
        users: [U A] float32 of a file of users, standardised (`GuidedConfig.moments`); 0 of those
            that it has not; or None.
        users_known: [U] bool, or None.
        recent: K of "recent:K", or None.
        aspects: the set of each scores source, in their order.
        gaps: single numbers that are missing of items that have others.
    """

    names: tuple[str, ...]
    items: np.ndarray
    known: np.ndarray
    users: np.ndarray | None = None
    users_known: np.ndarray | None = None
    recent: int | None = None
    aspects: tuple[AspectSet, ...] = ()
    gaps: int = 0

    @functools.cached_property
    def fingerprint(self) -> str:
        """A digest of these numbers."""
        digest = hashlib.sha256("\t".join(self.names).encode())
        for array in (self.items, self.users):
            digest.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]

    @property
    def missing(self) -> dict[str, int]:
        """The numbers of items and of users that no source has; they count as average."""
        out = {"items": int((~self.known[1:]).sum())}
        if self.users_known is not None:
            out["users"] = int((~self.users_known).sum())
        return out

    def describe(self) -> str:
        """One line: how many columns, and for whom they are missing."""
        missing = self.missing
        parts = [f"guided: {len(self.names)} columns; {missing['items']:,} items without scores"]
        parts += [f"{missing['users']:,} users without scores"] if "users" in missing else []
        parts += [f"{self.gaps:,} single scores missing"] if self.gaps else []
        average = self.gaps or any(missing.values())
        return ", ".join(parts) + (" (they count as average)" if average else "")


def read_guided(config: GuidedConfig, store: Store, seed: int = 0) -> Guided:
    """Reads the sources that a config names.

    Args:
        config: section `guided`.
        store: the data; raw ids are those of its catalogue and users.
        seed: of the controls.

    Raises:
        InputError: naming the file and line, or the key: a source that cannot be read, scores out
            of the scale, an item twice, a column twice, users with other columns than items.
    """
    absolute = config.settled()
    scored = {
        spec: read_item_scores(spec.partition(":")[2], store.catalog)
        for spec in absolute.items
        if spec.startswith("scores:")
    }
    parts = [
        scored[spec].attributes() if spec in scored else _source(spec, config, store)
        for spec in absolute.items
    ]
    names = tuple(name for part in parts for name in part.names)
    duplicates = sorted({name for name in names if names.count(name) > 1})
    if duplicates:
        raise InputError(
            f"config.guided.items: column '{duplicates[0]}' in two sources; expected one"
        )
    values = np.concatenate([part.standardized() for part in parts], axis=1)
    known = np.any([part.known for part in parts], axis=0)
    places = _places(config, names)
    names = tuple(names[place] for place in places)
    values = values[:, places]
    rng = np.random.default_rng([seed, 25])
    if config.control == "shuffled":
        order = 1 + rng.permutation(len(values) - 1)
        values[1:], known[1:] = values[order], known[order]
    elif config.control == "random":
        values = rng.standard_normal(values.shape).astype(np.float32)
        values[0], known[1:] = 0, True
    sets = tuple(scores.aspects for scores in scored.values())
    users = users_known = None
    if config.recent is None:
        if len(parts) != 1 or not sets:
            raise InputError(
                f"config.guided.vector: '{config.vector}' has scores of aspects; expected "
                "config.guided.items to be one scores:FILE of the same aspects"
            )
        path = absolute.vector.partition(":")[2]
        user_scores = read_user_scores(path, store.user_numbers, sets[0]).attributes()
        by = (parts[0] if config.moments == "items" else user_scores).moments()
        users, users_known = user_scores.standardized(by)[:, places], user_scores.known
    gaps = sum(scores.gaps for scores in scored.values())
    some = np.any([part.known for part in parts], axis=0)  # items that some source has
    gaps += sum(int((some & ~part.known)[1:].sum()) * len(part.names) for part in parts)
    return Guided(names, values, known, users, users_known, config.recent, sets, gaps)


def _source(spec: str, config: GuidedConfig, store: Store) -> Attributes:
    kind, _, name = spec.partition(":")
    try:
        if kind == "labels":
            labels = multi_hot(store.catalog, name, config.at_least)
            if not labels.names:
                raise InputError(f"no label of '{name}' is of {config.at_least} items")
            return labels
        if kind == "number":
            options = store.manifest.get("options", {}).get("options") or {}
            return numbers(store.catalog, name, options.get("decimal", "."))
        if kind == "words":
            return word_vectors(store.catalog, names_of(name))
    except InputError as error:
        raise InputError(f"config.guided.items: {spec}: {error}") from None
    return _read_array(Path(name), store.catalog)


def _read_array(path: Path, catalog: Any) -> Attributes:
    """`item_id` [n], `values` [n A] and the optional `names` [A] of an .npz file."""
    arrays = read_npz(path)
    if not {"item_id", "values"} <= arrays.keys():
        raise InputError(f"{path}: expected arrays item_id [n] and values [n A]")
    ids, given = arrays["item_id"].reshape(-1), arrays["values"]
    keys = [key.decode("utf-8", "replace") if isinstance(key, bytes) else str(key) for key in ids]
    is_table = given.ndim == 2 and len(given) == len(keys) and given.shape[1] > 0
    if not is_table or given.dtype.kind not in "fiu":
        raise InputError(
            f"{path}: values: expected numbers [{len(keys)}, A], a row for each item_id, got "
            f"{given.dtype} {list(given.shape)}"
        )
    is_sound = np.abs(given) < _LARGEST  # NaN is not
    if not is_sound.all():
        row = int(np.flatnonzero(~is_sound.all(axis=1))[0])
        raise InputError(
            f"{path}: values: item {keys[row]} has a number that is not finite, or not below "
            f"{_LARGEST:g}"
        )
    if len(set(keys)) != len(keys):
        double = next(key for n, key in enumerate(keys) if key in set(keys[:n]))
        raise InputError(f"{path}: item_id: item {double} a second time")
    default = [f"{path.stem} {n}" for n in range(given.shape[1])]
    names = tuple(map(str, np.atleast_1d(arrays.get("names", default))))
    if len(names) != given.shape[1]:
        raise InputError(f"{path}: names: {len(names)}, expected {given.shape[1]}")
    row_of = {key: row for row, key in enumerate(keys)}
    values = np.zeros((len(catalog), len(names)), np.float32)
    known = np.zeros(len(catalog), bool)
    for item, record in enumerate(catalog):
        at = row_of.get(str(record["key"])) if record else None
        if at is not None:
            values[item], known[item] = given[at], True
    if not known.any():
        raise InputError(f"{path}: item_id: no item of the catalogue")
    return Attributes(names, values, known)


def _places(config: GuidedConfig, names: tuple[str, ...]) -> list[int]:
    """The places of the columns that a config asks for."""
    if config.columns == ("all",):
        return list(range(len(names)))
    for name in config.columns:
        if name not in names:
            raise InputError(f"config.guided.columns: no column '{name}'; {nearest(name, names)}")
    return [names.index(name) for name in config.columns]
