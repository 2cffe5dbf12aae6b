"""Constrained decoding: only titles come out, the most likely ones, however they branch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.errors import InputError
from recjax.generate import trie
from recjax.generate.beam import beam_search
from recjax.generate.constrained import constrain
from recjax.generate.loop import decode
from recjax.generate.processors import ForbiddenTokens
from recjax.generate.sampling import Sampler, row_keys
from recjax.generate.templates import Slot, Template, Trie

STOP = 0
PROMPTS = jnp.array([[1, 2], [3, 4], [5, 6], [2, 2], [4, 1]])
# Prefixes of each other, duplicates, and a first token that most share.
TITLES = [(1, 2), (1, 2, 3), (1, 2, 3, 4, 5), (1, 3), (1, 4), (1, 5, 5), (6,), (6,), (2, 1)]


def run(model, template, vocab=7, stop=(STOP,), n=10, prompts=PROMPTS, **options):
    logits, cache = model.start(prompts)
    processors = (constrain(template, stop, vocab), *options.pop("processors", ()))
    stop = jnp.array(stop)

    @jax.jit
    def generate(processors):
        return decode(
            model.step, logits, cache, max_new_tokens=n, stop=stop, processors=processors, **options
        )

    return generate(processors)


def texts(out):
    """Each row's tokens before its stop token."""
    rows = zip(np.asarray(out.tokens), np.asarray(out.lengths), strict=True)
    return [tuple(tokens[: n - 1].tolist()) for tokens, n in rows]


def score(model, prompt, tokens, allowed):
    """Log-probability of a text among the allowed ones: renormalised at each step."""
    total = 0.0
    for n, token in enumerate(tokens):
        log = model.after([*prompt, *tokens[:n]])
        next_ones = sorted({t[n] for t in allowed if t[:n] == tokens[:n] and len(t) > n})
        total += log[token] - float(jax.nn.logsumexp(log[jnp.array(next_ones)]))
    return total


def test_greedy_by_hand(model):
    """The most likely continuation at each node, and the end only where a title ends."""
    out = run(model, Template(Trie(TITLES)))
    whole = [(*t, STOP) for t in TITLES]
    assert out.stopped.all()
    for row, prompt in enumerate(PROMPTS.tolist()):
        tokens = ()
        while not tokens or tokens[-1] != STOP:
            allowed = {t[len(tokens)] for t in whole if t[: len(tokens)] == tokens}
            logits = model.after([*prompt, *tokens])
            tokens += (max(allowed, key=lambda token: logits[token]),)
        assert texts(out)[row] == tokens[:-1]
        np.testing.assert_allclose(
            out.log_probs[row].sum(), score(model, prompt, tokens, whole), atol=1e-5
        )


@pytest.mark.parametrize("short", [1, 3, 32])
def test_long_and_short_lists_agree(model, monkeypatch, short):
    """The root has 3 edges and node 1 four: as bits, as a list, or one of each."""
    expected = run(model, Template(Trie(TITLES))).tokens
    monkeypatch.setattr(trie, "_SHORT", short)
    one = constrain(Template(Trie(TITLES)), (STOP,), 7)
    assert int(one.trie.long.max()) == {1: 2, 3: 2, 32: 1}[short]
    np.testing.assert_array_equal(run(model, Template(Trie(TITLES))).tokens, expected)


def test_a_node_allows_its_edges_and_its_end():
    titles = Trie(TITLES)
    constraint = constrain(titles, (STOP, -1), 7)
    nodes = jnp.arange(constraint.trie.off + 1)  # and some that nothing leads to, and the one off
    update = jax.jit(lambda *a: constraint.update(*a))
    found = (
        np.asarray(
            jax.jit(lambda *a: constraint(*a, 0))(nodes, np.zeros((nodes.size, 7), np.float32))
        )
        == 0
    )
    for node in range(len(titles)):
        edges = slice(titles.offsets[node], titles.offsets[node + 1])
        expected = set(titles.tokens[edges]) | ({STOP} if len(titles.titles_at(node)) else set())
        assert set(np.flatnonzero(found[node])) == expected
    assert np.flatnonzero(found[-1]).tolist() == [STOP]
    every = np.ones(nodes.size, bool)
    stays = update(nodes, np.full(nodes.size, 3), ~every)
    np.testing.assert_array_equal(stays, nodes)
    np.testing.assert_array_equal(update(nodes, np.full(nodes.size, STOP), every), nodes)
    assert update(np.array([0]), np.array([5]), every[:1]) == constraint.trie.off


