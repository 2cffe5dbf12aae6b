"""The edges of atomic files; the usual path is in test_sources.py."""

import pytest

from recjax.data.interactions import BadRows
from recjax.data.sources import recbole
from recjax.errors import InputError


def read(path, limit=0, **options):
    bad = BadRows(limit)
    log, catalog = recbole.read(path, recbole.Options(**options), bad)
    rows = [(log.user_keys[u], log.item_keys[i]) for u, i in zip(log.users, log.items, strict=True)]
    return log, catalog, rows, bad


INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"


def write(tmp_path, inter, item="", encoding="utf-8"):
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "toy.inter").write_text(inter, encoding=encoding)
    if item:
        (folder / "toy.item").write_text(item, encoding=encoding)
    return folder


def test_a_named_title_is_text_and_byte_order_marks_are_none(tmp_path):
    item = "item_id:token\tbook_title:token_seq\ttags:token_seq\ni\tThe Big One\tA B\n"
    folder = write(tmp_path, INTER + "u\ti\t4\t1\n", item, encoding="utf-8-sig")
    _, catalog, rows, _ = read(folder, title="book_title")
    assert rows == [("u", "i")]
    assert catalog == {"i": {"title": "The Big One", "tags": ["A", "B"]}}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("u\ti\tnan\t1", "toy.inter:3: 'rating' is 'nan'; expected a number"),
        ("u\ti\t4\t1e30", "toy.inter:3: 'timestamp' is '1e30'; expected seconds"),
        ("u\ti\t4", "toy.inter:3: 3 fields; expected 4"),
        ("", "toy.inter:3: 1 fields; expected 4"),
        ("\ti\t4\t1", "toy.inter:3: 'user_id' is ''; expected an id"),
    ],
)
def test_bad_rows(tmp_path, row, message):
    folder = write(tmp_path, INTER + f"u\ta\t1\t7.5\n{row}\nu\tb\t2\t8\n")
    with pytest.raises(InputError, match=message):
        read(folder, rating="rating")
    log, _, rows, bad = read(folder, limit=1, rating="rating")
    assert rows == [("u", "a"), ("u", "b")] and bad.count == 1
    assert log.timestamps.tolist() == [7, 8] and log.ratings.tolist() == [1, 2]


def test_what_is_not_there(tmp_path):
    folder = write(tmp_path, INTER + "u\ti\t4\t1\n", "item_id:token\tyear:float\ni\t1\n")
    with pytest.raises(InputError, match="toy.inter: expected a folder of RecBole atomic files"):
        read(folder / "toy.inter")
    with pytest.raises(InputError, match="other.inter: no such file"):
        read(folder, name="other")
    with pytest.raises(InputError, match="toy.item:1: no field 'titel'"):
        read(folder, title="titel")
    assert read(folder)[1] == {"i": {"title": None, "year": "1"}}


def test_layouts_that_would_lose_rows(tmp_path):
    """Histories beside their next items, and a data set that is split already."""
    header = "user_id:token\titem_id_list:token_seq\titem_id:token\n"
    folder = write(tmp_path, header + "1\t2 3\t4\n")
    with pytest.raises(InputError, match=r"toy.inter:1: 'item_id_list' has histories beside"):
        read(folder, timestamp="")
    (folder / "toy.inter").rename(folder / "toy.train.inter")
    (folder / "toy.test.inter").write_text(INTER)
    with pytest.raises(InputError, match=r"no such file, but toy.test.inter, toy.train.inter; rec"):
        read(folder)


@pytest.mark.parametrize("separator", [" ", ",", ";"])
def test_other_separators(tmp_path, separator):
    folder = write(tmp_path, (INTER + "u\ti\t4\t1\n").replace("\t", separator))
    message = rf"toy.inter:1: no '\\t' between the fields .*options\.separator='{separator}' splits"
    with pytest.raises(InputError, match=message):
        read(folder)
    assert read(folder, separator=separator)[2] == [("u", "i")]
    with pytest.raises(InputError, match="options.separator: expected one character, got ';;'"):
        read(folder, separator=";;")


def test_no_header(tmp_path):
    folder = write(tmp_path, "u\ti\t4\t1\n")
    with pytest.raises(
        InputError, match=r"toy.inter:1: expected a header 'user_id:token ...', got"
    ):
        read(folder)


@pytest.mark.parametrize("field", ["title", "movie_title"])
def test_articles_come_first_as_in_movielens_own_files(tmp_path, field):
    item = (
        f"item_id:token\t{field}:token_seq\n1\tUsual Suspects, The\n2\tPostman, The (Postino, Il)\n"
    )
    folder = write(tmp_path, INTER + "u\t1\t4\t1\n", item + "3\tTwelve Monkeys\n")
    titles = [known["title"] for known in read(folder)[1].values()]
    assert titles == ["The Usual Suspects", "The Postman (Il Postino)", "Twelve Monkeys"]
    assert read(folder, clean_titles=False)[1]["1"]["title"] == "Usual Suspects, The"
