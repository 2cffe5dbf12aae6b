"""Given vectors of the items in any model's table: started from, mapped, joined."""

import numpy as np
import pytest

from recjax.data.attributes import Attributes, read_scores
from recjax.data.words import word_vectors
from recjax.errors import InputError
from recjax.training.item_text import principal, write_vectors
from recjax.training.recommender import RecommenderRun
from recjax.training.workdir import build_config


@pytest.fixture(scope="module")
def vectors(sample_store, tmp_path_factory):
    """A file of vectors of 12 numbers, of rank 6; the last item has none."""
    rng = np.random.default_rng(0)
    n = sample_store.n_items
    values = (rng.normal(size=(n, 6)) @ rng.normal(size=(6, 12))).astype(np.float32)
    known = np.arange(n) % (n - 1) > 0
    path = tmp_path_factory.mktemp("vectors") / "v.parquet"
    names = tuple(f"v{k}" for k in range(12))
    given = Attributes(names, np.where(known[:, None], values, 0), known)
    assert write_vectors(path, given, sample_store.catalog, 12) == n - 2
    return path


def run_of(store, vectors, **items):
    data = {"source": "simulated", "store": str(store.path)}
    model = {"name": "sasrec", "dim": 8, "mlp_dim": 8, "layers": 1, "max_length": 6}
    config = {"data": data, "model": model, "train": {"batch_size": 32, "epochs": 1.0}}
    return RecommenderRun(
        build_config(config | {"items": {"vectors": str(vectors), **items}}), store
    )


def test_principal_components_are_white_and_keep_what_varies(sample_store, vectors):
    given = read_scores(vectors, sample_store.catalog)
    found = principal(given, 8)
    white = found[given.known]
    np.testing.assert_allclose(white.T @ white / len(white), np.diag([1.0] * 6 + [0, 0]), atol=1e-4)
    assert not found[~given.known].any()
    centred = given.values[given.known] - given.values[given.known].mean(0)
    mapped = white[:, :6] @ np.linalg.lstsq(white[:, :6], centred, rcond=None)[0]
    np.testing.assert_allclose(mapped, centred, atol=1e-3)


def test_fewer_numbers_keep_the_geometry(sample_store, vectors, tmp_path):
    given = read_scores(vectors, sample_store.catalog)
    write_vectors(tmp_path / "few.parquet", given, sample_store.catalog, 6)
    few = read_scores(tmp_path / "few.parquet", sample_store.catalog)
    assert len(few.names) == 6
    centred = given.values[given.known] - given.values[given.known].mean(0)
    now = few.values[few.known]
    np.testing.assert_allclose(now @ now.T, centred @ centred.T, atol=1e-2)


@pytest.mark.parametrize("use", ["start", "adapter", "features", "null_space"])
def test_what_learns_and_what_stays(sample_store, vectors, use):
    run = run_of(sample_store, vectors, use=use, **({"kept": 3} if use == "null_space" else {}))
    state = run.init_state()
    table = np.asarray(run.model.merge(run.whole(state.params)).item_table())
    given = read_scores(vectors, sample_store.catalog)
    assert table.shape == (sample_store.n_items, 8)
    assert table[-1].any() == (use in ("start", "features", "null_space"))  # it has no vector
    first = {path: np.array(value) for path, value in state.params.items()}
    state, _ = run.make_steps()(state, run.place(0, 2))
    moved = {
        path for path, value in state.params.items() if (np.asarray(value) != first[path]).any()
    }
    expected = {
        "start": {"items/embedding"},
        "adapter": {"items/map/kernel"},
        "features": {"items/map/kernel", "items/own/embedding"},
        "null_space": {"items/gain", "items/own/embedding"},
    }[use]
    assert {path for path in moved if path.startswith("items/")} == expected
    if use == "null_space":
        np.testing.assert_allclose(table[:, :3], principal(given, 3) * 3**-0.5, rtol=1e-5)
        after = np.asarray(run.model.merge(run.whole(state.params)).item_table())[:, :3]
        np.testing.assert_allclose(
            after, principal(given, 3) * float(state.params["items/gain"]), rtol=1e-5
        )
    if use == "start":
        np.testing.assert_allclose(table[1:-1], 0.02 * principal(given, 8)[1:-1], rtol=1e-5)


def test_vectors_of_the_catalogues_words(sample_store):
    run = run_of(sample_store, "words:title", use="features")
    given = word_vectors(sample_store.catalog, ("title",))
    expected = given.standardized() / np.sqrt(len(given.names))
    np.testing.assert_allclose(run._arrays["items/features"], expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match="config.items.vectors: words:titel: no item of the"):
        run_of(sample_store, "words:titel")


def test_vectors_that_do_not_fit(sample_store, vectors, tmp_path):
    with pytest.raises(InputError, match=r"config.items.kept: 8, expected less than the model's"):
        run_of(sample_store, vectors, use="null_space", kept=8)
    with pytest.raises(InputError, match=r"config.items.vectors: no file or folder"):
        run_of(sample_store, tmp_path / "none.parquet")
    with pytest.raises(InputError, match=r"config.items.kept: is of use 'null_space'"):
        run_of(sample_store, vectors, use="adapter", kept=8)
    with pytest.raises(InputError, match=r"config.items.vectors: is empty: use 'features' needs"):
        run_of(sample_store, "", use="features")
    with pytest.raises(InputError, match="config.items.use: expected one of"):
        run_of(sample_store, vectors, use="else")
