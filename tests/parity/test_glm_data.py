"""GLM's blank infilling data, re-derived from texts and spans: what THUDM/GLM@4f61ed7 made of them.

`data/glm/construct_block.json` holds 23 batches of the original code, with the spans that it drew.
"""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from recjax.recsysllm.blanks import construct
from recjax.recsysllm.spans import Marks, Spans
from recjax.text.token_batches import NO_LABEL, lay_out

FILE = json.loads((Path(__file__).parents[1] / "data/glm/construct_block.json").read_text())
IDS = FILE["special_token_ids"]
MARKS = Marks(
    cls=IDS["ENC"],
    eos=IDS["eos"],
    sop=IDS["sop"],
    eop=IDS["eop"],
    mask=IDS["MASK"],
    sentence=IDS["sMASK"],
    document=IDS["gMASK"],
    block=IDS["dBLOCK"],
)
MASKS = {"bert": MARKS.mask, "gap_sentence": MARKS.sentence, "generation": MARKS.document}


def made(case):
    """`construct` of a case's texts and spans, and what the original logged of each text or None.

    The log leaves texts out whose end is blanked: their separator tells where it begins.
    """
    logged = [entry for entry in case["log"] if entry["step"] == "make_block_data"]
    texts = [sample["text"] for sample in case["samples"]]
    entries = [next((e for e in logged if e["source_tokens"] == text), None) for text in texts]
    assert sum(entry is not None for entry in entries) == len(logged)
    tails = zip(case["batch"]["attention_mask"], texts, strict=True)
    tails = [[[sep - 1, len(text)]] for sep, text in tails]
    found = [
        entry["spans_in_target_order"] if entry else tail
        for entry, tail in zip(entries, tails, strict=True)
    ]
    spans = Spans(
        text=np.repeat(np.arange(len(found)), [len(spans) for spans in found]),
        start=np.array([start for spans in found for start, _ in spans]),
        stop=np.array([stop for spans in found for _, stop in spans]),
        mask=np.array([MASKS[e["task"]] if e else MARKS.document for e in entries]),
        open=np.array([e is None for e in entries]),
        level=np.zeros(len(found), np.int64),
    )
    blocked = [
        blocked_in(entry) if entry else np.zeros(len(text), bool)
        for entry, text in zip(entries, texts, strict=True)
    ]
    return construct(
        np.concatenate([np.array(text, np.int32) for text in texts]),
        np.array([len(text) for text in texts]),
        spans,
        MARKS,
        blocked=np.concatenate(blocked),
    ), entries


def blocked_in(entry):
    """Which of the text's tokens the original read as [dBLOCK]: its only draw of no log."""
    out = np.zeros(len(entry["source_tokens"]), bool)
    at = entry["sep"]
    for start, stop in entry["spans_in_target_order"]:
        out[start:stop] = np.array(entry["tokens"][at + 1 : at + 1 + stop - start]) == MARKS.block
        at += 1 + stop - start
    return out


CASES = FILE["cases"]


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_the_batch_is_that_of_the_original(case):
    done, entries = made(case)
    bounds = np.append(0, np.cumsum(done.lengths))
    for n, entry in enumerate(entries):
        if entry is None:
            continue
        part = slice(bounds[n], bounds[n + 1])
        np.testing.assert_array_equal(done.tokens[part], entry["tokens"])
        np.testing.assert_array_equal(done.targets[part], entry["targets"])
        np.testing.assert_array_equal(done.labels[part] != NO_LABEL, entry["loss_masks"])
        np.testing.assert_array_equal(done.positions[part, 0], entry["position_ids"])
        np.testing.assert_array_equal(done.positions[part, 1], entry["block_position_ids"])
        assert done.sources[n] == entry["sep"]
    want = {name: np.array(rows) for name, rows in case["batch"].items() if name != "mode"}
    length = want["text"].shape[1]
    batch = lay_out(done, length, len(want["text"]))
    order = np.argsort(batch["documents"][:, 0])  # rows are laid out longest first
    batch = {name: rows[order] for name, rows in batch.items()}
    learned = batch["targets"] != NO_LABEL
    np.testing.assert_array_equal(batch["tokens"], want["text"])
    np.testing.assert_array_equal(learned, want["loss_mask"])
    np.testing.assert_array_equal(batch["targets"][learned], want["target"][learned])
    np.testing.assert_array_equal(batch["positions"], want["position_id"])
    separator = ((batch["ar"] == 0) & (batch["segments"] > 0)).sum(axis=1)
    np.testing.assert_array_equal(separator, want["attention_mask"])
    for n, target in enumerate(done.targets[a:b] for a, b in itertools.pairwise(bounds)):
        np.testing.assert_array_equal(target, want["target"][n, : len(target)])


def test_all_cases_are_there():
    assert len(CASES) == 23
    assert {case["batch"]["mode"] for case in CASES} == {"bert", "sentence", "gpt"}
