"""TensorFlow Datasets, in both directions, without TensorFlow.

Reading: a prepared TFDS directory in array_record form whose examples are interactions, such as
MovieLens' ratings (`movielens/100k-ratings`).

Writing: `build_tfds(store, data_dir)` makes a store available as the TFDS data set
`recjax_sequences`: an example a user, with `user`, `items` [n] ids, and `timestamps`, `ratings`
where the store has them:

    build_tfds("prepared/ml-100k", "tfds")
    tfds.data_source("recjax_sequences", data_dir="tfds", split="train")   # tfds 4.9

array_record is the one file format that TFDS reads and writes without TensorFlow.
"""

import dataclasses
from pathlib import Path
from typing import Any

from recjax.config import nearest
from recjax.data.interactions import BadRows, Catalog, InteractionLog, LogBuilder
from recjax.data.store import Store, open_store
from recjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Options:
    split: str = "train"
    user: str = "user_id"  # feature names; MovieLens' are the defaults
    item: str = "movie_id"
    timestamp: str = "timestamp"  # "" = examples are in time order
    rating: str = "user_rating"  # "" = no ratings
    title: str = "movie_title"  # "" = no titles


def files(path: Path, options: Options) -> list[Path]:
    """The raw files that `read` reads."""
    if not path.is_dir():
        raise InputError(f"{path}: expected the folder of a prepared TFDS data set")
    found = sorted(path.glob(f"*-{options.split}.*"))
    return [path / "dataset_info.json", path / "features.json", *found]


def read(path: Path, options: Options, bad: BadRows) -> tuple[InteractionLog, Catalog]:
    """Reads a prepared directory (the one that holds `dataset_info.json`).

    Args:
        path: the directory of one version of one config.
        options: features and split.
        bad: takes examples with unreadable values.
    """
    import tensorflow_datasets as tfds

    try:
        source = tfds.builder_from_directory(str(path)).as_data_source(options.split)
    except Exception as error:  # TFDS raises many kinds
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path}: cannot be read as a prepared array_record TFDS data set with the split "
            f"'{options.split}' ({reason})"
        ) from error
    log = LogBuilder(timestamps=bool(options.timestamp), ratings=bool(options.rating))
    catalog: Catalog = {}
    for number in range(len(source)):
        example = source[number]
        for name in ("user", "item", "timestamp", "rating", "title"):
            feature = getattr(options, name)
            if feature and feature not in example:
                raise InputError(
                    f"{path}: no feature '{feature}' (config.data.options.{name}); "
                    f"{nearest(feature, example)}"
                )
        item = _text(example[options.item])
        try:
            time = int(example[options.timestamp]) if options.timestamp else 0
            rating = float(example[options.rating]) if options.rating else 0.0
        except (TypeError, ValueError):
            bad.report(path, number + 1, "expected numbers as time and rating")
            continue
        log.add(_text(example[options.user]), item, time, rating)
        if options.title and item not in catalog:
            catalog[item] = {"title": _text(example[options.title]).strip() or None}
    return log.build(), catalog


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def build_tfds(store: Store | str | Path, data_dir: str | Path) -> Path:
    """Writes a store as the TFDS data set `recjax_sequences` (array_record, no TensorFlow).

    Args:
        store: the prepared data, or its folder.
        data_dir: TFDS' folder of data sets.

    Returns:
        The prepared directory.

    Raises:
        InputError: `data_dir` has a `recjax_sequences` already.
    """
    prepared = store if isinstance(store, Store) else open_store(store)
    builder = _builder_class(prepared)(data_dir=str(data_dir), file_format="array_record")
    folder = Path(builder.data_path)
    if folder.exists():  # TFDS would keep what stands there, whatever it was made from
        raise InputError(f"{folder} exists already; choose another data_dir, or remove it")
    builder.download_and_prepare()
    return folder


def _builder_class(store: Store) -> Any:
    """The builder of one store (a class, for TFDS finds names and versions on it)."""
    import numpy as np
    import tensorflow_datasets as tfds

    columns: dict[str, tuple[np.ndarray, Any]] = {"items": (store.items, np.int32)}
    if store.timestamps is not None:
        columns["timestamps"] = (store.timestamps, np.int64)
    if store.ratings is not None:
        columns["ratings"] = (store.ratings, np.float32)

    class RecjaxSequences(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
        VERSION = tfds.core.Version("1.0.0")
        name = "recjax_sequences"
        pkg_dir_path = Path(__file__).parent

        def _info(self):
            features = {
                name: tfds.features.Tensor(shape=(None,), dtype=dtype)
                for name, (_, dtype) in columns.items()
            }
            return tfds.core.DatasetInfo(
                builder=self,
                description=f"Interaction sequences prepared by recjax ({store.path.name}).",
                features=tfds.features.FeaturesDict({"user": tfds.features.Text(), **features}),
            )

        def _split_generators(self, dl_manager):
            del dl_manager
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for user, key in enumerate(store.user_keys):
                part = slice(store.offsets[user], store.offsets[user + 1])
                arrays = {name: np.array(array[part]) for name, (array, _) in columns.items()}
                yield user, {"user": key, **arrays}

    return RecjaxSequences
