"""Blanks: how they are drawn, what a batch holds, and Figure 1 of RecSysLLM."""

import dataclasses
import itertools

import numpy as np
import pytest

from recjax.errors import InputError
from recjax.nn.masks import make_mask
from recjax.recsysllm.blanks import BlankBatches, construct, sentence_ends
from recjax.recsysllm.entities import EntityPool
from recjax.recsysllm.spans import BlankConfig, Marks, Spans, sample_spans
from recjax.text.bpe import train_bpe
from recjax.text.documents import Document
from recjax.text.token_batches import NO_LABEL, lay_out

MARKS = Marks(cls=300, eos=301, sop=302, eop=303, mask=304, sentence=305, document=306, block=307)
STOP = 7  # the token that ends a sentence
ENDS = np.arange(400) == STOP


def texts(count, low, high, seed=0):
    """`[CLS]` tokens eos, of random lengths."""
    rng = np.random.default_rng(seed)
    rows = [rng.integers(0, 200, rng.integers(low, high)) for _ in range(count)]
    rows = [np.concatenate([[MARKS.cls], row, [MARKS.eos]]) for row in rows]
    return np.concatenate(rows).astype(np.int32), np.array([len(row) for row in rows])


def drawn(config, tokens, lengths, seed=0, **kwargs):
    places = np.arange(len(lengths))
    return sample_spans(
        tokens, lengths, config, MARKS, seed=seed, places=places, ends=ENDS, **kwargs
    )


def by_text(spans, count):
    out = [[] for _ in range(count)]
    for text, start, stop in zip(spans.text, spans.start, spans.stop, strict=True):
        out[text].append((int(start), int(stop)))
    return out


def test_short_spans_cover_the_share_and_do_not_touch():
    tokens, lengths = texts(400, 1, 300)
    spans = drawn(BlankConfig(), tokens, lengths)
    for length, found in zip(lengths, by_text(spans, 400), strict=True):
        found = sorted(found)
        assert found[0][0] >= 1 and found[-1][1] <= length - 1
        assert all(stop < start for (_, stop), (start, _) in itertools.pairwise(found))
        sizes = [stop - start for start, stop in found]
        assert min(sizes) > 0 and sum(sizes) >= min(max(1, int(0.15 * length)), length - 2)
        assert sum(sizes) < int(0.15 * length) + 39
    sizes = spans.stop - spans.start
    # Poisson(3) from 1 on, but for spans cut by short texts: shares of GLM's own table.
    share = np.bincount(sizes, minlength=5)[1:5] / len(sizes)
    np.testing.assert_allclose(share, np.array([3, 4.5, 4.5, 3.375]) / (np.exp(3) - 1), atol=0.03)
    assert [f != sorted(f) for f in by_text(spans, 400)].count(True) > 200
    ordered = by_text(drawn(BlankConfig(shuffle=False), tokens, lengths), 400)
    assert ordered == [sorted(f) for f in by_text(spans, 400)]


def test_short_spans_begin_anywhere():
    """Of 20 tokens with one blank of length 1, each is blanked as often."""
    tokens, lengths = texts(6000, 20, 21)
    config = BlankConfig(ratio=0.0, mean=1e-6)
    counts = np.bincount(drawn(config, tokens, lengths).start, minlength=22)
    assert counts[0] == counts[21] == 0
    assert counts[1:21].min() > 220 and counts[1:21].max() < 390


def test_sentences_are_whole():
    tokens, lengths = texts(200, 1, 400)
    tokens[np.random.default_rng(1).random(len(tokens)) < 0.04] = STOP
    starts = np.cumsum(lengths) - lengths
    tokens[starts], tokens[starts + lengths - 1] = MARKS.cls, MARKS.eos
    spans = drawn(BlankConfig(token=0.0, sentence=1.0), tokens, lengths)
    assert (spans.mask == MARKS.sentence).all()
    for n, found in enumerate(by_text(spans, 200)):
        text = tokens[starts[n] : starts[n] + lengths[n]]
        assert found
        for start, stop in found:
            assert start == 1 or text[start - 1] == STOP
            assert text[stop - 1] == STOP or stop == len(text) - 1
            assert STOP not in text[start : stop - 1]
        sizes = [stop - start for start, stop in found]
        assert sum(sizes) >= min(int(0.15 * len(text)), 1)


