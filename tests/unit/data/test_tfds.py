import sys

import numpy as np
import pytest

from recjax.data.interactions import BadRows
from recjax.data.prepare import DataConfig, prepare
from recjax.data.sources import tfds as source
from recjax.errors import InputError


def test_a_store_becomes_a_tfds_data_set(sample_store, tmp_path):
    folder = source.build_tfds(sample_store, tmp_path)
    import tensorflow_datasets as tfds

    data = tfds.data_source("recjax_sequences", data_dir=str(tmp_path), split="train")
    assert len(data) == sample_store.n_users
    found = {example["user"].decode(): example["items"].tolist() for example in data}
    for user, key in enumerate(sample_store.user_keys):
        first, last = sample_store.offsets[user], sample_store.offsets[user + 1]
        assert found[key] == sample_store.items[first:last].tolist()
    records = tfds.builder("recjax_sequences", data_dir=str(tmp_path)).info.metadata["items"]
    assert records[0]["id"] == 1 and records[0]["title"] == sample_store.titles[1]
    assert "tensorflow" not in sys.modules
    with pytest.raises(InputError, match=f"{folder} exists already"):
        source.build_tfds(sample_store, tmp_path)


def test_a_store_comes_back_from_tfds(sample_store, tmp_path):
    folder = source.build_tfds(sample_store, tmp_path / "tfds")
    back = prepare(DataConfig("tfds", str(tmp_path / "store"), path=str(folder)))
    assert back.n_items == sample_store.n_items > 1
    for name in ("offsets", "items", "timestamps", "ratings"):
        ours, theirs = getattr(back, name), getattr(sample_store, name)
        assert (ours is None) == (theirs is None)
        assert ours is None or np.array_equal(ours, theirs)
    assert back.user_keys == sample_store.user_keys
    assert back.catalog == sample_store.catalog
    files = [file["name"] for file in back.manifest["source"]["files"]]
    assert "metadata.json" in files and len(files) >= 4
    (folder / "metadata.json").unlink()
    with pytest.raises(
        InputError, match="metadata lacks 'items'; expected a data set of build_tfds"
    ):
        source.read(folder, source.Options(), BadRows())
    with pytest.raises(InputError, match="with the split 'test'"):
        source.read(folder, source.Options(split="test"), BadRows())


def build_ratings(folder, examples=(("1", "10", 3.0), ("2", "10", 4.0), ("1", "20", 5.0))):
    """A small prepared data set with MovieLens' features."""
    import tensorflow_datasets as tfds

    class TinyRatings(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = folder

        def _info(self):
            text = tfds.features.Text()
            features = {
                "user_id": text,
                "movie_id": text,
                "movie_title": text,
                "user_rating": np.float32,
                "timestamp": np.float64,
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for k, (user, movie, rating, *more) in enumerate(examples):
                title, time = more or (f"Film {movie}, The (1990)", 100 - k)
                yield (
                    k,
                    {
                        "user_id": user,
                        "movie_id": movie,
                        "movie_title": title,
                        "user_rating": rating,
                        "timestamp": time,
                    },
                )

    builder = TinyRatings(data_dir=str(folder), file_format="array_record")
    builder.download_and_prepare()
    return builder.data_path


def test_reads_a_prepared_movielens_directory(tmp_path):
    path = build_ratings(tmp_path)
    log, catalog = source.read(path, source.Options(), BadRows())
    rows = {
        (log.user_keys[u], log.item_keys[i], int(t), float(r))
        for u, i, t, r in zip(log.users, log.items, log.timestamps, log.ratings, strict=True)
    }
    assert rows == {("1", "10", 100, 3.0), ("2", "10", 99, 4.0), ("1", "20", 98, 5.0)}
    titles = {"10": "The Film 10", "20": "The Film 20"}
    assert catalog == {key: {"title": title, "year": 1990} for key, title in titles.items()}
    catalog = source.read(path, source.Options(clean_titles=False), BadRows())[1]
    assert catalog["20"] == {"title": "Film 20, The (1990)"}
    with pytest.raises(InputError, match=r"no feature 'usr' \(config.data.options.user\)"):
        source.read(path, source.Options(user="usr"), BadRows())
    with pytest.raises(InputError, match="cannot be read as a prepared array_record TFDS data set"):
        source.read(tmp_path, source.Options(), BadRows())


def test_bad_examples_are_counted(tmp_path):
    path = build_ratings(
        tmp_path, [("1", "10", float("nan")), (b"\xe9", "10", 1.0), ("1", "20", 5)]
    )
    with pytest.raises(InputError, match=r":\d: 'user_(id|rating)' is .*; expected (UTF-8|a num)"):
        source.read(path, source.Options(), BadRows(1))
    bad = BadRows(2)
    log, _ = source.read(path, source.Options(), bad)
    assert bad.count == 2
    assert (log.user_keys, log.item_keys, log.ratings.tolist()) == (["1"], ["20"], [5.0])


def test_values_are_those_of_all_readers(tmp_path):
    examples = [
        ("1", "10", 3.0, "", 100.75),
        ("1", "10", 3.0, "Tom &amp;amp; Jerry, The (1990)", 100.5),
        ("1", "11", 3.0, "nan", 100.25),
        ("nan", "10", 3.0, "X", 1.0),
        ("1", "a\x1bb", 3.0, "X", 1.0),
        ("1", "10", 3.0, "X", -1.0),
    ]
    bad = BadRows(3)
    log, catalog = source.read(build_ratings(tmp_path, examples), source.Options(), bad)
    assert bad.count == 3 and all("; expected " in text for text in bad.examples)
    assert log.user_keys == ["1"] and set(log.timestamps) == {100}
    assert sorted(log.nanoseconds) == [250_000_000, 500_000_000, 750_000_000]
    assert catalog["10"] == {"title": "The Tom & Jerry", "year": 1990}
    assert catalog["11"]["title"] is None
