"""Keys in arrays have the codes, the order and the text that they have as Python's texts."""

import numpy as np
import pytest

from recjax.data import keys
from recjax.data.interactions import key_order
from recjax.data.keys import Keys, KeyTable, Texts


def table_of(texts, parts=7):
    """A table, and the codes that it has given, some texts at a time."""
    table, codes = KeyTable(), []
    for part in np.array_split(np.array(texts, object), parts):
        codes += table.add(table.find(Texts.of(part.tolist()))).tolist()
    return table, codes


def words(seed, count):
    """Texts of 1 to 40 characters, many with a common beginning, of several alphabets."""
    rng = np.random.default_rng(seed)
    letters = np.array(list("ab01-é语😀"))
    return [
        "same beginning " * int(n % 3) + "".join(rng.choice(letters, rng.integers(1, 40)))
        for n in range(count)
    ]


CASES = {
    "text": words(0, 500),
    "one word": [f"U{n:05x}" for n in range(0, 90_000, 300)],
    "two words": [f"U{n * 2654435761 % 2**32:08x}" for n in range(300)],
    "digits": ["10", "9", "100", "007", "7", "07", "123456789012345678", "0"],
    "digits, one of them long": ["10", "9", "1234567890123456789", "2"],
    "beginnings of each other": ["abcdefgh" * n + "abc"[:k] for n in range(1, 5) for k in range(4)],
    "one": ["a"],
}


@pytest.mark.parametrize("name", CASES)
def test_codes_order_and_texts_are_those_of_a_dictionary(name, monkeypatch):
    monkeypatch.setattr(keys, "_PART", 64)
    rng = np.random.default_rng(1)
    texts = [CASES[name][n] for n in rng.integers(0, len(CASES[name]), 2 * len(CASES[name]))]
    expected = {}
    for text in texts:
        expected.setdefault(text, len(expected))
    table, codes = table_of(texts)
    assert codes == [expected[text] for text in texts]
    found = table.keys()
    assert list(found) == list(expected) and len(found) == len(table) == len(expected)
    assert found[len(found) - 1] == found[-1] == list(expected)[-1]
    numbers = all(text.isascii() and text.isdigit() and len(text) < 19 for text in expected)
    order = sorted(range(len(expected)), key=[*map(int, expected)].__getitem__ if numbers else
                   list(expected).__getitem__)  # fmt: skip
    assert np.array(key_order(found)).tolist() == order
    assert list(found.take(key_order(found))) == [list(expected)[n] for n in order]
    assert list(found[1:3]) == list(expected)[1:3]


def test_keys_that_share_a_slot_stay_apart(monkeypatch):
    monkeypatch.setattr(keys, "_ODD", np.uint64(0))  # every search begins in slot 0
    table, codes = table_of([f"key {n}" for n in range(40)] * 2)
    assert codes == [*range(40), *range(40)] and len(table) == 40


def test_looking_up_adds_nothing():
    table, _ = table_of(["a", "b"])
    found = table.find(Texts.of(["b", "c", "a", "d", "c"]))
    assert found.codes.tolist() == [1, -1, 0, -1, -1] and len(table) == 2
    assert sorted(keys.as_texts(found.new[0].words)) == ["c", "d"]
    assert table.add(found).tolist() == [1, 2, 0, 3, 2]
    assert list(table.keys()) == ["a", "b", "c", "d"]


def test_no_keys():
    assert list(KeyTable().keys()) == [] and isinstance(KeyTable().keys(), Keys)
    assert len(KeyTable().find(Texts.of([])).codes) == 0


def test_keys_are_packed():
    """A key of 9 bytes takes 16, its code 4, its place 6, and a slot of the table 7 to 14."""
    table, _ = table_of([f"U{n:08x}" for n in range(20_000)])
    kind = table._kinds[2]
    assert kind._words.nbytes + kind._codes.nbytes <= 20 * 1.25 * 20_000 + 1000
    assert kind._slots.nbytes <= 14 * 20_000
    found = table.keys()
    assert found._kinds.nbytes + found._places.nbytes == 6 * 20_000


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["1", "20", "007"], [1, 20, 7]),
        (["1", "2x"], None),
        (["1", ""], None),
        (["1", "-2"], None),
        (["123456789012345678"], [123456789012345678]),
        (["1234567890123456789"], None),
        (["٣"], None),
    ],
)
def test_digits_are_numbers(texts, expected):
    given = Texts.of(texts)
    found = keys.as_numbers(given.words(slice(None), int(given.widths.max())))
    assert (found if found is None else found.tolist()) == expected
