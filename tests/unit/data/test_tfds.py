import sys

import pytest

from recjax.data.interactions import BadRows
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
    assert "tensorflow" not in sys.modules
    with pytest.raises(InputError, match=f"{folder} exists already"):
        source.build_tfds(sample_store, tmp_path)


def build_ratings(folder):
    """A small prepared data set with MovieLens' features."""
    import numpy as np
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
                "timestamp": np.int64,
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for k, (user, movie) in enumerate([("1", "10"), ("2", "10"), ("1", "20")]):
                yield (
                    k,
                    {
                        "user_id": user,
                        "movie_id": movie,
                        "movie_title": f"Film {movie}",
                        "user_rating": 3.0 + k,
                        "timestamp": 100 - k,
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
    assert catalog == {"10": {"title": "Film 10"}, "20": {"title": "Film 20"}}
    with pytest.raises(InputError, match=r"no feature 'usr' \(config.data.options.user\)"):
        source.read(path, source.Options(user="usr"), BadRows())
    with pytest.raises(InputError, match="cannot be read as a prepared array_record TFDS data set"):
        source.read(tmp_path, source.Options(), BadRows())
