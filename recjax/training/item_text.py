"""Given vectors of the items (of their texts, say) in any recommender's item table.

Section `items`:

    config.items = {"vectors": "words:title,categories", "use": "features"}
    config.items = {"vectors": "beauty_vectors.parquet", "use": "null_space", "kept": 32}

`words:KEYS` makes them of the catalogue's own texts (`recjax.data.words`). A file has a column
`item_id` and columns of numbers (`recjax.data.attributes.read_scores`); `scripts/item_vectors.py`
writes one of a language model's vectors.

- "start": the vectors' D first principal components are where the table starts; it is trained.
- "adapter": an item's vector is a trained linear map of its given one, which is frozen.
- "features": the same, and a trained vector of its own is added.
- "null_space": the first `kept` principal components, each of deviation 1, are frozen numbers of
  every item's vector; the others, where texts hardly differ, are trained from 0 as vectors of ids
  are (AlphaFuse, Hu et al., SIGIR 2025). Components that nothing is left of are the null space.

Letters: I items and padding, D the model's width, A numbers of a given vector.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import numpy as np

from recjax.data.attributes import Attributes, Catalog, read_scores
from recjax.data.prepare import resolve
from recjax.data.words import word_vectors
from recjax.errors import InputError
from recjax.models.given_items import FEATURES, KNOWN, OWN
from recjax.paths import names
from recjax.ranges import Checked, FieldError, Size
from recjax.replace import new_file
from recjax.training.freezing import Rules


@dataclasses.dataclass(frozen=True)
class ItemsConfig(Checked):
    """Section `items`: vectors of the items that are given."""

    # words:KEYS; or a csv, tsv or parquet file, as given or under RECJAX_DATA; "" = none
    vectors: str = ""
    use: Literal["start", "adapter", "features", "null_space"] = "start"
    kept: Size = 32  # null_space: principal components that are frozen

    def __post_init__(self):
        super().__post_init__()
        if not self.vectors and self.use != "start":
            raise FieldError("vectors", f"is empty: use '{self.use}' needs some")
        if self.use != "null_space" and self.kept != ItemsConfig.kept:
            raise FieldError("kept", "is of use 'null_space'")


def principal(given: Attributes, count: int) -> np.ndarray:
    """The first principal components [I count] of known items, each of deviation 1; else 0.

    Components beyond the vectors' rank are 0.
    """
    known = given.values[given.known].astype(np.float64)
    known -= known.mean(axis=0)
    values, axes = np.linalg.eigh(known.T @ known / len(known))
    values, axes = values[::-1][:count], axes[:, ::-1][:, :count]
    real = values > 1e-9 * max(values[0], 1e-30)
    out = np.zeros((len(given.values), count), np.float32)
    scale = np.where(real, 1 / np.sqrt(np.where(real, values, 1.0)), 0.0)
    out[given.known, : len(values)] = known @ axes * scale
    return out


def _given(source: str, catalog: Catalog) -> Attributes:
    kind, _, keys = source.partition(":")
    if kind != "words":
        return read_scores(resolve(source, "config.items.vectors"), catalog)
    try:
        return word_vectors(catalog, names(keys))
    except InputError as error:
        raise InputError(f"config.items.vectors: {source}: {error}") from None


def item_arrays(
    config: ItemsConfig, catalog: Catalog, model: Any, seed: int
) -> tuple[dict[str, np.ndarray], Rules]:
    """Arrays by parameter path, and rules, for `RecommenderRun`.

    Args:
        config: with `vectors`.
        catalog: `store.catalog`.
        model: the recommender's own config.
        seed: of what is drawn for items without a vector.

    Raises:
        InputError: no such file, or one that does not fit (`read_scores`); no such words
            (`word_vectors`); more components than the model's width.
    """
    given = _given(config.vectors, catalog)
    width = model.dim
    if config.use == "start":
        rng, std = np.random.default_rng(seed), getattr(model, "init_std", 0.02)
        drawn = rng.normal(0.0, std, (len(catalog), width))
        table = np.where(given.known[:, None], std * principal(given, width), drawn)
        return {"items/embedding": table.astype(np.float32)}, ()
    if config.use == "null_space":
        if config.kept >= width:
            raise InputError(
                f"config.items.kept: {config.kept}, expected less than the model's width {width}"
            )
        return {KNOWN: principal(given, config.kept)}, ((KNOWN, "frozen"),)
    arrays = {FEATURES: given.standardized() / np.float32(np.sqrt(given.values.shape[1]))}
    rules: Rules = ((FEATURES, "frozen"),)
    if config.use == "adapter":
        arrays[OWN] = np.zeros((len(catalog), width), np.float32)
        rules = (*rules, (OWN, "frozen"))
    return arrays, rules


def write_vectors(path: Path, given: Attributes, catalog: Catalog, most: int) -> int:
    """Writes vectors for `config.items.vectors`: the file's number of items.

    Args:
        path: FILE.parquet, which is there when it is whole.
        given: a row an item of the catalogue.
        catalog: `store.catalog`.
        most: numbers of a vector; of longer ones the principal components that vary most.
    """
    import pyarrow
    from pyarrow import parquet

    values = given.values
    if values.shape[1] > most:
        known = values[given.known] - values[given.known].mean(axis=0)
        _, axes = np.linalg.eigh(known.T.astype(np.float64) @ known)
        values = (values - values[given.known].mean(axis=0)) @ axes[:, ::-1][:, :most]
    rows = np.flatnonzero(given.known).tolist()
    columns: dict[str, Any] = {"item_id": [str((catalog[row] or {})["key"]) for row in rows]}
    columns |= {f"v{n}": values[rows, n].astype(np.float32) for n in range(values.shape[1])}
    with new_file(path) as file:
        parquet.write_table(pyarrow.table(columns), file)
    return len(rows)
