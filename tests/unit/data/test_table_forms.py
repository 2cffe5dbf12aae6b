"""How a table's text is written: the items file beside the log, decimal commas, UTF-16."""

import pytest

from recjax.data.attributes import numbers
from recjax.errors import InputError
from tests.unit.data.test_table import read, write

HEADER = "user;item;timestamp"


def test_an_items_file_of_another_form(tmp_path):
    log = write(tmp_path / "l.csv", HEADER, "a;x;1", encoding="latin-1")
    write(tmp_path / "i.csv", "item,title", '"x","Käse, jung"', encoding="cp1252")
    form = {"separator": ";", "items": "i.csv"}
    with pytest.raises(InputError, match=r"i.csv:1: no ';' .*options.items_separator=',' splits"):
        read(log, **form)
    with pytest.raises(InputError, match=r"i.csv:2: not utf-8 .*options.items_encoding=latin-1"):
        read(log, **form, items_separator=",")
    both = form | {"items_separator": ",", "items_encoding": "cp1252"}
    assert read(log, **both)[1] == {"x": {"title": "Käse, jung"}}
    # What is not given is the log's.
    assert read(log, **form, items_separator=",", encoding="cp1252")[1]["x"]["title"][0] == "K"
    for option, value in (("items_separator", ",,"), ("items_encoding", "rot13")):
        with pytest.raises(InputError, match=f"config.data.options.{option}: "):
            read(log, **both | {option: value})


def test_decimal_commas(tmp_path):
    log = write(tmp_path / "l.csv", HEADER + ";stars", "a;x;1;4,5", "b;x;2;3", "b;y;3; 2.5")
    form = {"separator": ";", "rating": "stars"}
    assert read(log, **form, decimal=",")[0].ratings.tolist() == [4.5, 3.0, 2.5]
    hint = "'stars' is '4,5'; expected a number; config.data.options.decimal=, reads"
    with pytest.raises(InputError, match=f"l.csv:2: {hint}"):
        read(log, **form)
    write(log, HEADER + ";stars", "a;x;1;1.234,5")  # thousands are no number
    for decimal in (".", ","):
        with pytest.raises(InputError, match=r"; expected a number \(0 bad"):
            read(log, **form, decimal=decimal)


def test_decimal_commas_of_items():
    catalog = [None, {"key": "x", "price": "53,88"}, {"key": "y", "price": 2.5}]
    assert numbers(catalog, "price", ",").values[:, 0].tolist() == pytest.approx([0, 53.88, 2.5])
    with pytest.raises(InputError, match=r"item x: 'price' is '53,88'; .*options.decimal=, reads"):
        numbers(catalog, "price")


@pytest.mark.parametrize("form", ["utf-16", "utf-16-le"])
def test_utf_16_is_told_with_the_way_out(tmp_path, form):
    path = write(tmp_path / "l.csv", "user,item,timestamp", "a,x,1", encoding=form)
    with pytest.raises(InputError, match=r"l.csv:1: .*iconv -f UTF-16 -t UTF-8.* CSV UTF-8"):
        read(path)
    with pytest.raises(InputError, match=r"options.encoding: no encoding .*iconv -f UTF-16"):
        read(path, encoding=form)
