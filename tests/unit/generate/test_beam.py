"""Beam search against every sequence there is, and its rules by hand."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recjax.generate.beam import beam_search
from recjax.generate.loop import decode
from recjax.generate.processors import (
    ForbiddenTokens,
    MinNewTokens,
    RepetitionPenalty,
    seen_tokens,
)

PROMPTS = np.array([[1, 2], [3, 0], [2, 2]], np.int32)


def log_softmax(x):
    return x - x.max() - np.log(np.exp(x - x.max()).sum())


def run(model, beams, prompts=PROMPTS, n=4, reorder=None, **options):
    """The result, in numpy."""
    logits, cache = model.start(prompts)
    options |= {"max_new_tokens": n, "beams": beams}
    return jax.device_get(
        jax.jit(
            lambda: beam_search(model.step, logits, cache, reorder or model.reorder, **options)
        )()
    )


@pytest.fixture(scope="module")
def shared(hash_model):
    """`shared(vocab, beams, n, early, penalty, stop)`: one program for all penalties and stops."""

    @functools.cache
    def program(vocab, beams, n, early):
        model = hash_model(vocab=vocab)

        @jax.jit
        def search(penalty, stop):
            return beam_search(
                model.step, *model.start(PROMPTS), model.reorder, beams=beams, max_new_tokens=n,
                early_stopping=early, length_penalty=penalty, stop=stop, pad_id=9,
            )  # fmt: skip

        return model, search

    def run(vocab, beams, n, early, penalty, stop):
        model, search = program(vocab, beams, n, early)
        return model, jax.device_get(search(np.float32(penalty), np.array(stop, np.int32)))

    return run


def all_sequences(model, prompt, limit, stop, penalty):
    """`[(score, tokens)]`, best first."""
    log_probs = {}

    def of(tokens):
        if tokens not in log_probs:
            log_probs[tokens] = log_softmax(model.after([*prompt, *tokens]))
        return log_probs[tokens]

    out = []
    for n in range(1, limit + 1):
        for tokens in itertools.product(range(model.vocab), repeat=n):
            ended = tokens[-1] in stop or n == limit
            if ended and not any(token in stop for token in tokens[:-1]):
                total = sum(of(tokens[:k])[tokens[k]] for k in range(n))
                out.append((total / n**penalty, tokens))
    return sorted(out, reverse=True)


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0, -0.5])
@pytest.mark.parametrize("stop", [(), (1,), (0, 3, -1)], ids=str)
def test_wide_enough_it_is_exhaustive(shared, penalty, stop):
    model, out = shared(4, 200, 4, "never", penalty, stop)
    for row, prompt in enumerate(PROMPTS.tolist()):
        expected = all_sequences(model, prompt, 4, stop, penalty)
        n = min(200, len(expected))
        np.testing.assert_allclose(out.scores[row, :n], [s for s, _ in expected[:n]], atol=2e-5)
        for k in range(n):
            length = int(out.lengths[row, k])
            assert (out.tokens[row, k, length:] == 9).all()
            same_score = {t for s, t in expected if abs(s - expected[k][0]) < 1e-4}
            assert tuple(out.tokens[row, k, :length].tolist()) in same_score
        assert (out.scores[row, n:] == -np.inf).all() and (out.lengths[row, n:] == 0).all()


def narrow(model, prompt, beams, limit, stop, penalty, early):
    """The rules of the module's docstring, with lists."""
    alive, found = [(0.0, ())], []
    for n in range(1, limit + 1):
        ranked = []
        for total, tokens in alive:
            log_probs = log_softmax(model.after([*prompt, *tokens]))
            ranked += [(total + log_probs[t], (*tokens, t)) for t in range(model.vocab)]
        ranked = sorted(ranked, reverse=True)[: beams * max(2, 1 + len(stop))]
        ended = [one[1][-1] in stop or n == limit for one in ranked]
        found += [
            (s / n**penalty, t)
            for (s, t), e in zip(ranked[:beams], ended[:beams], strict=True)
            if e
        ]
        found = sorted(found, reverse=True)[:beams]
        alive = [one for one, e in zip(ranked, ended, strict=True) if not e][:beams]
        if not alive or (len(found) == beams and early is True):
            break
        at = limit if early == "never" and penalty > 0 else n
        if len(found) == beams and alive[0][0] / at**penalty <= found[-1][0]:
            break
    return found


@pytest.mark.parametrize("early", [False, True, "never"])
@pytest.mark.parametrize("penalty", [0.0, 1.0, 3.0, -1.0])
@pytest.mark.parametrize("beams", [1, 2, 3])
def test_narrow_it_follows_the_rules(shared, beams, penalty, early):
    stop = (1, 4)
    model, out = shared(7, beams, 8, early, penalty, stop)
    for row, prompt in enumerate(PROMPTS.tolist()):
        expected = narrow(model, prompt, beams, 8, stop, penalty, early)
        found = [
            tuple(tokens[:n].tolist())
            for tokens, n in zip(out.tokens[row], out.lengths[row], strict=True)
        ]
        assert found == [tokens for _, tokens in expected]
        np.testing.assert_allclose(out.scores[row], [s for s, _ in expected], atol=2e-5)


