"""Inner positions: of texts as a whole by NumPy, token by token on the device, in every beam."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recjax.errors import InputError
from recjax.generate.beam import beam_search
from recjax.generate.loop import decode
from recjax.generate.sampling import Sampler, row_keys
from recjax.recsysllm.dynamic import dynamic_positions
from recjax.recsysllm.entities import EntityPool

VOCAB = 8  # of which 7 is <sop> and 6 ends a text
SOP, STOP = 7, 6


def by_hand(entities, text):
    """The rule on lists of tokens: the tokens since the last start, and whether they go on."""
    starts = {tuple(entity[:n]) for entity in entities for n in range(1, len(entity) + 1)}
    out, since, before = [], (), None
    for token in text:
        if token == SOP:
            out.append(1)
            since = ()
        elif since and (*since, token) in starts:
            since = (*since, token)
            out.append(out[-1] + 1)
        else:
            since = (token,) if (token,) in starts else ()
            out.append(out[-1] + 1 if before == SOP else 1)
        before = token
    return out


def read_by_hand(entities, text):
    out, place = [], 0
    while place < len(text):
        found = [len(e) for e in entities if tuple(text[place : place + len(e)]) == tuple(e)]
        size = max(found, default=0)
        out += range(1, size + 1) if size else [0]
        place += max(size, 1)
    return out


tokens = st.integers(0, 5)
entity = st.lists(tokens, min_size=1, max_size=4)


@st.composite
def pools(draw):
    """Entities of few tokens, some of which go on where others end."""
    entities = draw(st.lists(entity, min_size=1, max_size=8))
    longer = draw(st.lists(st.sampled_from(entities), max_size=3))
    return entities + [first + draw(entity) for first in longer]


@st.composite
def texts(draw, entities):
    """Spans of entities, their beginnings and plain tokens, directly after each other."""
    part = st.one_of(
        st.sampled_from(entities),
        st.sampled_from(entities).map(lambda e: e[:-1]),
        st.lists(tokens, max_size=3),
        st.just([SOP]),
    )
    return [SOP, *itertools.chain.from_iterable(draw(st.lists(part, max_size=8)))]


@jax.jit
def step_by_step(dynamic, text):
    """Inner positions [B T] of tokens [B T], one at a time."""

    def step(state, token):
        state = dynamic.update(state, token)
        return state, state.inner

    return jax.lax.scan(step, dynamic.init(len(text)), text.T)[1].T


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_positions_while_writing_are_those_of_the_text(data):
    entities = data.draw(pools())
    rows = data.draw(st.lists(texts(entities), min_size=1, max_size=4))
    pool = EntityPool(entities, SOP, 16)
    lengths = np.array([len(row) for row in rows])
    whole = pool.written(np.concatenate(rows).astype(np.int32), lengths)
    assert whole.tolist() == [n for row in rows for n in by_hand(entities, row)]
    padded = np.zeros((4, 64), np.int32)
    for n, row in enumerate(rows):
        padded[n, : len(row)] = row
    stepped = np.asarray(step_by_step(dynamic_positions(pool, VOCAB), jnp.asarray(padded)))
    assert [
        n for row, at in zip(stepped, lengths, strict=False) for n in row[:at]
    ] == whole.tolist()


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_texts_that_are_read_have_positions_in_whole_entities_alone(data):
    entities = data.draw(pools())
    rows = data.draw(st.lists(texts(entities), min_size=1, max_size=4))
    pool = EntityPool(entities, SOP, 16)
    lengths = np.array([len(row) for row in rows])
    found = pool.read(np.concatenate(rows).astype(np.int32), lengths)
    assert found.tolist() == [n for row in rows for n in read_by_hand(entities, row)]


def test_figure_2_of_recsysllm():
    """A token that goes on with the entity before it grows the position; others start at 1."""
    pool = EntityPool([(1, 2, 3), (1, 2), (4, 5)], SOP, 16)
    span = [
        (SOP, 1),
        (1, 2),  # the first token of a span is at 2, an entity's or not
        (2, 3),
        (3, 4),
        (4, 1),  # another entity, directly after
        (5, 2),
        (0, 1),  # plain
        (0, 1),
        (1, 1),
        (2, 2),  # an entity that is the beginning of another
        (5, 1),  # the last token of an entity alone is plain
        (SOP, 1),
        (0, 2),
        (3, 1),
    ]
    text, inner = map(list, zip(*span, strict=True))
    assert pool.written(np.array(text, np.int32), np.array([len(text)])).tolist() == inner
    dynamic = dynamic_positions(pool, VOCAB)
    assert step_by_step(dynamic, jnp.array([text])).tolist() == [inner]


ENTITIES = [(1, 2, 3), (1, 2), (4, 5), (5, 4, 4), (2,)]
POOL = EntityPool(ENTITIES, SOP, 16)


# Logits of the next token follow from the last token and its inner position; entities are likely.
LENGTH = 20
WEIGHTS = np.random.default_rng(0).normal(size=(LENGTH + 2, VOCAB, VOCAB)).astype(np.float32)
for before, after in ((SOP, 1), (SOP, 5), (1, 2), (2, 3), (4, 5), (5, 4), (4, 4)):
    WEIGHTS[:, before, after] += 2
WEIGHTS[..., SOP] = -np.inf
WEIGHTS[..., STOP] -= 1


def model(rows):
    """Its step, and logits and cache after `<sop>`."""
    dynamic = dynamic_positions(POOL, VOCAB)

    def step(tokens, state):
        state = dynamic.update(state, tokens)
        return jnp.asarray(WEIGHTS)[state.inner, tokens], state

    return step, *step(jnp.full(rows, SOP), dynamic.init(rows))


def log_probs(text):
    """Of a text's tokens, with the positions of the text as a whole."""
    text = np.array([SOP, *text], np.int32)
    inner = POOL.written(text, np.array([len(text)]))
    logits = WEIGHTS[inner, text][:-1]
    norm = np.log(np.exp(logits).sum(axis=1))
    return logits[np.arange(len(text) - 1), text[1:]] - norm