def test_long_spans_have_their_lengths():
    tokens, lengths = texts(3000, 40, 41)
    config = BlankConfig(token=0.0, document=1.0, tail=0.25)
    spans = drawn(config, tokens, lengths)
    assert np.array_equal(spans.text, np.arange(3000)) and (spans.mask == MARKS.document).all()
    size = spans.stop - spans.start
    assert size.min() == 21 and size.max() == 40
    assert (spans.stop[spans.open] == 42).all()
    assert (spans.stop[~spans.open] < 42).all() and spans.start.min() == 1
    assert 0.2 < spans.open.mean() < 0.3
    assert np.bincount(size)[21:].min() > 90


def test_shares_of_the_levels():
    tokens, lengths = texts(4000, 30, 60)
    spans = drawn(BlankConfig(0.5, 0.3, 0.2), tokens, lengths)
    np.testing.assert_allclose(np.bincount(spans.level) / 4000, [0.5, 0.3, 0.2], atol=0.03)


def test_a_text_has_its_blanks_wherever_it_stands():
    tokens, lengths = texts(8, 30, 60)
    config = BlankConfig(0.5, 0.3, 0.2)
    whole = by_text(drawn(config, tokens, lengths), 8)
    starts = np.cumsum(lengths) - lengths
    for n in range(8):
        text = tokens[starts[n] : starts[n] + lengths[n]]
        alone = sample_spans(
            text, lengths[n : n + 1], config, MARKS, seed=0, places=np.array([n]), ends=ENDS
        )
        assert by_text(alone, 1)[0] == whole[n]
    assert by_text(drawn(config, tokens, lengths, seed=1), 8) != whole


def test_texts_without_a_token_to_blank_have_none():
    tokens = np.array([MARKS.cls, MARKS.eos, MARKS.cls, 1, MARKS.eos, MARKS.eos], np.int32)
    for config in (BlankConfig(), BlankConfig(0, 1, 0), BlankConfig(0, 0, 1)):
        spans = drawn(config, tokens, np.array([2, 3, 1]))
        assert spans.text.tolist() == [1]
        done = construct(tokens, np.array([2, 3, 1]), spans, MARKS)
        assert done.lengths[0] == 2 and done.lengths[2] == 1


class Stream:
    def __len__(self):
        return 64

    def __call__(self, place):
        text = f"the user watched film {place}. then film {place + 1} again." * (1 + place % 3)
        return Document("items", ((text, True),))


TOKENIZER = train_bpe(["the user watched film then again."] * 9, 290)


def batches(**kwargs):
    config = BlankConfig(0.5, 0.3, 0.2, block=0.1)
    settings = {
        "documents": Stream(),
        "tokenizer": TOKENIZER,
        "length": 64,
        "batch_size": 16,
        "config": config,
        "marks": MARKS,
        "ends": sentence_ends(TOKENIZER, 400),
        "seed": 3,
    }
    return BlankBatches(**settings | kwargs)


def test_batches_are_a_function_of_seed_and_step():
    one, again, other = batches()(5), batches()(5), batches(seed=4)(5)
    assert one.keys() == {"tokens", "targets", "positions", "ar", "segments"}
    for name in one:
        np.testing.assert_array_equal(one[name], again[name])
    assert any(one[n].shape != other[n].shape or (one[n] != other[n]).any() for n in one)
    rows = one["tokens"].shape[1]
    assert one["positions"].shape == (1, rows, 2, 64)
    stacked = batches()(4, 2)
    np.testing.assert_array_equal(stacked["tokens"][1], one["tokens"][0])


def test_processes_share_the_texts_of_a_step():
    def pieces(batch):
        flat = zip(batch["tokens"].ravel(), batch["targets"].ravel(), strict=True)
        return sorted(flat)

    whole = batches()(2)
    halves = [batches(process=(n, 2))(2) for n in (0, 1)]
    real = [{k: v[:, :, None] if k != "positions" else v for k, v in h.items()} for h in halves]
    tokens = [t for half in real for t in pieces(half) if t != (0, NO_LABEL)]
    assert sorted(tokens) == [t for t in pieces(whole) if t != (0, NO_LABEL)]


