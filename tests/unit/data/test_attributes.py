import os
from pathlib import Path

import numpy as np
import pytest

from recjax.data.attributes import Attributes, moments, multi_hot, numbers, read_scores
from recjax.errors import InputError

CATALOG = [
    None,
    {"key": "a", "title": "A", "genres": ["Drama", "War"], "year": 1995, "brand": "x"},
    {"key": "b", "title": "B", "genres": [["Drama"], ["Drama", "Noir"]], "year": None},
    {"key": "c", "title": "C", "genres": [], "year": "2001"},
]


def test_labels_become_columns():
    genres = multi_hot(CATALOG, "genres")
    assert genres.names == ("Drama", "Noir", "War")
    assert genres.values.tolist() == [[0, 0, 0], [1, 0, 1], [1, 1, 0], [0, 0, 0]]
    assert genres.known.tolist() == [False, True, True, False]
    assert multi_hot(CATALOG, "genres", at_least=2).names == ("Drama",)
    assert multi_hot(CATALOG, "brand").values[:, 0].tolist() == [0, 1, 0, 0]
    with pytest.raises(InputError, match="^no item of the catalogue has 'genre'; did you mean"):
        multi_hot(CATALOG, "genre")


def test_numbers_and_standardizing():
    years = numbers(CATALOG, "year")
    assert years.values[:, 0].tolist() == [0, 1995, 0, 2001]
    assert years.standardized()[:, 0].tolist() == [0, -1, 0, 1]
    with pytest.raises(InputError, match="item a: 'title' is 'A'; expected a number"):
        numbers(CATALOG, "title")


def test_what_stands_inside_of_an_object():
    priced = [None, {"key": "a", "price": {"amount": 4.5, "in": ["EUR"]}}, {"key": "b"}]
    assert numbers(priced, "price.amount").values[:, 0].tolist() == [0, 4.5, 0]
    assert multi_hot(priced, "price.in").names == ("EUR",)
    with pytest.raises(InputError, match="has 'price.amuont'; did you mean 'price.amount'"):
        numbers(priced, "price.amuont")


def test_a_constant_column_is_standardized_to_zero():
    same = numbers([None, {"key": "a", "n": 4}, {"key": "b", "n": 4}], "n")
    assert not same.standardized().any()
    long = np.full((1000, 1), 7.3, np.float32)  # whose mean is rounded
    assert long.mean() != long[0, 0]
    same = Attributes(("a",), long, np.ones(1000, bool))
    assert not same.standardized().any() and moments(long)[1] == 1


def test_scores_by_raw_id(tmp_path):
    path = tmp_path / "scores.tsv"
    path.write_text("pace\titem_id\tlength, in words\n3\tb\t7\n1\tz\t2\n5\ta\t0.5\n")
    scores = read_scores(path, CATALOG)
    assert scores.names == ("pace", "length, in words")
    assert scores.values.tolist() == [[0, 0], [5, 0.5], [3, 7], [0, 0]]
    assert scores.known.tolist() == [False, True, True, False]
    path.write_text('item,"a, b"\na,4\n')
    assert read_scores(path, CATALOG, item="item").names == ("a, b",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,pace\na,1\n", "scores.csv:1: no column 'item_id'; "),
        ('item_id,pace\n"a,1\nb,2"\n', "scores.csv:2: 1 columns, expected 2"),
        ("item_id,pace\n\na,1\n", "scores.csv:2: a blank line; expected 2 columns"),
        ("item_id,pace\na,1,2\n", "scores.csv:2: 3 columns, expected 2"),
        ("item_id,pace\na,1\na,2\n", "scores.csv:3: item a a second time"),
        ("item_id,pace\na,nan\n", "scores.csv:2: 'pace' is 'nan'; expected a number"),
        ("item_id,pace\nz,1\n", "scores.csv: no row of an item of the catalogue"),
        ("", "scores.csv: the file is empty"),
        (",item_id,pace\n0,a,1\n", "scores.csv:1: column 1 has no name"),
        ("item_id;pace\na;1\n", "'item_id;pace' has no comma and no tab"),
        ('{"item_id": "a", "pace": 1}\n', "scores.csv:1: JSON; expected a csv, tsv or parquet"),
    ],
)
def test_bad_tables_are_refused(tmp_path, text, message):
    path = tmp_path / "scores.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_scores(path, CATALOG)


@pytest.mark.skipif("RECJAX_DATA" not in os.environ, reason="RECJAX_DATA is not set")
def test_aspects_of_movielens():
    from recjax.data.sources import movielens

    folder = Path(os.environ["RECJAX_DATA"])
    from recjax.data.interactions import BadRows

    _, catalog = movielens.read(folder / "ml-100k", movielens.Options(), BadRows(0))
    records = [None, *({"key": key, **record} for key, record in catalog.items())]
    scores = read_scores(folder / "ml-100k-aspect-scores" / "item_scores.tsv", records)
    assert scores.values.shape == (1683, 12) and scores.known[1:].all()
    assert scores.values[1:].min() >= 1 and scores.values.max() <= 10
    toy_story = next(k for k, r in enumerate(records) if r and r["key"] == "1")
    assert scores.values[toy_story].tolist() == [5, 5, 2, 7, 8, 5, 7, 9, 8, 6, 10, 3]
    genres = multi_hot(records, "genres")
    assert genres.names[0] == "Drama" and genres.values[:, 0].sum() == 725
    assert np.count_nonzero(genres.values[toy_story]) == 3


@pytest.mark.parametrize("value", ["1e39", "nan", "inf", "1_0", "9" * 5000])
def test_scores_that_no_array_holds(tmp_path, value):
    path = tmp_path / "s.tsv"
    path.write_text(f"item_id\tfun\na\t{value}\n\n")
    with pytest.raises(InputError, match=r"s.tsv:2: 'fun' is '.*; expected a number"):
        read_scores(path, CATALOG)
    with pytest.raises(InputError, match=r"item a: 'n' is .*; expected a number"):
        numbers([None, {"key": "a", "n": value}], "n")


def test_labels_are_text_or_numbers():
    made = multi_hot([None, {"key": "a", "g": [1999, "x", None, "nan"]}], "g")
    assert sorted(made.names) == ["1999", "x"]
    with pytest.raises(
        InputError, match="'g' of an item of the catalogue: expected text or a numb"
    ):
        multi_hot([None, {"key": "a", "g": [True]}], "g")


def test_scores_with_long_fields_and_blank_lines_at_the_end(tmp_path):
    path = tmp_path / "s.csv"
    path.write_text(f'item_id,"{"x" * 140_000}"\r\na,2\r\n\r\n')
    assert read_scores(path, CATALOG).values[1].tolist() == [2]


def test_a_parquet_file_without_rows(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"item_id": pyarrow.array([], pyarrow.string()), "fun": []})
    parquet.write_table(table, tmp_path / "s.parquet")
    with pytest.raises(InputError, match="s.parquet: no row of an item of the catalogue"):
        read_scores(tmp_path / "s.parquet", CATALOG)
