"""The one reader of JSON files: whatever a file holds, one line that names it."""

import math
import os

import pytest

from recjax.errors import InputError
from recjax.json_files import DEEPEST, parse, read_object

DAMAGED = {
    "empty": (b"", "not a readable JSON file"),
    "cut short": (b'{"layers": 4, "di', "not a readable JSON file"),
    "not UTF-8": (b'{"name": "caf\xe9"}', "not UTF-8"),
    "a list": (b"[1]", "expected a JSON object, got list"),
    "a number": (b"3", "expected a JSON object, got int"),
    "100,000 brackets": (b"[" * 100_000, f"deeper than {DEEPEST} levels"),
    "100,000 objects": (b'{"a":' * 100_000, f"deeper than {DEEPEST} levels"),
    "one level too deep": (b'{"a":' * (DEEPEST + 1) + b"1" + b"}" * (DEEPEST + 1), "deeper than"),
    "a number of 5,000 digits": (b'{"a": ' + b"9" * 5_000 + b"}", "not a readable JSON file"),
    "two values of a key": (b'{"dim": 8, "dim": 16}', "the key 'dim' stands twice"),
    "two values inside": (b'{"rope": {"type": "a", "type": "b"}}', "the key 'type' stands twice"),
    "half of a pair": (b'{"name": "\\uD83D"}', "half of a surrogate pair"),
    "too large": (b'{"a": "' + b"x" * 1_000 + b'"}', "more than 1,000 bytes"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_file_is_one_line_that_names_it(tmp_path, kind):
    content, expected = DAMAGED[kind]
    file = tmp_path / "config.json"
    file.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_object(file, largest=1_000 if kind == "too large" else 1 << 24)
    assert str(error.value).startswith(f"{file}: ")
    assert expected in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_what_is_no_file_is_not_opened(tmp_path):
    (tmp_path / "config.json").mkdir()
    os.mkfifo(tmp_path / "pipe.json")  # opening it would wait for ever
    for name in ("config.json", "pipe.json"):
        with pytest.raises(InputError, match=f"{name}: expected a file"):
            read_object(tmp_path / name)
    with pytest.raises(InputError, match=r"none\.json: no such file"):
        read_object(tmp_path / "none.json")


def test_harmless_files_are_read(tmp_path):
    file = tmp_path / "config.json"
    file.write_bytes(b'\xef\xbb\xbf{"a": 1, "a": 1, "name": "caf\xc3\xa9 \\ud83c\\udfae"}')
    assert read_object(file) == {"a": 1, "name": "café 🎮"}  # a mark, a repetition, a whole pair
    deep = b'{"a":' * DEEPEST + b"1" + b"}" * DEEPEST
    assert parse(deep, "text")["a"]
    assert math.isnan(parse(b'{"eps": NaN}', "text")["eps"])  # the key's reader names the key
