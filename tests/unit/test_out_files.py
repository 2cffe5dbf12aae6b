"""Files of results: where they may stand, and which ones are replaced."""

import pytest

from recjax.errors import InputError
from recjax.out_files import check_out, table_of


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("recs.txt", "expected a name that ends in .csv, .jsonl, .parquet"),
        ("recs", "expected a name that ends in .csv, .jsonl, .parquet"),
        ("recs.csv.gz", "expected a name that ends in .csv, .jsonl, .parquet"),
        ("nowhere/recs.csv", "there is no folder .*nowhere; make it first"),
        ("folder.csv", "is a folder; expected the name of a file"),
    ],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_places_that_will_not_do(tmp_path, name, message, overwrite):
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InputError, match=f"^--out .*{name}: {message}"):
        check_out(tmp_path / name, (".csv", ".jsonl", ".parquet"), overwrite=overwrite)


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(InputError, match=r"parquet needs pyarrow; pip install 'recjax\[parquet\]'"):
        check_out(tmp_path / "recs.parquet", (".parquet",))


@pytest.mark.parametrize(
    ("name", "content", "ours"),
    [
        ("a.csv", "user,rank,item\n", True),
        ("a.tsv", "user\trank\n", True),
        ("a.jsonl", '{"user": 1, "rank": 2}\n', True),
        ("a.csv", "", True),
        ("a.csv", "user\n", False),
        ("a.tsv", "user,rank\n", False),
        ("a.jsonl", '["user", "rank"]\n', False),
        ("a.jsonl", "user,rank\n", False),
    ],
)
def test_a_table_of_the_same_kind_is_replaced(tmp_path, name, content, ours):
    path = tmp_path / name
    path.write_text(content)
    assert table_of(["user", "rank"])(path) == ours
    with pytest.raises(InputError, match="--overwrite replaces it" if ours else "another file"):
        check_out(path, (path.suffix,), ours=table_of(["user", "rank"]))
    with pytest.raises(InputError, match="^a: .*exists already; choose another name$"):
        check_out(path, (path.suffix,), flag="a:", overwrite=None)
