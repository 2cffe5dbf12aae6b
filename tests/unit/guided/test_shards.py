"""Scoring that was interrupted goes on where it was."""

import json

import pytest

from recjax.errors import InputError
from recjax.guided.shards import Progress

KEYS = [f"k{n}" for n in range(7)]


def progress(folder, keys=KEYS, shard=3, **options):
    return Progress(folder, keys, {"how": options.pop("how", "forced")}, shard=shard, **options)


def test_rows_come_back_in_order(tmp_path):
    with progress(tmp_path / "p") as one:
        for place in (5, 0, 4, 6):
            one.add(place, {"scores": [place]})
        assert one.done == 4 and list(one.open_places()) == [1, 2, 3]
    assert sorted(p.name for p in (tmp_path / "p").iterdir()) == [
        "00000.jsonl", "00001.jsonl", "00002.jsonl", "settings.json",
    ]  # fmt: skip
    with progress(tmp_path / "p") as two:
        assert two.done == 4
        for place in two.open_places():
            two.add(place, {"scores": [place]})
        assert [row["scores"] for row in two.rows()] == [[n] for n in range(7)]
        two.remove()
    assert not (tmp_path / "p").exists()


def test_a_line_that_a_crash_cut(tmp_path):
    """Only that row is scored again."""
    with progress(tmp_path / "p") as one:
        for place in range(3):
            one.add(place, {"scores": [place]})
    shard = tmp_path / "p" / "00000.jsonl"
    shard.write_bytes(shard.read_bytes()[:-4])
    with progress(tmp_path / "p") as two:
        assert list(two.open_places()) == [2, 3, 4, 5, 6]
        two.add(2, {"scores": [9]})
        assert [row and row["scores"] for row in two.rows()] == [[0], [1], [9]] + [None] * 4


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{]\n", "00000.jsonl:2: not a readable JSON"),
        (b"[]\n", "00000.jsonl:2: expected a row of this shard"),
        (b'{"place": 3}\n', "00000.jsonl:2: expected a row of this shard"),
    ],
)
def test_damaged_shards(tmp_path, line, message):
    with progress(tmp_path / "p") as one:
        one.add(0, {})
    with (tmp_path / "p" / "00000.jsonl").open("ab") as file:
        file.write(line)
    with pytest.raises(InputError, match=message):
        progress(tmp_path / "p")
    with progress(tmp_path / "p", overwrite=True) as anew:
        assert anew.done == 0


def test_other_settings_do_not_go_on(tmp_path):
    with progress(tmp_path / "p") as one:
        one.add(0, {})
    for changed, name in (
        ({"how": "free"}, "how"), ({"keys": KEYS[::-1]}, "keys_sha256"), ({"shard": 2}, "shard"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=f"begun with another '{name}'"):
            progress(tmp_path / "p", **changed)
    with progress(tmp_path / "p") as again:
        assert again.done == 1


def test_overwriting_goes_on_with_parts_of_the_same_settings(tmp_path):
    """The command that was interrupted has the flag; its rows are not made twice."""
    with progress(tmp_path / "p", overwrite=True) as one:
        one.add(0, {"scores": [1]})
    with progress(tmp_path / "p", overwrite=True) as again:
        assert again.done == 1
    with progress(tmp_path / "p", overwrite=True, how="free") as other:
        assert other.done == 0 and list(other.rows()) == [None] * len(KEYS)
    with progress(tmp_path / "p", overwrite=True, how="free") as other:
        assert other.done == 0


def test_what_others_put_there_stays(tmp_path):
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "notes.jsonl").write_text("{}")
    with progress(tmp_path / "p") as one:
        for place in range(len(KEYS)):
            one.add(place, {})
        one.remove()
    assert [path.name for path in (tmp_path / "p").iterdir()] == ["notes.jsonl"]


def test_parts_without_a_row_do_not_outlive_an_error(tmp_path):
    with pytest.raises(KeyError), progress(tmp_path / "p"):
        raise KeyError
    assert not (tmp_path / "p").exists()
    with pytest.raises(KeyError), progress(tmp_path / "p") as one:
        one.add(0, {})
        raise KeyError
    assert (tmp_path / "p" / "settings.json").exists()


def test_one_process_at_a_time_and_no_other_folder(tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "00000.jsonl").write_text("{}")
    with pytest.raises(InputError, match=r"other: no settings.json; expected a folder of scores"):
        progress(tmp_path / "other")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        progress(tmp_path / "file")
    with progress(tmp_path / "p") as one:
        monkeypatch.setattr(json, "dumps", lambda *a, **k: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            one.add(0, {})
        assert one.done == 0
