"""Documents as packed rows, read back: tokens, labels, and the blend of each soft place."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from recjax.errors import InputError
from recjax.text.bpe import train_bpe
from recjax.text.documents import Blend, Document, asked, blend
from recjax.text.prompts import WORDS, Prompt
from recjax.text.tasks import RECOVERY, RESIDUAL
from recjax.text.token_batches import TokenBatches, encode, fixed_batches, lay_out
from recjax.text.tokenizers import load_tokenizer

TOKENIZER = train_bpe(["a bc def"] * 9, 259)
SOFT = (None, False)


def made_of(place, number, width=3):
    """A blend that no other soft token has."""
    return Blend(
        tuple(100 * place + 10 * number + k for k in range(1, width + 1)),
        tuple(np.float32(np.linspace(0.1, 0.9, width) + place).tolist()),
    )


class Stream:
    """Documents that name their place; soft tokens begin, end, touch, are many, or are none."""

    def __init__(self, n=20, seed=0):
        self.n, self.seed = n, seed

    def __len__(self):
        return self.n

    def __call__(self, place):
        rng = np.random.default_rng([self.seed, place])
        text = (f"{place}" + "x" * int(rng.integers(1, 12)), True)
        pieces = {
            0: (text,),
            1: (("which?", False), text),
            2: (("of", False), SOFT, (" and", False), SOFT, SOFT, ("", False), text),
            3: (SOFT, text, SOFT, (f"{place}", True), SOFT),
            4: (("", False), SOFT, ("", False), SOFT, (" is?", False), text),
        }[place % 5]
        count = sum(piece == SOFT for piece in pieces)
        blends = tuple(made_of(place, k, 1 + (place + k) % 4) for k in range(count))
        return Document("items", pieces, blends)


def make(**options):
    return TokenBatches(**{"documents": Stream(), "tokenizer": TOKENIZER, "length": 40,
                           "batch_size": 8} | options)  # fmt: skip


def read_back(batch, k=0):
    """Every packed document: its tokens, labels, positions, soft places, and their blends."""
    out = []
    for row in range(batch["tokens"].shape[1]):
        part = {name: value[k, row] for name, value in batch.items()}
        soft = part.get("is_soft", np.zeros(len(part["tokens"]), bool))
        taken = np.flatnonzero(soft).tolist()  # the n-th soft place of a row has its n-th blend
        for segment in range(1, part["segments"].max() + 1):
            at = part["segments"] == segment
            whole = [part[n][at].tolist() for n in ("tokens", "labels", "positions")]
            blends = []
            for column in np.flatnonzero(at & soft):
                number = taken.index(column)
                items, weights = part["blend_items"][number], part["blend_weights"][number]
                real = weights != 0
                assert not items[~real].any() and real[: real.sum()].all()
                blends.append((tuple(items[real].tolist()), tuple(weights[real].tolist())))
            out.append((*whole, soft[at].tolist(), blends))
    return out


def expected(place, length=40, stream=None):
    """The same of a document alone, piece by piece."""
    document = (stream or Stream())(place)
    tokens, labels, soft = [TOKENIZER.bos_id], [-100], [False]
    for number, (text, learned) in enumerate(document.pieces):
        ids = [TOKENIZER.pad_id] if text is None else TOKENIZER.encode(text, start=number == 0)
        tokens += ids
        labels += ids if learned else [-100] * len(ids)
        soft += [text is None] * len(ids)
    tokens.append(TOKENIZER.eos_id)
    labels.append(TOKENIZER.eos_id if document.pieces[-1][1] else -100)
    soft.append(False)
    tokens, labels, soft = tokens[:length], labels[:length], soft[:length]
    blends = [(b.items, b.weights) for b in document.blends][: sum(soft)]
    return tokens, labels, list(range(len(tokens))), soft, blends


def test_rows_hold_the_stream_s_documents_and_learn_the_texts():
    batch = make()(2, 3)
    for k in range(3):
        places = range((2 + k) * 8, (3 + k) * 8)
        assert sorted(read_back(batch, k)) == sorted(expected(p) for p in places)
    padding = batch["segments"] == 0
    assert padding.any() and (batch["labels"][padding] == -100).all()
    assert not batch["is_soft"][padding].any()
    assert (batch["tokens"].shape[1] < 8) and "documents" not in batch
    # A row has soft tokens of several documents, else their order would not be told.
    owners = [set(s[m]) for s, m in zip(batch["segments"][0], batch["is_soft"][0], strict=True)]
    assert max(map(len, owners)) > 1


def test_types_and_shapes():
    batch = make()(0, 2)
    rows = batch["tokens"].shape[1]
    for name in ("tokens", "labels", "positions", "segments", "is_soft"):
        assert batch[name].shape == (2, rows, 40)
        assert batch[name].dtype == (bool if name == "is_soft" else np.int32)
    soft = batch["blend_items"].shape[2]
    assert soft >= batch["is_soft"].sum(-1).max()
    for name, dtype in (("blend_items", np.int32), ("blend_weights", np.float32)):
        assert batch[name].shape == (2, rows, soft, batch["blend_items"].shape[3])
        assert batch[name].dtype == dtype
    # Places of a row beyond its soft tokens weigh nothing.
    beyond = np.arange(soft) >= batch["is_soft"].sum(-1)[..., None]
    assert beyond.any() and not batch["blend_weights"][beyond].any()


def test_batches_depend_on_the_step_alone():
    together, alone = make()(5, 3), make()(6)
    for name, value in alone.items():
        np.testing.assert_array_equal(value[0], together[name][1])
    other = make(documents=Stream(seed=1))(6)
    assert any(not np.array_equal(other[name], alone[name]) for name in ("tokens", "segments"))


def test_the_shapes_stay_and_rows_are_a_multiple():
    batches = make(row_multiple=3, batch_size=12)
    shapes = {tuple((n, v.shape) for n, v in batches(step).items()) for step in range(20)}
    assert len(shapes) == 1 and dict(shapes.pop())["tokens"][1] % 3 == 0


@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_a_batch_and_agree_on_its_shape(count):
    for step in (0, 4, 7):
        whole = make()(step)
        parts = [make(process=(p, count))(step) for p in range(count)]
        for name in whole:
            assert len({part[name].shape for part in parts}) == 1
        found = sorted(d for part in parts for d in read_back(part))
        assert found == sorted(read_back(whole))
    with pytest.raises(
        InputError, match="config.train.batch_size: 8 is no multiple of the 3 processes"
    ):
        make(process=(0, 3))


@pytest.mark.parametrize("length", [3, 6, 10])
def test_long_documents_are_cut(length):
    batch = make(length=length)(0)
    found = read_back(batch)
    assert sorted(found) == sorted(expected(p, length) for p in range(8))
    kept = [len(expected(p, length)[4]) for p in range(8)]
    assert sum(kept) < sum(len(Stream()(p).blends) for p in range(8))  # soft tokens are cut too
    encoded = encode([Document("items", (("y" * 99, True),))], TOKENIZER, length)
    assert encoded.lengths.tolist() == [length] and encoded.tokens[0] == TOKENIZER.bos_id
    # A question that fills the row leaves nothing to learn, and does not fail.
    encoded = encode([Document("items", (("p" * 50, False), ("y", True)))], TOKENIZER, length)
    assert (encoded.labels == -100).all() and encoded.lengths.tolist() == [length]


class Growing(Stream):
    """Nothing but questions at first, nothing but text later."""

    def __call__(self, place):
        return Document("items", (("t" * 15, place >= 600),))


@pytest.mark.parametrize("shards", [1, 4])
def test_labels_never_exceed_their_share(shards):
    for stream in (Stream(), Growing(n=900)):
        batches = make(documents=stream, batch_size=8 * shards, row_multiple=shards)
        for step in (0, 1, 80, 100):
            labels = batches(step)["labels"]
            for part in np.split(labels[0], shards):
                assert (part != -100).sum() <= batches.label_share * part.size
    assert batches.label_share < 0.2 and labels.shape[1] > batches(0)["labels"].shape[1]
    if shards > 1:  # and all devices have about as many: not 8 of 32 documents' on one
        counts = (batches(80)["labels"][0] != -100).reshape(shards, -1).sum(axis=1)
        assert 0 < counts.max() <= counts.min() + 15
    assert "is_soft" not in batches(0)  # a text without any has no arrays of them


class Softer(Stream):
    """One soft token of one item at first; later many of many, in half of each batch."""

    def __call__(self, place):
        count, width = (5, 30) if place >= 600 and place % 8 > 3 else (1, 1)
        blends = tuple(made_of(place, k, width) for k in range(count))
        return Document("items", (*[SOFT] * count, (f"{place}", True)), blends)


def test_more_soft_tokens_than_usual_get_room():
    stream = Softer(n=900)
    batches = make(documents=stream)
    usual, more = batches(0), batches(80)
    for step, batch in ((0, usual), (80, more)):
        places = range(8 * step, 8 * step + 8)
        assert sorted(read_back(batch)) == sorted(expected(p, stream=stream) for p in places)
    for axis in (2, 3):
        assert more["blend_items"].shape[axis] > usual["blend_items"].shape[axis]
    # All processes see what the neediest of them needs, and none reads the others' documents.
    read: list[list[int]] = [[], []]
    barrier, told = threading.Barrier(2, timeout=30), {}

    class Seen:
        def __init__(self, process):
            self.process = process

        def __call__(self, place):
            read[self.process].append(place)
            return stream(place)

        def __len__(self):
            return len(stream)

    def one(process):
        def agree(sizes):
            told[process] = sizes
            barrier.wait()
            return [max(pair) for pair in zip(told[0], told[1], strict=True)]

        batches = make(documents=Seen(process), process=(process, 2), agree=agree)
        _ = batches._usual_rows, batches._usual_soft  # of the first batches, alike for all
        read[process].clear()
        return batches(80)

    with ThreadPoolExecutor(2) as pool:
        parts = list(pool.map(one, range(2)))
    for name in more:
        assert parts[0][name].shape == parts[1][name].shape
    assert read == [list(range(640, 644)), list(range(644, 648))]


def test_soft_tokens_and_blends_must_agree():
    lacking = Document("items", (SOFT, SOFT, ("x", True)), (made_of(0, 0),))
    with pytest.raises(ValueError, match="1 blends, expected 2"):
        encode([lacking], TOKENIZER, 40)


@pytest.mark.parametrize("name", ["own", "llama2", "gpt2"])
def test_questions_are_what_a_published_model_s_tokenizer_makes_of_placeholders(name, request):
    """What training reads and what an interpreter asks later are the same tokens."""
    tokenizer = TOKENIZER
    if name != "own":
        tokenizer = load_tokenizer(request.getfixturevalue("data_root") / "tokenizers" / name)
    words, titles = WORDS["movie"], ["Heat", "Cat People"]
    bare = (Prompt("{soft}", "{titles}"), Prompt("{soft} or {soft}", "{titles}."))
    for prompt in (*RECOVERY.prompts, *RESIDUAL.prompts, *bare):
        count = prompt.question.count("{soft}")
        blends = [blend([1, 2], 0.5), blend([1, 2, 3], 0.5)][:count]
        document = asked("recovery", prompt, words, titles, blends)
        encoded = encode([document], tokenizer, 999)
        text = prompt.question.format(**vars(words), soft="{soft}")
        ids, is_soft = tokenizer.encode_with_soft(text, bos=True)
        said = " " + prompt.answer.format(**vars(words), titles="Heat, Cat People")
        reply = tokenizer.encode(said, eos=True, start=False)
        assert encoded.tokens.tolist() == ids + reply
        assert (encoded.soft > 0).tolist() == is_soft + [False] * len(reply)
        assert encoded.soft[encoded.soft > 0].tolist() == [1, 2][:count]
        assert encoded.labels.tolist() == [-100] * len(ids) + reply


def encoded(documents):
    return encode(documents, TOKENIZER, 40)


def test_fixed_batches_keep_order_and_number_their_documents():
    documents = [Stream()(place) for place in range(11)]
    batches = fixed_batches(documents, encoded, 40, 4)
    assert [b["documents"].max() + 1 for b in batches] == [4, 4, 3]
    assert len({tuple((n, v.shape) for n, v in b.items()) for b in batches}) == 1
    for number, batch in enumerate(batches):
        stacked = {name: value[None] for name, value in batch.items() if name != "documents"}
        found = read_back(stacked)
        for k in range(batch["documents"].max() + 1):
            at = (batch["documents"] == k) & (batch["segments"] > 0)
            order = np.argsort(batch["positions"][at])
            tokens = batch["tokens"][at][order].tolist()
            wanted = expected(number * 4 + k)
            assert tokens == wanted[0] and wanted in found
    plain = fixed_batches([Stream()(5)], encoded, 40, 4)
    assert len(plain) == 1 and "is_soft" not in plain[0]


def test_room_beyond_what_is_needed_is_padding():
    encoded = encode([Stream()(2)], TOKENIZER, 40)
    batch = lay_out(encoded, 40, 3, soft=7, width=9)
    assert batch["blend_items"].shape == (3, 7, 9) and batch["is_soft"].sum() == 3
    assert batch["is_soft"][1:].sum() == batch["blend_weights"][1:].sum() == 0


def test_steps_an_epoch():
    assert make().steps_per_epoch == 2
    assert make(documents=Stream(n=3)).steps_per_epoch == 1
