"""The vectors that a catalogue's language model has learned to read, one a title.

They lie beside the model (`item_vectors.safetensors`) and are no part of it: an adapter may start
from them, for what is near an item's vector is what the model says that item's title of.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from recjax.config import to_plain
from recjax.errors import InputError
from recjax.json_files import parse
from recjax.training.ranking_run import SplitConfig

FILE = "item_vectors.safetensors"


def write_item_vectors(
    folder: Path, titles: Sequence[str], vectors: np.ndarray, origin: Mapping[str, Any]
) -> None:
    """Writes vectors [n E] of n titles into a language model's folder.

    Args:
        folder: the model's.
        titles: [n].
        vectors: [n E].
        origin: what the model has read: `data` (the store's fingerprint) and `split`; `words` of
            its domain.
    """
    metadata = {
        "titles": json.dumps(list(titles), ensure_ascii=False),
        "origin": json.dumps(dict(origin), sort_keys=True),
    }
    save_file({"vectors": np.ascontiguousarray(vectors, np.float32)}, folder / FILE, metadata)


def has_item_vectors(folder: Path | None) -> bool:
    """Whether a language model's folder has vectors."""
    return folder is not None and (folder / FILE).is_file()


def check_origin(folder: Path, data: str, split: Mapping[str, Any]) -> None:
    """Refuses a language model that has read histories which a run tests on.

    A folder that does not say what its model has read passes.

    Args:
        folder: the language model's.
        data: fingerprint of the run's store.
        split: the run's.

    Raises:
        InputError: the same data under another split.
    """
    origin = _read_origin(folder)
    defaults, found = to_plain(SplitConfig()), origin.get("split")
    wanted = json.loads(json.dumps(defaults | dict(split)))  # tuples as lists
    if isinstance(found, dict):  # an earlier version has fewer keys
        found = json.loads(json.dumps(defaults)) | found
    if origin.get("data") == data and found != wanted:
        raise InputError(
            f"{folder}: a language model that was trained on split {origin.get('split')} of this "
            f"data has read histories of the test; expected {wanted}"
        )


def check_words(folder: Path | None, words: Mapping[str, str], key: str) -> None:
    """Refuses a catalogue's language model that learned the words of another domain.

    Args:
        folder: the language model's; one that does not say what it has read passes, as None does.
        words: of the domain that is asked about.
        key: of the domain in the config.

    Raises:
        InputError: other words.
    """
    learned = {} if folder is None else _read_origin(folder).get("words")
    if isinstance(learned, dict) and learned and learned != words:
        ours, theirs = (", ".join(str(w.get(k)) for k in words) for w in (words, learned))
        raise InputError(
            f"{key}: asks in the words {ours}; the language model of {folder} learned {theirs}; "
            "expected its domain"
        )


def _read_origin(folder: Path) -> dict[str, Any]:
    """What the folder's model has read; empty where it does not say."""
    if not has_item_vectors(folder):
        return {}
    path = folder / FILE
    with _open(path) as file:
        origin = _read_metadata(file, path, "origin") or {}
    if not isinstance(origin, dict):
        raise InputError(f"{path}: metadata 'origin': expected an object")
    return origin


def _open(path: Path) -> Any:
    try:
        return safe_open(path, "numpy")
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: damaged ({error})") from error


def _read_metadata(file: Any, path: Path, key: str) -> Any:
    """The JSON value of a key in a file's metadata; None if the key is missing."""
    text = (file.metadata() or {}).get(key)
    return None if text is None else parse(text.encode(), f"{path}: metadata '{key}'")


def read_item_vectors(folder: Path) -> tuple[list[str], np.ndarray]:
    """Titles [n] and vectors [n E] of a language model's folder.

    Raises:
        InputError: the folder has none, or a damaged file.
    """
    path = folder / FILE
    if not path.is_file():
        raise InputError(
            f"{path}: missing; expected what `recjax train` writes beside a catalogue's language "
            "model (config.start.examples=0 starts without)"
        )
    with _open(path) as file:
        try:
            vectors, titles = file.get_tensor("vectors"), _read_metadata(file, path, "titles")
        except SafetensorError as error:
            raise InputError(f"{path}: damaged ({error}); expected 'vectors'") from error
    if not isinstance(titles, list) or not all(isinstance(title, str) for title in titles):
        raise InputError(f"{path}: metadata 'titles': expected a list of texts")
    if vectors.ndim != 2 or len(titles) != len(vectors):
        raise InputError(f"{path}: {len(titles)} titles and vectors of shape {vectors.shape}")
    if vectors.dtype != np.float32 or not np.isfinite(vectors).all():
        raise InputError(f"{path}: 'vectors': expected finite float32 numbers")
    return titles, vectors
