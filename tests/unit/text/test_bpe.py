"""A byte-level BPE that is learned."""

import pytest

from recjax.errors import InputError
from recjax.text.bpe import train_bpe


def test_digits_are_tokens_and_training_repeats():
    found = train_bpe(["ab ab 1999 1999"] * 3, 1000)
    assert [found.token(k) for k in found.encode("1999")] == ["1", "9", "9", "9"]
    assert found.size < 1000
    assert (found.pad_id, found.bos_id, found.eos_id) == (0, 1, 2)
    texts = [f"word{n % 7} other{n % 5}" for n in range(99)]
    first, second = (train_bpe(texts, 280).encode("word1 other2 x") for _ in range(2))
    assert first == second


def test_a_vocabulary_without_room_for_the_bytes():
    with pytest.raises(InputError, match="a vocabulary of 258 tokens: expected at least 259"):
        train_bpe(["x"], 258)
