"""Prompts and answers: what a file may hold, which part learns what, what is learned of a row."""

import gzip
import json

import numpy as np
import pytest

from recjax.errors import InputError
from recjax.recsysllm.p5_data import Prompts
from recjax.recsysllm.passages import Passage, Piece
from recjax.text.bpe import train_bpe
from recjax.text.pairs import (
    PairBatches,
    PairsConfig,
    Row,
    Shuffled,
    encode_pairs,
    joined,
    read_pairs,
    split_pairs,
)
from recjax.text.token_batches import NO_LABEL
from recjax.text.tokenizers import load_tokenizer

TOKENIZER = train_bpe(["Which film is like Alien? Aliens, or Brazil."] * 3, 300)


def write(path, rows):
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def rows(count):
    return [{"prompt": f"film {k}?", "answer": f" {'x' * (k % 7 + 1)}"} for k in range(count)]


def test_pairs_are_read_with_their_lines(tmp_path):
    path = write(tmp_path / "a.jsonl", ["", {"q": "é?", "a": " yes", "note": 3}, "  "])
    (pair,) = read_pairs(path, "q", "a")
    assert (pair.prompt, pair.answer, pair.where) == ("é?", " yes", f"{path}:2")
    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert read_pairs(packed, "q", "a")[0].answer == " yes"


def test_pairs_with_a_system_message(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"prompt": "a", "answer": "b", "system": "s"}] * 3)
    assert read_pairs(path, system="system")[0].system == "s"
    with pytest.raises(InputError, match="a.jsonl:1: lacks the key 'sys'"):
        read_pairs(path, system="sys")
    with pytest.raises(InputError, match="system: needs the form 'chat'"):
        PairsConfig(str(path), system="system")
    with_it = split_pairs(PairsConfig(str(path), system="system", form="chat"), 0)
    without = split_pairs(PairsConfig(str(path), form="chat"), 0)
    assert with_it.fingerprint != without.fingerprint


GOOD = {"prompt": "a", "answer": "b"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([GOOD, "{"], "a.jsonl:2: not a readable JSON file"),
        ([GOOD, ["a", "b"]], "a.jsonl:2: expected an object with 'prompt' and 'answer'"),
        ([GOOD, {"prompt": "a"}], "a.jsonl:2: lacks the key 'answer'; it has 'prompt'"),
        ([{}], "a.jsonl:1: lacks the key 'prompt'; it has none"),
        ([GOOD, {"prompt": "a", "answer": 3}], "a.jsonl:2: 'answer' is int, expected text"),
        ([{"prompt": None, "answer": "b"}], "a.jsonl:1: 'prompt' is NoneType, expected text"),
        ([{"prompt": "a", "answer": ""}], "a.jsonl:1: 'answer' is empty; there is nothing to"),
        ([{"prompt": "\ud800", "answer": "b"}], "a.jsonl:1: half of a surrogate pair"),
        (["[" * 100_000], "a.jsonl:1: JSON nested deeper"),
        (["", ""], "a.jsonl: the file is empty"),
    ],
)
def test_malformed_rows_name_their_line(tmp_path, rows, message):
    with pytest.raises(InputError) as error:
        read_pairs(write(tmp_path / "a.jsonl", rows))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_shares_are_drawn_once(tmp_path):
    path = str(write(tmp_path / "a.jsonl", rows(40)))
    config = PairsConfig(path, validation_share=0.1, test_share=0.2)
    pairs = split_pairs(config, 0)
    parts = [pairs.train, pairs.validation, pairs.test]
    assert [len(part) for part in parts] == [28, 4, 8]
    assert sorted(p.where for part in parts for p in part) == sorted(
        p.where for p in read_pairs(path)
    )
    assert split_pairs(config, 0).fingerprint == pairs.fingerprint
    assert split_pairs(config, 1).fingerprint != pairs.fingerprint
    other = str(write(tmp_path / "b.jsonl", rows(3)))
    given = split_pairs(PairsConfig(path, validation_path=other, test_path=other), 0)
    assert [len(given.train), len(given.validation), len(given.test)] == [40, 3, 3]
    with pytest.raises(InputError, match="1 pairs; none is left to train on"):
        split_pairs(PairsConfig(str(write(tmp_path / "c.jsonl", rows(1)))), 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": ""}, "path: is empty"),
        ({"answer": "prompt"}, "answer: 'prompt' is the prompt's key"),
        ({"validation_share": 1.0}, "validation_share: expected at least 0 and less than 1"),
        ({"test_share": -0.1}, "test_share: expected at least 0"),
        ({"validation_share": 0.5, "test_share": 0.5}, "nothing is left to train on"),
        ({"validation_share": 0.0}, "validation_share: 0, and no validation_path"),
        ({"max_length": -1}, "max_length: expected 0 to"),
    ],
)
def test_settings_are_checked(change, message):
    with pytest.raises(InputError, match=message):
        PairsConfig(**({"path": "a"} | change))