def test_every_row_of_a_loop_has_the_positions_of_its_text():
    @jax.jit
    def write(keys):
        options = {"max_new_tokens": LENGTH, "stop": jnp.array([STOP])}
        return decode(*model(32), sampler=Sampler(), keys=keys, **options)

    done = write(row_keys(jax.random.key(1), jnp.arange(32)))
    assert len({tuple(row) for row in done.tokens.tolist()}) > 20
    positions = set()
    for row, length, seen in zip(done.tokens, done.lengths, done.log_probs, strict=True):
        text = np.asarray(row)[:length]
        np.testing.assert_allclose(np.asarray(seen)[:length], log_probs(text), rtol=1e-4, atol=1e-5)
        positions |= set(by_hand(ENTITIES, [SOP, *text]))
    assert positions >= {1, 2, 3}


def test_every_beam_has_the_positions_of_its_text():
    @jax.jit
    def write():
        return beam_search(
            *model(2),
            lambda state, rows: jax.tree.map(lambda a: a[rows], state),
            max_new_tokens=LENGTH,
            beams=6,
            stop=jnp.array([STOP]),
            length_penalty=0.0,
        )

    found = write()
    inner = []
    for row in range(2):
        for text, length, score in zip(*(a[row] for a in found), strict=True):
            text = np.asarray(text)[:length]
            np.testing.assert_allclose(score, log_probs(text).sum(), rtol=1e-4)
            inner += by_hand(ENTITIES, [SOP, *text])
    assert max(inner) >= 3


def test_a_large_pool():
    """100,000 titles are held in little memory."""
    rng = np.random.default_rng(0)
    titles = [rng.integers(0, 30_000, n).tolist() for n in rng.integers(2, 13, 100_000)]
    pool = EntityPool(titles, 50257, 1024)
    dynamic = dynamic_positions(pool, 50304)
    assert sum(a.nbytes for a in jax.tree.leaves(dynamic)) < 50e6
    text = np.array([50257, *titles[3], *titles[4], *titles[5][:-1], 40_000], np.int32)
    whole = pool.written(text, np.array([len(text)]))
    assert step_by_step(dynamic, jnp.asarray(text)[None]).tolist() == [whole.tolist()]
    own = [*range(2, 2 + len(titles[3])), *range(1, 1 + len(titles[4]))]
    assert whole[1 : 1 + len(own)].tolist() == own


@pytest.mark.parametrize(
    ("entities", "words"),
    [
        ([], "entity pool: empty; expected one entity or more"),
        ([[1], []], "entity pool: entity 1 has 0 tokens; expected 1 to 4"),
        ([[1], [1, 2, 3, 4, 5]], "entity pool: entity 1 has 5 tokens; expected 1 to 4"),
        ([[1, SOP]], "entity pool: entity 0 has token 7"),
        ([[1, -1]], "entity pool: entity 0 has token -1"),
        (None, "entity pool: expected a list of entities"),
        ("Heat", "entity pool: expected a list of entities"),
        ([[1], "Heat"], "entity pool: entity 1 is 'Heat'; expected a list of token ids"),
        ([[1], [2.5]], "entity pool: entity 1 is "),
        ([[float("nan")]], "entity pool: entity 0 is "),
        (np.zeros((2, 3)), "entity pool: entity 0 is "),
    ],
)
def test_bad_pools(entities, words):
    with pytest.raises(InputError, match=words):
        EntityPool(entities, SOP, 4)


def test_a_token_beyond_the_vocabulary():
    with pytest.raises(InputError, match="entity pool: token 9; expected at most 7"):
        dynamic_positions(EntityPool([[1, 9]], SOP, 4), VOCAB)
