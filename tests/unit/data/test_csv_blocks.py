"""The plain beginning of a csv file is read as its rows are, one by one."""

import gzip

import numpy as np
import pytest

from recjax.data.interactions import BadRows
from recjax.data.sources import _blocks, recbole, table
from recjax.errors import InputError

HEADER = "time,rating,user,item,place"
PLAIN = [f"{1000 + 7 * n},{n % 5 + 1}.5,u{n % 3},i-{n % 11},home" for n in range(40)]
OPTIONS = {"timestamp": "time", "rating": "rating"}


def both(path, monkeypatch, options, limit=0, block=100, reader=table):
    """What blocks and rows give: logs, or the errors' texts."""
    out = []
    for size in (block, 0):
        monkeypatch.setattr(_blocks, "_BLOCK", size)  # of 0 bytes: no block is read
        bad = BadRows(limit)
        try:
            log, _ = reader.read(path, reader.Options(**options), bad)
        except InputError as error:
            out.append(str(error))
            continue
        columns = (log.users, log.items, log.timestamps, log.ratings, log.nanoseconds)
        lists = [None if column is None else column.tolist() for column in columns]
        out.append((lists, log.user_keys, log.item_keys, bad.examples))
    return out


CASES = {
    "plain": [HEADER, *PLAIN],
    "a quoted field in the third block": [HEADER, *PLAIN[:8], '9,1,"u,1",i,home', *PLAIN[8:]],
    "a row of four fields": [HEADER, *PLAIN[:30], "9,1,u,i", *PLAIN[30:]],
    "rows whose fields make up for each other": [HEADER, *PLAIN[:4], "9,1,u,i", "1,2,3,4,5,6"],
    "no id": [HEADER, *PLAIN[:9], "9,1,,i,home", *PLAIN],
    "no time": [HEADER, *PLAIN[:9], "soon,1,u,i,home", *PLAIN],
    "no rating": [HEADER, *PLAIN[:9], "9,x,u,i,home", *PLAIN],
    "blanks around ids": [HEADER, *PLAIN[:9], "9,1, u1 , i-3,home", *PLAIN],
    "a blank line within": [HEADER, *PLAIN[:9], "", *PLAIN],
    "blank lines at the end": [HEADER, *PLAIN, "", "  "],
    "dates": [HEADER, *(f"2024-03-{n % 28 + 1:02d} 10:15:01.25,1,u{n},i,x" for n in range(30))],
    "the second half in dates": [HEADER, *PLAIN, "2024-03-01,1,u,i,x"],
    "letters beyond ASCII": [HEADER, *(f"5,1,ü{n},é,x" for n in range(30))],
    "missing words": [HEADER, *PLAIN, "5,1,NULL,i,x"],
    "no rows": [HEADER],
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("limit", [0, 3])
def test_blocks_are_as_rows(tmp_path, monkeypatch, name, limit):
    path = tmp_path / "log.csv"
    path.write_text("\n".join(CASES[name]) + "\n", encoding="utf-8")
    for where in ("", "user=u1|NULL", "rating=2.5,user=u2|ü7", "place=away"):
        blocks, rows = both(path, monkeypatch, OPTIONS | {"where": where}, limit)
        assert blocks == rows


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("names", ["", HEADER])
@pytest.mark.parametrize("pack", [False, True])
def test_forms_of_files(tmp_path, monkeypatch, start, end, names, pack):
    lines = PLAIN if names else [HEADER, *PLAIN]
    text = start + end.join(lines).encode()  # without a last line end
    path = tmp_path / ("log.csv.gz" if pack else "log.csv")
    path.write_bytes(gzip.compress(text) if pack else text)
    blocks, rows = both(path, monkeypatch, OPTIONS | {"columns": names})
    assert blocks == rows
    assert len(blocks[0][0]) == len(PLAIN)


def test_a_byte_order_mark_is_no_part_of_the_first_id(tmp_path, monkeypatch):
    path = tmp_path / "log.csv"
    path.write_bytes(b"\xef\xbb\xbf" + "".join(f"u{n % 3},i{n}\n" for n in range(30)).encode())
    blocks, rows = both(path, monkeypatch, {"columns": "user,item", "timestamp": ""})
    assert blocks == rows and blocks[1] == ["u0", "u1", "u2"]


@pytest.mark.parametrize("unit", ["ms", "us"])
def test_times_in_parts_of_a_second(tmp_path, monkeypatch, unit):
    path = tmp_path / "log.tsv"
    path.write_text("user\titem\ttime\n" + "".join(f"u\ti\t{10**9 + n}\n" for n in range(50)))
    blocks, rows = both(path, monkeypatch, {"timestamp": "time", "time_unit": unit})
    assert blocks == rows
    assert any(blocks[0][4])


@pytest.mark.parametrize("where", ["", "user=u1"])
def test_the_plain_beginning_is_read_in_blocks(tmp_path, monkeypatch, where):
    path = tmp_path / "log.csv"
    path.write_text("\n".join([HEADER, *PLAIN, "bad"]) + "\n")
    monkeypatch.setattr(_blocks, "_BLOCK", 100)
    seen, add = [], _blocks.add_blocks
    monkeypatch.setattr(table, "add_blocks", lambda *given: seen.append(add(*given)) or seen[-1])
    table.read(path, table.Options(**OPTIONS, where=where), BadRows(1))
    size, lines = seen[0]
    assert path.read_bytes()[:size].count(b"\n") == lines
    assert lines >= 36


@pytest.mark.parametrize("first", ["user,item", "time,user,user,item", "1,2,3", "a;b"])
def test_a_wrong_first_line_is_the_same_error(tmp_path, monkeypatch, first):
    path = tmp_path / "log.csv"
    path.write_text(f"{first}\n" * 9)
    blocks, rows = both(path, monkeypatch, OPTIONS)
    assert blocks == rows
    assert isinstance(blocks, str)


def test_damaged_files_are_the_same_error(tmp_path, monkeypatch):
    text = "\n".join([HEADER, *PLAIN]).encode()
    for name, content in {
        "bytes.csv": text + b"\n5,1,\xff,i,x\n",
        "cut.csv.gz": gzip.compress(text * 50)[:-30],
        "empty.csv": b"",
        "mac.csv": text.replace(b"\n", b"\r"),
    }.items():
        (tmp_path / name).write_bytes(content)
        blocks, rows = both(tmp_path / name, monkeypatch, OPTIONS)
        assert blocks == rows, name
        assert isinstance(blocks, str), name


@pytest.mark.parametrize("last", ["place:token_seq", "item_id:token"])  # one name twice
@pytest.mark.parametrize("name", CASES)
def test_atomic_files(tmp_path, monkeypatch, name, last):
    lines = [line.replace(",", "\t") for line in CASES[name]]
    lines[0] = f"time:float\trating:float\tuser_id:token\titem_id:token\t{last}"
    folder = tmp_path / "some"
    folder.mkdir()
    (folder / "some.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")
    blocks, rows = both(folder, monkeypatch, OPTIONS, 2, reader=recbole)
    assert blocks == rows


def test_keys_have_codes_in_the_order_of_rows(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    path = tmp_path / "log.csv"
    path.write_text("user,item\n" + "".join(f"{a},{b}\n" for a, b in rng.integers(0, 50, (400, 2))))
    blocks, rows = both(path, monkeypatch, {"timestamp": ""}, block=300)
    assert blocks == rows