def test_answers_and_the_end_are_learned_prompts_are_not(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"prompt": "film 1?", "answer": " Alien"}])
    (row,) = encode_pairs(read_pairs(path), TOKENIZER, "text", 99)
    before = TOKENIZER.encode("film 1?", bos=True)
    after = TOKENIZER.encode(" Alien", start=False, eos=True)
    assert row.tokens.tolist() == [*before, *after]
    assert joined([row]).labels.tolist() == [*[NO_LABEL] * len(before), *after]
    two = [Row(np.array([5, 6], np.int32), 0)] * 2  # what nothing stands before is not learned
    assert joined(two).labels.tolist() == [NO_LABEL, 6] * 2


def test_an_answer_begins_a_text_where_an_encoder_reads_the_prompt(tmp_path):
    """T5's targets begin with a blank of the tokenizer's own, as in transformers."""
    TOKENIZER.save(tmp_path)
    file = tmp_path / "tokenizer.json"
    text = file.read_text()
    file.write_text(text.replace('"add_prefix_space": false', '"add_prefix_space": true'))
    assert file.read_text() != text
    tokenizer, (pair,) = load_tokenizer(tmp_path), read_pairs(write(tmp_path / "a.jsonl", [GOOD]))
    for apart, answer in ((False, GOOD["answer"]), (True, " " + GOOD["answer"])):
        (row,) = encode_pairs([pair], tokenizer, "text", 99, apart=apart)
        expected = TOKENIZER.encode(answer, eos=True)
        assert row.tokens[row.learned :].tolist() == expected
    passage = Passage("rating", (Piece("Stars:"),), (Piece("like"),))
    (side,) = Prompts(tokenizer, 64, 16).sides([passage])
    assert list(side.written) == TOKENIZER.encode(" like", eos=True)


def test_pairs_that_are_too_long(tmp_path):
    path = write(tmp_path / "a.jsonl", [GOOD, *[{"prompt": "a" * 20, "answer": "b"}] * 2])
    pairs = read_pairs(path)
    with pytest.raises(InputError) as error:
        encode_pairs(pairs, TOKENIZER, "text", 9)
    assert f"{path}:2: 23 tokens, at most 9 fit, and 1 more pairs are too long" in str(error.value)
    assert "config.data.skip_long=True leaves them out" in str(error.value)
    assert len(encode_pairs(pairs, TOKENIZER, "text", 9, skip=True)) == 1
    with pytest.raises(InputError, match="this pair and all others are over 2 tokens"):
        encode_pairs(pairs, TOKENIZER, "text", 2, skip=True)


def test_batches_hold_every_pair_once_an_epoch(tmp_path):
    pairs = read_pairs(write(tmp_path / "a.jsonl", rows(24)))
    encoded = encode_pairs(pairs, TOKENIZER, "text", 64)
    batches = PairBatches(Shuffled(encoded, 3), TOKENIZER, 64, 8)
    assert batches.steps_per_epoch == 3
    for epoch in range(2):
        batch = batches(3 * epoch, 3)
        texts = []
        for tokens, labels, segments in zip(
            *(batch[k].reshape(-1, 64) for k in ("tokens", "labels", "segments")), strict=True
        ):
            for segment in range(1, segments.max() + 1):
                mine = segments == segment
                learned = mine & (labels != NO_LABEL)
                np.testing.assert_array_equal(labels[learned], tokens[learned])
                texts.append(
                    (TOKENIZER.decode(tokens[mine & ~learned]), TOKENIZER.decode(tokens[learned]))
                )
        assert sorted(texts) == sorted((p.prompt, p.answer) for p in pairs)
