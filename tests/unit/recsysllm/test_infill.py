"""Filling blanks: as if each text were read anew, with the positions of training, in every beam."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recjax.errors import InputError
from recjax.generate.templates import Slot, Template
from recjax.llm import LanguageModel
from recjax.models import chatglm, glm, llama
from recjax.models.definition import define, params_of
from recjax.models.language import family_for
from recjax.recsysllm.blanks import construct
from recjax.recsysllm.entities import EntityPool
from recjax.recsysllm.infill import Infiller, text_ids
from recjax.recsysllm.spans import Marks, Spans
from recjax.testing.language_contracts import build
from recjax.text.bpe import train_bpe

MARKS = Marks(cls=20, eos=21, sop=22, eop=23, mask=24, sentence=25, document=26)
SIZES = {
    "vocab_size": 28, "dim": 16, "layers": 2, "heads": 2, "kv_heads": 2, "head_dim": 8,
    "mlp_dim": 64, "init_std": 0.4, "max_length": 40,
}  # fmt: skip
CONFIGS = {
    "glm": glm.Config(**SIZES),
    "chatglm": chatglm.Config(**SIZES),
    "llama": llama.Config(**SIZES),
}
TEXTS = [[20, 3, 24, 5, 1, 2, 3, 25, 21], [20, 26, 7, 4, 5, 6, 21], [20, 1, 24, 24, 21]]
ENTITIES = [(1, 2, 3), (1, 2), (4, 5), (5, 4, 4), (2,)]
NEW, LENGTH = 5, 32
# The models, and whether a causal one reads texts both ways.
READERS = pytest.mark.parametrize(
    ("name", "prefix"), [*((name, False) for name in CONFIGS), ("llama", True)]
)


@functools.cache
def model(name):
    config = CONFIGS[name]
    definition = define(lambda rngs: family_for(config).build(config, rngs=rngs))
    return LanguageModel(definition, params_of(build(config)), config)


def pool_of(entities):
    return EntityPool(entities, MARKS.sop, SIZES["max_length"])


def reread(lm, text, pieces, ended, pool, prefix=False):
    """Log-probabilities [n V] before each token that was written, and these tokens; no cache.

    The last token of a text that did not end by itself was never read.
    """
    places = [n for n, token in enumerate(text) if token in (24, 25, 26)]
    both = list(zip(pieces, ended, strict=True))
    fed = [[MARKS.sop, *p] if end else [MARKS.sop, *p[:-1]] for p, end in both]
    sizes = np.array([len(row) for row in fed])
    if pool is None:
        read, inner = [0] * len(text), [n for size in sizes for n in range(1, size + 1)]
    else:
        read = pool.read(np.array(text), np.array([len(text)]))
        inner = pool.written(np.concatenate(fed), sizes)
    outer = [*range(len(text)), *np.repeat(places, sizes)]
    tokens = np.array([*text, *np.concatenate(fed)], np.int32)
    positions = np.stack([outer, [*read, *inner]])
    if all(ended) and all(len(piece) for piece in pieces):
        as_trained(text, pieces, places, tokens, positions, pool)
    written = np.arange(LENGTH) >= len(text)
    mask = np.where(written[:, None], np.tri(LENGTH, dtype=bool), np.arange(LENGTH) < len(text))
    if lm.family.name == "llama":
        both_ways = np.asarray(mask)[None] if prefix else None
        logits = lm(np.pad(tokens, (0, LENGTH - len(tokens)))[None], mask=both_ways)
    else:
        wide = ((0, 0), (0, LENGTH - len(tokens)))
        logits = lm(
            np.pad(tokens[None], wide), np.pad(positions, wide)[None], np.asarray(mask)[None]
        )
    logs = np.array(jax.nn.log_softmax(logits[0]))[len(text) : len(tokens)]
    targets = [t for p, end in both for t in ([*p, -1] if end else p)]
    return logs, targets


def as_trained(text, pieces, places, tokens, positions, pool):
    """The training example of the text with its blanks filled has these tokens and positions."""
    whole, starts = [], []
    for n, token in enumerate(text):
        if n in places:
            starts.append(len(whole))
        whole += pieces[places.index(n)] if n in places else [token]
    for mask in {text[n] for n in places} - {text[places[0]]}:
        tokens = np.where(tokens == mask, text[places[0]], tokens)  # one kind a training example
    starts = np.array(starts)
    spans = Spans(
        np.zeros(len(starts), int), starts, starts + [len(p) for p in pieces],
        np.array([text[places[0]]]), np.zeros(1, bool), np.zeros(1, int),
    )  # fmt: skip
    example = construct(np.array(whole), np.array([len(whole)]), spans, MARKS, pool=pool)
    np.testing.assert_array_equal(example.tokens, tokens)
    np.testing.assert_array_equal(example.positions.T, positions)


def found_in(found, row, beam, blanks):
    sizes = found.lengths[row, beam, :blanks]
    pieces = [found.tokens[row, beam, k, :n].tolist() for k, n in enumerate(sizes)]
    return pieces, found.valid[row, beam, :blanks]


def count(text):
    return sum(token in (24, 25, 26) for token in text)


@pytest.mark.parametrize("pool", [None, pool_of(ENTITIES)], ids=["counted", "entities"])
@READERS
def test_greedy_at_every_place_as_without_a_cache(name, prefix, pool):
    """The likeliest token at each place; ends and cut texts, one blank and two, padded rows."""
    lm = model(name)
    found = Infiller(lm, marks=MARKS, pool=pool, prefix=prefix)(TEXTS, max_new_tokens=NEW)
    for row, text in enumerate(TEXTS):
        pieces, ended = found_in(found, row, 0, count(text))
        logs, targets = reread(lm, text, pieces, ended, pool, prefix)
        ends = logs[:, [MARKS.eop, MARKS.eos]].max(axis=1)
        logs[:, [MARKS.sop, MARKS.eop, MARKS.eos]] = -np.inf
        for log, end, target in zip(logs, ends, targets, strict=True):
            best = max(log.max(), end)
            assert best - (end if target < 0 else log[target]) < 1e-4
    assert found.lengths[1, 0, 1] == 0 and not found.valid[1, 0, 1]  # the text has one blank


def assert_scores(lm, found, pool, texts, prefix=False):
    """Each beam's score is that of its text, read at once; they fall; none is there twice."""
    for row, text in enumerate(texts):
        seen = set()
        for beam, score in enumerate(found.scores[row]):
            if score == -np.inf:
                continue
            pieces, ended = found_in(found, row, beam, count(text))
            seen.add(str((pieces, ended)))
            logs, targets = reread(lm, text, pieces, ended, pool, prefix)
            ends = logs[:, [MARKS.eop, MARKS.eos]]
            own = [ends[n].max() if t < 0 else logs[n, t] for n, t in enumerate(targets)]
            np.testing.assert_allclose(score, sum(own) / len(own), atol=1e-4)
        assert (np.diff(found.scores[row]) <= 0).all()
    return seen


