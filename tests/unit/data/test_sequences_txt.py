"""The edges of sequence text; the usual path is in test_sources.py."""

import pytest

from recjax.data.interactions import BadRows
from recjax.data.sources import sequences_txt
from recjax.errors import InputError


def read(path, limit=0, **options):
    bad = BadRows(limit)
    log, catalog = sequences_txt.read(path, sequences_txt.Options(**options), bad)
    rows = [(log.user_keys[u], log.item_keys[i]) for u, i in zip(log.users, log.items, strict=True)]
    return log, catalog, rows, bad


def test_a_byte_order_mark_is_no_part_of_the_first_user(tmp_path):
    (tmp_path / "s.txt").write_text("1 5 6\r\n2 5\r\n", encoding="utf-8-sig")
    assert read(tmp_path / "s.txt")[2] == [("1", "5"), ("1", "6"), ("2", "5")]


def test_lines_of_one_item_are_another_layout(tmp_path):
    """SASRec's own files: skipped as bad rows, nearly all of them would be lost."""
    (tmp_path / "s.txt").write_text("1 5\n1 6\n2 5\n")
    with pytest.raises(InputError, match=r"s.txt:2: user 1 again .*config.data.source=table"):
        read(tmp_path / "s.txt", limit=9)


def test_items_that_are_malformed_or_missing(tmp_path):
    (tmp_path / "s.txt").write_text("1 5\n")
    (tmp_path / "i.jsonl").write_text('{"item_id": 5, "title": "Five"}\n{"title": "Six"}\n[1]\n')
    with pytest.raises(InputError, match="i.jsonl:2: 'item_id' is None; expected an id"):
        read(tmp_path / "s.txt", items="i.jsonl")
    with pytest.raises(InputError, match=r"i.jsonl:3: expected a JSON object, got '\[1\]'"):
        read(tmp_path / "s.txt", limit=1, items="i.jsonl")
    _, catalog, _, bad = read(tmp_path / "s.txt", limit=2, items="i.jsonl")
    assert catalog == {"5": {"title": "Five"}} and bad.count == 2
    with pytest.raises(InputError, match="none.jsonl: no such file"):
        read(tmp_path / "s.txt", items="none.jsonl")
    with pytest.raises(InputError, match="expected the sequence text file, got a folder"):
        sequences_txt.files(tmp_path, sequences_txt.Options())
