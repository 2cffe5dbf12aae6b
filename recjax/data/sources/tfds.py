"""TensorFlow Datasets, in both directions, without TensorFlow.

Reading: a prepared TFDS directory in array_record form whose examples are interactions, such as
MovieLens' ratings (`movielens/100k-ratings`), or one that `build_tfds` wrote.

Writing: `build_tfds(store, data_dir)` makes a store available as the TFDS data set
`recjax_sequences`: an example a user, with `user`, `items` [n] ids, and `timestamps`, `ratings`
where the store has them. The metadata's `items` are the catalogue's records, by id from 1:

    build_tfds("prepared/ml-100k", "tfds")
    tfds.data_source("recjax_sequences", data_dir="tfds", split="train")   # tfds 4.9
    tfds.builder("recjax_sequences", data_dir="tfds").info.metadata["items"][0]["title"]

array_record is the one file format that TFDS reads and writes without TensorFlow.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from recjax.config import nearest
from recjax.data.interactions import BadRows, Catalog, InteractionLog, LogBuilder
from recjax.data.sources._times import TimeUnit, moment_of
from recjax.data.sources._values import add_item, field, key, number, title
from recjax.data.sources.movielens import clean_title
from recjax.data.store import Store, open_store
from recjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the TFDS reader."""

    split: str = "train"
    user: str = "user_id"  # feature names; MovieLens' are the defaults
    item: str = "movie_id"
    timestamp: str = "timestamp"  # "" = examples are in time order
    time_unit: TimeUnit = "s"  # of timestamps that are numbers; date: 20240301
    rating: str = "user_rating"  # "" = no ratings
    title: str = "movie_title"  # "" = no titles
    clean_titles: bool = True  # MovieLens' "Shining, The (1980)" -> "The Shining"


_NAME = "recjax_sequences"


def files(path: Path, options: Options) -> list[Path]:
    """The raw files that `read` reads."""
    if not path.is_dir():
        raise InputError(f"{path}: expected the folder of a prepared TFDS data set")
    found = sorted(path.glob(f"*-{options.split}.*"))
    metadata = [p for p in (path / "metadata.json",) if p.exists()]
    return [path / "dataset_info.json", path / "features.json", *metadata, *found]


def read(path: Path, options: Options, bad: BadRows) -> tuple[InteractionLog, Catalog]:
    """Reads a prepared directory (the one that holds `dataset_info.json`).

    Args:
        path: the directory of one version of one config.
        options: features and split; of a `recjax_sequences` only the split counts.
        bad: takes examples with unreadable values.
    """
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(str(path))
        source = builder.as_data_source(options.split)
    except Exception as error:  # TFDS raises many kinds
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path}: cannot be read as a prepared array_record TFDS data set with the split "
            f"'{options.split}' ({reason})"
        ) from error
    if builder.name == _NAME:
        return _sequences(path, builder.info.metadata, source)
    for name in ("user", "item", "timestamp", "rating", "title"):
        feature = getattr(options, name)
        if feature and feature not in builder.info.features:
            raise InputError(
                f"{path}: no feature '{feature}' (config.data.options.{name}); "
                f"{nearest(feature, builder.info.features)}"
            )
    log = LogBuilder(timestamps=bool(options.timestamp), ratings=bool(options.rating))
    catalog: Catalog = {}
    for index in range(len(source)):
        example = source[index]
        try:
            user = field(options.user, key, example[options.user])
            item = field(options.item, key, example[options.item])
            time = moment_of(options.timestamp, example.get(options.timestamp), options.time_unit)
            rating = 0.0
            if options.rating:
                rating = field(options.rating, number, example[options.rating])
            if options.title:
                raw = field(options.title, title, example[options.title])
                facts: dict[str, Any] = {"title": raw}
                if options.clean_titles:
                    facts["title"], facts["year"] = clean_title(raw) if raw else (None, None)
                add_item(catalog, item, facts)
        except ValueError as error:
            bad.report(path, index + 1, str(error))
            continue
        log.add(user, item, time.seconds, rating, time.nanoseconds)
    return log.build(), catalog


def _sequences(path: Path, metadata: Any, source: Any) -> tuple[InteractionLog, Catalog]:
    """A log from the files of `build_tfds`: the same keys, sequences and catalogue."""
    records = (metadata or {}).get("items")
    if not records:
        raise InputError(f"{path}: its metadata lacks 'items'; expected a data set of build_tfds")
    examples = [source[number] for number in range(len(source))]

    def column(name: str) -> np.ndarray | None:
        parts = [example[name] for example in examples if name in example]
        return np.concatenate(parts) if parts else None

    items = column("items")
    if items is None:
        raise InputError(f"{path}: there is no sequence in it")
    if len(items) and not 0 < items.min() <= items.max() <= len(records):
        raise InputError(
            f"{path}: items from {items.min()} to {items.max()}; expected 1 to {len(records)}"
        )
    try:
        user_keys = [field("user", key, example["user"]) for example in examples]
        item_keys = [field("key", key, record["key"]) for record in records]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a data set of build_tfds ({error})") from None
    log = InteractionLog(
        users=np.repeat(
            np.arange(len(examples), dtype=np.int32), [len(e["items"]) for e in examples]
        ),
        items=items - np.int32(1),
        timestamps=column("timestamps"),
        ratings=column("ratings"),
        user_keys=user_keys,
        item_keys=item_keys,
    )
    known = [{k: v for k, v in r.items() if k not in ("id", "key")} for r in records]
    return log, dict(zip(log.item_keys, known, strict=True))


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
    import tensorflow_datasets as tfds

    columns: dict[str, tuple[np.ndarray, Any]] = {"items": (store.items, np.int32)}
    if store.timestamps is not None:
        columns["timestamps"] = (store.timestamps, np.int64)
    if store.ratings is not None:
        columns["ratings"] = (store.ratings, np.float32)

    class RecjaxSequences(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
        VERSION = tfds.core.Version("1.0.0")
        name = _NAME
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
                metadata=tfds.core.MetadataDict(items=store.catalog[1:]),
            )

        def _split_generators(self, dl_manager):
            del dl_manager
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for user, name in enumerate(store.user_keys):
                part = slice(store.offsets[user], store.offsets[user + 1])
                arrays = {n: np.array(array[part]) for n, (array, _) in columns.items()}
                yield user, {"user": name, **arrays}

    return RecjaxSequences