@READERS
def test_beams_over_two_blanks_score_as_without_a_cache(name, prefix):
    lm, pool = model(name), pool_of(ENTITIES)
    filler = Infiller(lm, marks=MARKS, pool=pool, prefix=prefix)
    found = filler(TEXTS, max_new_tokens=NEW, beams=4)
    assert (found.scores > -np.inf).all()
    assert_scores(lm, found, pool, TEXTS, prefix)
    assert {len(p) for row in range(3) for p in found_in(found, row, 0, 2)[0]} - {NEW}


tokens = st.integers(1, 7)
entity = st.lists(tokens, min_size=1, max_size=4)


@st.composite
def pools(draw):
    """Entities of few tokens, some of which go on where others end."""
    entities = draw(st.lists(entity, min_size=1, max_size=8))
    longer = draw(st.lists(st.sampled_from(entities), max_size=3))
    return entities + [first + draw(entity) for first in longer]


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_positions_of_every_beam_are_those_of_training(data):
    """GLM, random pools: text around the blanks holds entities, too; the score tells positions."""
    entities = data.draw(pools())
    pool = pool_of(entities)
    part = st.one_of(st.sampled_from(entities), st.lists(tokens, max_size=2))
    a, b, c = data.draw(st.tuples(part, part, part))
    text = [20, *a, 24, *b, 24, *c, 21]
    constraint = data.draw(st.sampled_from(["pool", None]))
    filler = Infiller(model("glm"), marks=MARKS, pool=pool, constraint=constraint)
    found = filler([text], beams=4, max_new_tokens=NEW)
    if constraint is None:
        assert_scores(model("glm"), found, pool, [text])
        return
    ended = found.valid[0].all(axis=1)
    whole = {tuple(e) for e in entities if len(e) < NEW}
    for beam in np.flatnonzero(ended):
        pieces, _ = found_in(found, 0, beam, 2)
        assert {tuple(piece) for piece in pieces} <= whole


