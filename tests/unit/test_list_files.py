"""Files of recommendations: all three forms, read back, and which ones may be replaced."""

import csv
import json

import numpy as np
import pytest

from recjax.errors import InputError
from recjax.list_files import check_lists, list_file

ENDINGS = ("csv", "jsonl", "parquet")
CATALOG = [
    None,
    {"key": "a", "title": 'A "cup"\nof tea, black'},
    {"key": "b,b", "title": None},
    {"key": 'c"', "title": "Über\ud800"},
]
IDS = [[3, 1], [2, 0], [0, 0], [1, 2]]
SCORES = np.array([[1.5, 0.1], [-2e-8, -np.inf], [-np.inf] * 2, [1 / 3, -1e9]], np.float32)


@pytest.fixture(params=ENDINGS)
def out(request, tmp_path):
    if request.param == "parquet":
        pytest.importorskip("pyarrow")
    return tmp_path / f"recs.{request.param}"


def write(out, subject, names):
    with list_file(out, subject, CATALOG) as take:
        take(names[:3], np.int32(IDS[:3]), SCORES[:3])
        take(names[3:], np.int32(IDS[3:]), SCORES[3:])


def read(out):
    """`[[subject, item, title, score], ...]`; ranks are checked."""
    if out.suffix == ".jsonl":
        records = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
        assert len(records) == 4 and records[2]["items"] == []
        return [
            [next(iter(r.values())), *item]
            for r in records
            for item in zip(r["items"], r["titles"], r["scores"], strict=True)
        ]
    if out.suffix == ".csv":
        with out.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        assert rows.pop(0)[1:] == ["rank", "item", "title", "score"]
        rows = [[s, int(rank), i, t or None, float(x)] for s, rank, i, t, x in rows]
    else:
        import pyarrow.parquet

        rows = [list(row.values()) for row in pyarrow.parquet.read_table(out).to_pylist()]
    assert [row.pop(1) for row in rows] == [1, 2, 1, 1, 2]
    return rows


def test_what_is_written_is_read_back(out):
    write(out, "user", ["u,1", 'u"2', "u3", "u4\udc80"])
    rows = read(out)
    title = 'A "cup"\nof tea, black'
    assert [row[:3] for row in rows] == [
        ["u,1", 'c"', "Über?"],
        ["u,1", "a", title],
        ['u"2', "b,b", None],
        ["u4?", "a", title],
        ["u4?", "b,b", None],
    ]
    np.testing.assert_array_equal(np.float32([row[3] for row in rows]), SCORES[-np.inf < SCORES])
    check_lists(out, overwrite=True)
    with pytest.raises(InputError, match="exists already; --overwrite replaces it"):
        check_lists(out, overwrite=False)


def test_histories_are_numbered(out):
    write(out, "history", range(1, 5))
    assert [int(row[0]) for row in read(out)] == [1, 1, 2, 4, 4]
    check_lists(out, overwrite=True)


@pytest.mark.parametrize(
    "content",
    [
        b"user,item\nann,tea\n",
        b'{"user": "ann"}\n',
        b"[1]\n",
        b"PAR1..PAR1",
        b"\xff",
        b"[" * 100000,
    ],
    ids=range(6),
)
def test_other_files_are_never_replaced(out, content):
    out.write_bytes(content)
    for overwrite in (False, True):
        with pytest.raises(InputError, match="another file is there, and recjax never"):
            check_lists(out, overwrite=overwrite)


def test_an_empty_file_is_replaced(out):
    out.write_bytes(b"")
    check_lists(out, overwrite=True)


def test_a_file_appears_whole_or_not_at_all(out):
    write(out, "user", list("abcd"))
    before = out.read_bytes()
    with pytest.raises(RuntimeError), list_file(out, "user", CATALOG) as take:
        take(["a"], np.int32(IDS[:1]), SCORES[:1])
        raise RuntimeError
    assert out.read_bytes() == before
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    # A link stays; what it points to is replaced.
    link = out.with_stem("link")
    link.symlink_to(out)
    write(link, "user", list("efgh"))
    assert link.is_symlink() and read(out)[0][0] == "e"


def test_a_folder_that_cannot_be_written(out, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match="cannot write .*(full|No space left)"):
        write(out, "user", list("abcd"))
    assert not list(out.parent.iterdir())
