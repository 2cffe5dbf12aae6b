"""The vectors beside a catalogue's language model: round trip, damage, what the model has read."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from recjax.config import build, to_plain
from recjax.errors import InputError
from recjax.training.item_vectors import (
    FILE,
    check_origin,
    check_words,
    read_item_vectors,
    write_item_vectors,
)
from recjax.training.ranking_run import SplitConfig

SPLIT = {"name": "chronological_sequences", "ratios": (8, 1, 1), "by": "user"}
WORDS = {"past": "read", "doing": "reading", "item": "book", "items": "books"}
VECTORS = np.arange(6, dtype=np.float32).reshape(3, 2)


@pytest.fixture
def folder(tmp_path):
    titles = ["A", 'B, "the" \u00e9', "C"]
    write_item_vectors(tmp_path, titles, VECTORS, {"data": "x1", "split": SPLIT, "words": WORDS})
    return tmp_path


def test_what_is_written_is_read(folder):
    titles, vectors = read_item_vectors(folder)
    assert titles == ["A", 'B, "the" \u00e9', "C"]
    np.testing.assert_array_equal(vectors, VECTORS)


def test_the_same_split_or_other_data_pass(folder, tmp_path_factory):
    check_origin(folder, "x1", SPLIT)
    check_origin(folder, "x1", to_plain(build(SplitConfig, SPLIT, "config.split")))
    check_origin(folder, "x2", {**SPLIT, "by": "end"})
    check_origin(tmp_path_factory.mktemp("none"), "x1", SPLIT)


def test_a_model_that_has_read_the_test_is_refused(folder):
    with pytest.raises(InputError, match="has read histories of the test; expected .*'by': 'end'"):
        check_origin(folder, "x1", {**SPLIT, "by": "end"})


def test_a_model_that_learned_other_words_is_refused(folder, tmp_path):
    check_words(folder, WORDS, "config.ask.domain")
    songs = {"past": "heard", "doing": "hearing", "item": "song", "items": "songs"}
    said = r"config\.ask\.domain: asks in the words heard, .*learned read, reading, book, books;"
    with pytest.raises(InputError, match=said):
        check_words(folder, songs, "config.ask.domain")
    write_item_vectors(tmp_path, ["A"], VECTORS[:1], {"data": "x1", "split": SPLIT})  # of before
    check_words(tmp_path, songs, "config.ask.domain")
    check_words(None, songs, "config.ask.domain")


def test_damage(folder, tmp_path_factory):
    with pytest.raises(InputError, match=f"{FILE}: missing"):
        read_item_vectors(tmp_path_factory.mktemp("none"))
    whole = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(whole[: len(whole) // 2])
    for read in (read_item_vectors, lambda f: check_origin(f, "x1", SPLIT)):
        with pytest.raises(InputError, match=f"{FILE}: damaged"):
            read(folder)


@pytest.mark.parametrize(
    ("arrays", "metadata", "said"),
    [
        ({"other": VECTORS}, {"titles": '["A", "B", "C"]'}, "damaged .*expected 'vectors'"),
        ({"vectors": VECTORS}, None, "metadata 'titles': expected a list of texts"),
        ({"vectors": VECTORS}, {"titles": "["}, "metadata 'titles': not a readable JSON"),
        ({"vectors": VECTORS}, {"titles": '{"A": 1}'}, "metadata 'titles': expected a list of te"),
        ({"vectors": VECTORS}, {"titles": '["A", 2, "C"]'}, "metadata 'titles': expected a list"),
        ({"vectors": VECTORS}, {"titles": '["A"]'}, r"1 titles and vectors of shape \(3, 2\)"),
        ({"vectors": VECTORS[0]}, {"titles": '["A", "B"]'}, "2 titles and vectors of shape"),
        (
            {"vectors": VECTORS * np.nan},
            {"titles": '["A", "B", "C"]'},
            "'vectors': expected finite float32",
        ),
        (
            {"vectors": VECTORS.astype(int)},
            {"titles": '["A", "B", "C"]'},
            "'vectors': expected finite float32",
        ),
    ],
    ids=range(9),
)
def test_files_that_hold_something_else(tmp_path, arrays, metadata, said):
    save_file(arrays, tmp_path / FILE, metadata)
    with pytest.raises(InputError, match=f"{FILE}: {said}"):
        read_item_vectors(tmp_path)


@pytest.mark.parametrize("origin", ["{", "[1]", "3", "[" * 5000])
def test_origins_of_another_form(tmp_path, origin):
    save_file({"vectors": VECTORS}, tmp_path / FILE, {"origin": origin})
    with pytest.raises(InputError, match=f"{FILE}: metadata 'origin': "):
        check_origin(tmp_path, "x1", SPLIT)
