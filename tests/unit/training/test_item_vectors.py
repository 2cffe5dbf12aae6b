"""The vectors beside a catalogue's language model: round trip, damage, what the model has read."""

import numpy as np
import pytest

from recjax.errors import InputError
from recjax.training.item_vectors import FILE, check_origin, read_item_vectors, write_item_vectors

SPLIT = {"name": "chronological_sequences", "ratios": (8, 1, 1), "by": "user"}
VECTORS = np.arange(6, dtype=np.float32).reshape(3, 2)


@pytest.fixture
def folder(tmp_path):
    titles = ["A", 'B, "the" \u00e9', "C"]
    write_item_vectors(tmp_path, titles, VECTORS, {"data": "x1", "split": SPLIT})
    return tmp_path


def test_what_is_written_is_read(folder):
    titles, vectors = read_item_vectors(folder)
    assert titles == ["A", 'B, "the" \u00e9', "C"]
    np.testing.assert_array_equal(vectors, VECTORS)


def test_the_same_split_or_other_data_pass(folder, tmp_path_factory):
    check_origin(folder, "x1", SPLIT)
    check_origin(folder, "x2", {**SPLIT, "by": "end"})
    check_origin(tmp_path_factory.mktemp("none"), "x1", SPLIT)


def test_a_model_that_has_read_the_test_is_refused(folder):
    with pytest.raises(InputError, match="has read histories of the test; expected .*'by': 'end'"):
        check_origin(folder, "x1", {**SPLIT, "by": "end"})


def test_damage(folder, tmp_path_factory):
    with pytest.raises(InputError, match=f"{FILE}: missing"):
        read_item_vectors(tmp_path_factory.mktemp("none"))
    whole = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(whole[: len(whole) // 2])
    for read in (read_item_vectors, lambda f: check_origin(f, "x1", SPLIT)):
        with pytest.raises(InputError, match=f"{FILE}: damaged"):
            read(folder)
