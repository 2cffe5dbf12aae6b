"""Lines of raw text: numbers, encodings, and the errors of damaged files."""

import bz2
import gzip

import pytest

from recjax.data.interactions import BadRows
from recjax.data.sources._lines import find_file, records, text_lines
from recjax.errors import InputError


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_numbered_lines_plain_and_gzip(tmp_path, name):
    data = "\ufeffone\r\n\ncafé \nlast".encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    expected = [(1, "one"), (2, ""), (3, "café "), (4, "last")]
    assert list(text_lines(tmp_path / name)) == expected


def test_latin_1(tmp_path):
    (tmp_path / "a").write_bytes(b"caf\xe9\n")
    assert list(text_lines(tmp_path / "a", "latin-1")) == [(1, "café")]
    with pytest.raises(InputError, match=r"a:1: not utf-8 text \(byte 0xe9\)"):
        list(text_lines(tmp_path / "a"))


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (gzip.compress(b"a\n" * 99, mtime=0), "; a gzip file, whose name should end in .gz"),
        ("a,b".encode("utf-16"), "; UTF-16, as some"),
        (b"PK\x03\x04\xff", "; a zip archive"),
        (bz2.compress(b"a\n" * 99), "; a bzip2 file: unpack it"),
        (b"PAR1\x15\x04\xff", r"; a parquet file, whose name should end in \.parquet"),
        (b"a\n\xff\xfe", r":2: not utf-8 text \(byte 0xff\)$"),
    ],
)
def test_files_of_other_kinds(tmp_path, data, kind):
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(InputError, match=kind):
        list(text_lines(tmp_path / "a"))


def test_no_file_a_folder_an_empty_file(tmp_path):
    with pytest.raises(InputError, match=r"none\.txt: no such file"):
        list(text_lines(tmp_path / "none.txt"))
    with pytest.raises(InputError, match="a folder; expected a file"):
        list(text_lines(tmp_path))
    for name, data in (("e.txt", b""), ("e.txt.gz", gzip.compress(b"")), ("f.txt.gz", b"")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=f"{name}: the file is empty"):
            list(text_lines(tmp_path / name))


def test_damaged_gzip_names_the_line_after_the_last_good_one(tmp_path):
    path = tmp_path / "a.gz"
    # A stored block keeps the text as it is: the cut leaves exactly three whole lines.
    path.write_bytes(gzip.compress(b"0123456789\n" * 10, compresslevel=0)[: 15 + 11 * 3 + 4])
    seen = []
    with pytest.raises(InputError, match=r"a\.gz:4: truncated or damaged gzip"):
        for number, _ in text_lines(path):
            seen.append(number)
    assert seen == [1, 2, 3]
    path.write_bytes(b"plain text\n")
    with pytest.raises(InputError, match=r"a\.gz:1: truncated or damaged gzip \(Not a gzipped"):
        list(text_lines(path))


def test_find_file(tmp_path):
    with pytest.raises(InputError, match=r"no r\.json \(or r\.json\.gz\) there"):
        find_file(tmp_path, "r.json")
    (tmp_path / "r.json.gz").touch()
    assert find_file(tmp_path, "r.json") == tmp_path / "r.json.gz"
    (tmp_path / "r.json").touch()
    assert find_file(tmp_path, "r.json") == tmp_path / "r.json"


def test_records_take_json_and_literals_and_report_the_rest(tmp_path):
    deep = "[" * 100_000
    lines = ['{"a": null}', "{'a': None, 'b': u'x'}", "[1]", deep, "f()", '{"a": 2}']
    (tmp_path / "r").write_text("\n".join(lines))
    bad = BadRows(3)
    found = list(records(tmp_path / "r", bad))
    assert found == [(1, {"a": None}), (2, {"a": None, "b": "x"}), (6, {"a": 2})]
    assert [example.split(": ")[0] for example in bad.examples] == [
        f"{tmp_path / 'r'}:{number}" for number in (3, 4, 5)
    ]


def test_blank_lines_count_if_another_follows(tmp_path):
    (tmp_path / "a").write_text("\none\n\n \ntwo\n\n\n")
    assert list(text_lines(tmp_path / "a")) == [(1, ""), (2, "one"), (3, ""), (4, " "), (5, "two")]


def test_line_ends_of_an_old_mac_and_lists_of_objects(tmp_path):
    (tmp_path / "a").write_bytes(b"user,item\r1,2\r")
    with pytest.raises(InputError, match=r"a:1: a carriage return within the line; expected lines"):
        list(text_lines(tmp_path / "a"))
    (tmp_path / "b").write_text('[{"a": 1},\n{"a": 2}]\n')
    with pytest.raises(
        InputError, match=r"b:1: expected a JSON object a line, .* jq -c '\.\[\]' F"
    ):
        list(records(tmp_path / "b", BadRows()))