def test_the_three_rules_differ(model):
    """Else the test above could pass with one rule for all."""
    prompts = np.stack([np.arange(24) % 7, np.arange(24) // 7], axis=1).astype(np.int32)
    options = {"stop": jnp.array([1, 4]), "n": 8, "length_penalty": 1.0}
    scores = [
        np.asarray(run(model, 2, prompts, early_stopping=early, **options).scores)
        for early in (True, False, "never")
    ]
    assert (scores[1] >= scores[0]).all() and (scores[2] >= scores[1]).all()
    assert (scores[0] != scores[1]).any() and (scores[1] != scores[2]).any()


def test_the_cache_must_follow_the_beams(model):
    """Without the reordering after the first step the result is wrong, so it is tested above."""

    def forgetful(cache, rows):
        same = rows if cache["tokens"].shape[1] == len(PROMPTS) else jnp.arange(rows.size)
        return model.reorder(cache, same)

    good, bad = run(model, 3, n=6), run(model, 3, n=6, reorder=forgetful)
    assert not np.allclose(good.scores, bad.scores)


def test_one_beam_is_greedy(model):
    stop = jnp.array([2, 5])
    out = run(model, 1, n=8, stop=stop, length_penalty=0.0)
    logits, cache = model.start(PROMPTS)
    greedy = jax.jit(lambda: decode(model.step, logits, cache, max_new_tokens=8, stop=stop))()
    np.testing.assert_array_equal(out.tokens[:, 0], greedy.tokens)
    np.testing.assert_array_equal(out.lengths[:, 0], greedy.lengths)
    np.testing.assert_allclose(out.scores[:, 0], greedy.log_probs.sum(-1), rtol=1e-5)


def test_rows_do_not_see_each_other(model):
    """Limits of their own, and an end of their own."""
    options = {"n": 8, "stop": jnp.array([1])}
    limits = jnp.array([2, 8, 5])
    whole = run(model, 3, limit=limits, **options)
    for row in range(3):
        alone = run(model, 3, PROMPTS[row : row + 1], limit=limits[row], **options)
        np.testing.assert_array_equal(whole.tokens[row], alone.tokens[0])
        np.testing.assert_allclose(whole.scores[row], alone.scores[0], rtol=1e-5)
    assert whole.lengths[0].max() == 2 and whole.lengths[1].max() > 5


def test_processors_follow_the_beams(hash_model):
    """A penalty on what a beam has said already, and on what its own prompt has, against all
    sequences with the rule by hand."""
    model = hash_model(vocab=4)
    penalty = RepetitionPenalty(2.5, seen_tokens(PROMPTS, np.ones((3, 2), bool), 4))
    out = run(model, 63, n=3, processors=(penalty,), length_penalty=0.0, early_stopping="never")
    for row, prompt in enumerate(PROMPTS.tolist()):
        expected = []
        for tokens in itertools.product(range(4), repeat=3):
            total = 0.0
            for k, token in enumerate(tokens):
                step = log_softmax(model.after([*prompt, *tokens[:k]]))[token]
                total += step * (2.5 if token in [*prompt, *tokens[:k]] else 1.0)
            expected.append(total)
        expected = np.sort(expected)[:0:-1]  # all 64 but the last
        np.testing.assert_allclose(out.scores[row], expected, atol=2e-5)


def test_nothing_left_to_say(hash_model):
    """Two allowed sequences and four beams: two results, and no end without one."""
    model = hash_model(vocab=4)
    stop = jnp.array([0])
    processors = (ForbiddenTokens(jnp.array([1, 2])), MinNewTokens(1, stop))
    options = {"stop": stop, "processors": processors, "early_stopping": "never"}
    out = run(model, 4, n=2, pad_id=2, **options)
    assert (out.lengths == [2, 2, 0, 0]).all()
    assert (out.tokens[:, 2:] == 2).all() and (out.scores[:, 2:] == -np.inf).all()
    assert {tuple(t) for t in np.asarray(out.tokens[:, :2]).reshape(-1, 2)} == {(3, 0), (3, 3)}


def test_numbers_do_not_compile_again(model):
    @jax.jit
    def search(logits, cache, limit, stop, penalty):
        return beam_search(
            model.step, logits, cache, model.reorder, max_new_tokens=6, beams=2, limit=limit,
            stop=stop, length_penalty=penalty,
        )  # fmt: skip

    for n in range(3):
        out = search(*model.start(PROMPTS), n + 2, jnp.array([n]), 1.0 + n)
        assert out.lengths.max() <= n + 2
    assert model.traces == 1


def test_bad_usage(model):
    for beams, n in ((0, 4), (2, 0)):
        with pytest.raises(ValueError, match="expected 1 or more"):
            run(model, beams, n=n)