def test_packed_texts_see_their_own_part_a_and_what_they_wrote():
    batch = {name: rows[0] for name, rows in batches()(0).items()}
    mask = np.asarray(make_mask(batch["segments"] > 0, batch["ar"], batch["segments"]))
    assert (batch["segments"].max(axis=1) > 1).any()
    for segments, written, seen, targets in zip(
        batch["segments"], batch["ar"], mask, batch["targets"], strict=True
    ):
        for query in np.flatnonzero(segments):
            own = segments == segments[query]
            before = np.arange(len(segments)) <= query
            expected = own & ((written == 0) | (before & (written[query] == 1)))
            np.testing.assert_array_equal(seen[query], expected)
        assert (targets[(segments == 0) | (written == 0)] == NO_LABEL).all()


def test_every_text_is_learned_and_fits():
    made = batches()
    for step in range(4):
        batch = made(step)
        count = sum(len(np.unique(row[row > 0])) for row in batch["segments"][0])
        learned = [
            (row[seg == s] != NO_LABEL).any()
            for row, seg in zip(batch["targets"][0], batch["segments"][0], strict=True)
            for s in np.unique(seg[seg > 0])
        ]
        assert count == 16 and all(learned)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"token": 0.0}, "token: expected one of token, sentence and document above 0"),
        ({"token": -1.0, "sentence": 3.0}, "token: expected .*, got -1.0"),
        ({"ratio": 1.5}, "ratio: expected .*, got 1.5"),
        ({"mean": 0.0}, "mean: expected .*, got 0.0"),
    ],
)
def test_bad_settings(settings, words):
    with pytest.raises(InputError, match=words):
        BlankConfig(**settings)


def test_a_tokenizer_without_command_tokens():
    with pytest.raises(InputError, match=r"\(sop\), <.endofpiece.> \(eop\), \[MASK\] \(mask\);"):
        Marks.of(TOKENIZER)
    made = batches(marks=dataclasses.replace(MARKS, block=-1))
    with pytest.raises(InputError, match=r"no \[dBLOCK\]"):
        made(0)


def test_figure_1_of_recsysllm():
    """x1 .. x7 with the entities e1 = x1 x2 x3 and e2 = x6 x7; e1 and x5 are blanked.

    Outer positions count from 0, as GLM's tables do.
    """
    x1, x2, x3, x4, x5, x6, x7 = range(11, 18)
    m, start, end = MARKS.mask, MARKS.sop, MARKS.eop
    pool = EntityPool([(x1, x2, x3), (x6, x7)], sop=start, context=16)
    spans = Spans(
        text=np.array([0, 0]),
        start=np.array([0, 4]),
        stop=np.array([3, 5]),
        mask=np.array([m]),
        open=np.array([False]),
        level=np.array([0]),
    )
    text = np.array([x1, x2, x3, x4, x5, x6, x7], np.int32)
    done = construct(text, np.array([7]), spans, MARKS, pool=pool)
    no = NO_LABEL
    figure = [  # token, outer, inner, predicts
        (m, 0, 0, no),
        (x4, 1, 0, no),
        (m, 2, 0, no),
        (x6, 3, 1, no),
        (x7, 4, 2, no),
        (start, 0, 1, x1),
        (x1, 0, 2, x2),
        (x2, 0, 3, x3),
        (x3, 0, 4, end),
        (start, 2, 1, x5),
        (x5, 2, 2, end),
    ]
    assert list(zip(done.tokens, *done.positions.T, done.labels, strict=True)) == figure
    batch = lay_out(done, 12, 1)
    mask = np.asarray(make_mask(batch["segments"] > 0, batch["ar"], batch["segments"]))[0]
    seen = ["".join("x" if on else "." for on in row[:11]) for row in mask[:11]]
    assert seen == ["xxxxx......"] * 5 + ["x" * n + "." * (11 - n) for n in range(6, 12)]