def test_the_pool_alone():
    """A wide beam finds each entity once, the likeliest first; ends are `<eop>` alone."""
    lm, pool = model("glm"), pool_of(ENTITIES)
    text = TEXTS[1]
    filler = Infiller(lm, marks=MARKS, pool=pool, constraint="pool")
    found = filler([text], beams=8, length_penalty=0.0, early_stopping="never")
    expected = []
    for entity in ENTITIES:
        logs, targets = reread(lm, text, [list(entity)], [True], pool)
        ends = [MARKS.eop if t < 0 else t for t in targets]
        expected.append((logs[np.arange(len(ends)), ends].sum(), list(entity)))
    expected.sort(reverse=True)
    assert [found_in(found, 0, k, 1)[0][0] for k in range(5)] == [e for _, e in expected]
    np.testing.assert_allclose(found.scores[0, :5], [s for s, _ in expected], atol=1e-4)
    assert (found.scores[0, 5:] == -np.inf).all()
    np.testing.assert_array_equal(found.valid[0, :, 0], np.arange(8) < 5)
    for k in range(5):
        assert pool.trie.find(found_in(found, 0, k, 1)[0][0]).size == 1


def test_a_template_in_each_blank():
    pool = pool_of(ENTITIES)
    template = Template(pool.trie, [(9,), Slot(), (10, 11)])
    filler = Infiller(model("glm"), marks=MARKS, pool=pool, constraint=template)
    found = filler(TEXTS, beams=3, max_new_tokens=12)
    assert found.valid[0].all()
    for beam in range(3):
        for piece, valid in zip(*found_in(found, 0, beam, 2), strict=True):
            assert valid and (piece[0], piece[-2:]) == (9, [10, 11])
            assert pool.trie.find(piece[1:-2]).size
    short = filler(TEXTS, max_new_tokens=3)
    assert not short.valid.any() and (short.lengths[:, 0, 0] == 3).all()


def test_drawn_texts():
    """A row's draws do not depend on the others; the temperature matters."""
    filler = Infiller(model("glm"), marks=MARKS, pool=pool_of(ENTITIES))
    options = {"max_new_tokens": NEW, "temperature": 1.5, "seed": 3}
    found = filler(TEXTS * 3, **options)
    assert len({str(found.tokens[row]) for row in (0, 3, 6)}) == 3
    later = filler(TEXTS * 2, first_row=3, **options)
    np.testing.assert_array_equal(found.tokens[3:], later.tokens)
    assert (found.scores < 0).all()


def test_one_program_for_texts_of_about_one_length():
    """Other texts, fewer tokens, another limit in the same bucket, another pool: no trace."""
    from recjax.recsysllm import infill as module

    filler = Infiller(model("glm"), marks=MARKS, pool=pool_of(ENTITIES))
    filler(TEXTS, max_new_tokens=NEW)
    compiled = module._write._cache_size()
    filler([[20, 24, 24, 21], [20, 24, 24], [20, 1, 2, 3, 26, 24]], max_new_tokens=NEW - 1)
    other = Infiller(model("glm"), marks=MARKS, pool=pool_of([(7, 8), (9, 10, 11)]))
    other(TEXTS, max_new_tokens=NEW)
    assert module._write._cache_size() == compiled