def test_sampled_titles_are_titles(hash_model):
    model = hash_model(scale=0.3)  # nearly flat, so that all titles are drawn
    options = {"sampler": Sampler(2.0, 0.99), "keys": row_keys(jax.random.key(0), jnp.arange(200))}
    out = run(model, Template(Trie(TITLES)), prompts=jnp.tile(PROMPTS, (40, 1)), **options)
    assert set(texts(out)) == set(TITLES)


@pytest.mark.parametrize("stop", [(STOP,), (STOP, 7)])
def test_a_wide_beam_ranks_all_titles(hash_model, stop):
    """Scores are sums of the model's own log-probabilities, not renormalised; a text that ends with
    either of two tokens is one text, with the probability of both."""
    model = hash_model(vocab=8)
    constraint = constrain(Template(Trie(TITLES)), stop, 8)
    logits, cache = model.start(PROMPTS)
    out = jax.jit(
        lambda c: beam_search(
            model.step, logits, cache, model.reorder, max_new_tokens=8, beams=12,
            stop=jnp.array(stop), length_penalty=0.0, early_stopping="never", processors=(c,),
        )
    )(constraint)  # fmt: skip
    for row, prompt in enumerate(PROMPTS.tolist()):
        expected = []
        for title in set(TITLES):
            steps = [
                np.asarray(jax.nn.log_softmax(model.after([*prompt, *title[:n]])))
                for n in range(len(title) + 1)
            ]
            end = np.logaddexp.reduce(steps[-1][list(stop)])
            expected.append((sum(steps[n][t] for n, t in enumerate(title)) + end, title))
        expected.sort(reverse=True)
        np.testing.assert_allclose(out.scores[row, :8], [s for s, _ in expected], atol=1e-4)
        found = [
            tuple(t[: n - 1].tolist())
            for t, n in zip(out.tokens[row, :8], out.lengths[row, :8], strict=True)
        ]
        assert found == [title for _, title in expected]
        assert (out.lengths[row, 8:] == 0).all()


def test_a_template_is_written_around_titles(model):
    """5 closes the sentence and goes on in titles; both readings are kept until they part."""
    template = Template(Trie(TITLES), [[4, 4], Slot((3,)), [5, 5, 2]])
    out = run(model, template, n=14)
    ended = np.asarray(out.stopped)
    assert ended.any()
    for text in np.array(texts(out), object)[ended]:
        assert text[:2] == (4, 4) and text[-3:] == (5, 5, 2)
        assert template.parse(text)
    assert all(row[:2].tolist() == [4, 4] for row in out.tokens)


def test_a_row_with_nothing_allowed_stops_and_names_nothing(model):
    """After 1 all is forbidden: what argmax says of nothing (0) is no title, then the end."""
    titles, both = Trie([(1, 2), (1, 3)]), jnp.array([2, 3])
    out = run(model, Template(titles), stop=(5,), processors=(ForbiddenTokens(both),), pad_id=6)
    assert (out.tokens[:, :4] == jnp.array([1, 0, 5, 6])).all() and out.stopped.all()
    assert (out.log_probs[:, 1] == -jnp.inf).all()
    assert titles.find((1, 0)).size == 0


def test_a_limit_cuts_a_title(model):
    out = run(model, Template(Trie([(1, 2, 3, 4)])), n=3)
    assert (out.tokens == jnp.array([1, 2, 3])).all() and not out.stopped.any()


def test_another_catalogue_of_about_the_same_size_compiles_nothing(model):
    logits, cache = model.start(PROMPTS)

    @jax.jit
    def generate(constraint):
        stop = jnp.array([STOP])
        return decode(
            model.step, logits, cache, max_new_tokens=6, stop=stop, processors=(constraint,)
        )

    for titles in ([(1, 2), (1, 3)], [(4, 5), (4, 6), (3, 3, 3)]):
        out = generate(constrain(Template(Trie(titles)), (STOP,), 7))
        assert set(texts(out)) <= set(titles)
    assert model.traces == 1


def test_bad_input():
    template = Template(Trie(TITLES))
    for stop, vocab, message in (
        ((), 7, "no stop token"),
        ((-1,), 7, "no stop token"),
        ((6, 0), 7, "stop token 6 is part of the template"),
        ((0,), 6, "token 6; expected at most 5"),
        ((9,), 7, "token 9; expected at most 6"),
    ):
        with pytest.raises(InputError, match=message):
            constrain(template, stop, vocab)
