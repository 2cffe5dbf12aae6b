import numpy as np
import pytest

from recjax.data.textualize import Document
from recjax.data.token_batches import TokenBatches, encode, fixed_batches
from recjax.data.tokenizers import train_bpe
from recjax.errors import InputError

TOKENIZER = train_bpe(["a bc def"] * 9, 259)


class Stream:
    """Documents that name their place; every third one has no prompt."""

    def __init__(self, n=20, seed=0):
        self.n, self.seed = n, seed

    def __len__(self):
        return self.n

    def __call__(self, place):
        rng = np.random.default_rng([self.seed, place])
        text = "x" * int(rng.integers(1, 12))
        prompt = "" if place % 3 == 0 else "which?"
        return Document("items", prompt, f"{place}{text}")


def make(**options):
    return TokenBatches(**{"documents": Stream(), "tokenizer": TOKENIZER, "length": 40,
                           "batch_size": 8} | options)  # fmt: skip


def read_back(batch, k=0):
    """Every packed document: its tokens, labels and positions."""
    out = []
    for row in range(batch["tokens"].shape[1]):
        part = {name: value[k, row] for name, value in batch.items()}
        for segment in range(1, part["segments"].max() + 1):
            at = part["segments"] == segment
            out.append(tuple(part[n][at].tolist() for n in ("tokens", "labels", "positions")))
    return out


def expected(place):
    document = Stream()(place)
    prompt = TOKENIZER.encode(document.prompt, bos=True)
    text = TOKENIZER.encode(document.text, eos=True, start=not document.prompt)
    whole = [*prompt, *text]
    return whole, [-100] * len(prompt) + text, list(range(len(whole)))


def test_rows_hold_the_stream_s_documents_and_learn_the_texts():
    batch = make()(2, 3)
    for k in range(3):
        places = range((2 + k) * 8, (3 + k) * 8)
        assert sorted(read_back(batch, k)) == sorted(expected(p) for p in places)
    padding = batch["segments"] == 0
    assert padding.any() and (batch["labels"][padding] == -100).all()
    assert (batch["tokens"].shape[1] < 8) and "documents" not in batch


def test_batches_depend_on_the_step_alone():
    together, alone = make()(5, 3), make()(6)
    for name, value in alone.items():
        np.testing.assert_array_equal(value[0], together[name][1])
    other = make(documents=Stream(seed=1))(6)
    assert any(not np.array_equal(other[name], alone[name]) for name in ("tokens", "segments"))


def test_the_row_count_stays_and_is_a_multiple():
    batches = make(row_multiple=3, batch_size=12)
    shapes = {batches(step)["tokens"].shape for step in range(20)}
    assert len(shapes) == 1 and shapes.pop()[1] % 3 == 0


def test_processes_share_a_batch_and_agree_on_its_shape():
    whole = make()(4)
    parts = [make(process=(p, 2))(4) for p in range(2)]
    assert parts[0]["tokens"].shape == parts[1]["tokens"].shape
    found = sorted(d for part in parts for d in read_back(part))
    assert found == sorted(read_back(whole))
    with pytest.raises(InputError, match="batch_size 8 is no multiple of the 3 processes"):
        make(process=(0, 3))


def test_long_documents_are_cut():
    batch = make(length=10)(0)
    for tokens, labels, positions in read_back(batch):
        assert len(tokens) == len(labels) == len(positions) <= 10
    encoded = encode([Document("items", "", "y" * 99)], TOKENIZER, 10)
    assert encoded.lengths.tolist() == [10] and encoded.tokens[0] == TOKENIZER.bos_id
    # A prompt that fills the row leaves nothing to learn, and does not fail.
    encoded = encode([Document("items", "p" * 50, "y")], TOKENIZER, 10)
    assert (encoded.labels == -100).all() and encoded.lengths.tolist() == [10]


class Growing(Stream):
    """Nothing but prompts at first, nothing but text later."""

    def __call__(self, place):
        text = "t" * 15
        return Document("items", "" if place >= 600 else text, text if place >= 600 else "")


def test_labels_never_exceed_their_share():
    for stream in (Stream(), Growing(n=900)):
        batches = make(documents=stream)
        for step in (0, 1, 80, 100):
            labels = batches(step)["labels"]
            assert 0 < (labels != -100).sum() <= batches.label_share * labels.size
    assert batches.label_share < 0.2 and labels.shape[1] > batches(0)["labels"].shape[1]


def test_fixed_batches_keep_order_and_number_their_documents():
    documents = [Stream()(place) for place in range(11)]
    batches = fixed_batches(documents, TOKENIZER, 40, 4)
    assert [b["documents"].max() + 1 for b in batches] == [4, 4, 3]
    assert len({b["tokens"].shape for b in batches}) == 1
    for number, batch in enumerate(batches):
        for k in range(batch["documents"].max() + 1):
            at = (batch["documents"] == k) & (batch["segments"] > 0)
            order = np.argsort(batch["positions"][at])
            tokens = batch["tokens"][at][order].tolist()
            assert tokens == expected(number * 4 + k)[0]


def test_steps_an_epoch():
    assert make().steps_per_epoch == 2 and make().n_documents == 20
    assert make(documents=Stream(n=3)).steps_per_epoch == 1