BAD = {
    "text 0 has no blank; expected one of": ([[20, 1, 21]], {}),
    "infilling: no texts": ([], {}),
    "expected a list of texts or of ids, got one text": ("a [MASK]", {}),
    "texts need a tokenizer": (["a [MASK]"], {}),
    "text 0: token 99; expected ids from 0 to 27": ([[99, 24]], {}),
    "text 1: float64 of 1 axes": ([[24], [2.5]], {}),
    "text 0: <sop> is inside": ([[22, 24]], {}),
    "text 0 has 41 tokens; expected at most 40": ([[24] + [1] * 40], {}),
    "max_new_tokens 41: expected at most 40": ([[24]], {"max_new_tokens": 41}),
    "max_new_tokens 0: expected at least 1": ([[24]], {"max_new_tokens": 0}),
    "beams 0: expected at least 1": ([[24]], {"max_new_tokens": 2, "beams": 0}),
    "top_p 0: expected more than 0": ([[24]], {"temperature": 1.0, "top_p": 0}),
    "temperature must be 0": ([[24]], {"beams": 2, "temperature": 1.0}),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_texts(message):
    texts, options = BAD[message]
    with pytest.raises(InputError, match=message):
        Infiller(model("glm"), marks=MARKS)(texts, **options)


def test_bad_models_and_pools():
    lm, other = model("glm"), EntityPool([(1,)], 5, 8)
    tokenizer = train_bpe(["a film"], 259)
    plain = LanguageModel(lm.definition, lm.params, lm.config, tokenizer=tokenizer)
    for message, made, options in (
        ("the model has no tokenizer; expected marks=", lm, {}),
        (r"the tokenizer has no \[CLS\]|the tokenizer has no <\|startofpiece", plain, {}),
        ("a command token 26; expected at most 9", lm, {"marks": MARKS, "small": True}),
        ("entity pool: <sop> is 5; expected 22", lm, {"marks": MARKS, "pool": other}),
        ("constraint 'pool', but no pool", lm, {"marks": MARKS, "constraint": "pool"}),
        ("constraint 'title'; expected 'pool' or a template", lm,
         {"marks": MARKS, "constraint": "title"}),
        ("entity pool: token 30; expected at most 27", lm,
         {"marks": MARKS, "pool": pool_of([(30,)])}),
        ("stop token 23 is part of the template", lm,
         {"marks": MARKS, "pool": pool_of([(3, 23)]), "constraint": "pool"}),
    ):  # fmt: skip
        if options.pop("small", False):
            small = glm.Config(**(SIZES | {"vocab_size": 10}))
            made = LanguageModel(lm.definition, lm.params, small)
        with pytest.raises(InputError, match=message):
            Infiller(made, **options)


def test_positions_of_one_row_where_two_are_expected():
    with pytest.raises(InputError, match=r"positions have shape \(1, 3\), expected \(1, 2, 3\)"):
        model("glm")([[1, 2, 3]], positions=np.arange(3)[None])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"positions": np.full((1, 2, 3), np.nan)}, "positions: expected integers from 0 on"),
        ({"positions": np.zeros((1, 2, 3))}, "positions: expected integers from 0 on"),
        ({"positions": np.full((1, 2, 3), -1)}, "positions: expected integers from 0 on"),
        ({"mask": np.full((1, 3, 3), np.nan)}, "the mask: expected True and False, or 1 and 0"),
        ({"mask": np.full((1, 3), 2)}, "the mask: expected True and False, or 1 and 0"),
        ({"mask": [["yes", "no", "no"]]}, "the mask: expected True and False, or 1 and 0"),
    ],
)
def test_places_and_masks_of_other_values(given, message):
    with pytest.raises(InputError, match=message):
        model("glm")([[1, 2, 3]], **given)


def test_texts_get_what_begins_and_ends_a_text_of_the_model():
    """GLM's [CLS] and end; of ChatGLM, whose texts end in [gMASK] and <sop>, no second blank."""
    tokenizer = train_bpe(["a film"], 259)
    a, b = tokenizer.encode_batch(["a", "b"])
    marks = Marks(cls=300, eos=301, sop=302, eop=303, mask=304, sentence=305, document=306)

    class Tokens:
        begin, end = (), ()

        def encode_batch(self, texts, special):
            assert special  # names of command tokens stand for the tokens
            out = []
            for text in texts:
                before, found, after = text.partition("[MASK]")
                out.append([*tokenizer.encode(before), *[marks.mask] * bool(found)])
                out[-1] += tokenizer.encode(after)
            return out

    glm_like = Tokens()
    assert text_ids(glm_like, ["a[MASK]"], marks) == [[300, *a, 304, 301]]
    chat_like = Tokens()
    chat_like.end = (306, 302)
    no_cls = dataclasses.replace(marks, cls=-1)
    expected = [[*a, 306], [*a, 304, *b]]
    assert text_ids(chat_like, ["a", "a[MASK]b"], no_cls) == expected
