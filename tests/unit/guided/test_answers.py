"""Freely written answers: exact gradients, and a known optimum, of a model of five tokens."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from recjax.guided.answers import DrawnAnswers, ForcedAnswers, FreeAnswers, ReadPrompts
from recjax.guided.policy_loss import policy_loss
from recjax.scoring.form_states import form_states
from recjax.scoring.form_tokens import FormTokens

END, VOCAB = 0, 5
FORM = FormTokens([[1], [2]], [[3], [4]], True)
FREE = FreeAnswers(form_states(FORM, [END]), (END,), END, 1.0)
LONGEST = FREE.states.longest
REWARDS = np.array([[0.1, 0.6], [0.3, 0.9]], np.float32)  # of the two ratings
START = {"table": 0.5 * jax.random.normal(jax.random.key(0), (LONGEST + 1, VOCAB + 1, VOCAB))}


class Table:
    """The next token's logits are those of the last token and its place; the prompt's is 0."""

    def __init__(self, table):
        self.table = table

    def hidden(self, tokens, mask=None, cache=None):
        places = cache[:, None] + jnp.arange(tokens.shape[1])
        return self.table[places, tokens], cache + tokens.shape[1]

    def logits(self, h):
        return h


def asked(params, rows):
    state = jnp.broadcast_to(params["table"][0, VOCAB], (rows, VOCAB))
    return ReadPrompts(state, jnp.ones(rows, jnp.int32))


def log_probs(params, answers):
    return FREE.log_probs(Table(params["table"]), asked(params, len(answers.decided)), answers)


def drawn(params, key, groups, size):
    """Answers, their rewards [B G] and gains [B G D]."""
    count = groups * size
    module = Table(params["table"])
    answers = FREE.draw(module, asked(params, count), jax.random.split(key, count))
    chosen = jnp.maximum(answers.chosen, 0)
    rewards = jnp.where(answers.whole, jnp.asarray(REWARDS)[chosen[:, 0], chosen[:, 1]], 0.0)
    rewards = rewards.reshape(groups, size)
    return answers, rewards, FREE.gains(answers, rewards, scale=False)


def loss(params, answers, rewards, gain):
    shape = (*rewards.shape, -1)
    own = log_probs(params, answers).reshape(shape)
    return policy_loss(own, gain, rewards, real=answers.real.reshape(shape)) / len(rewards)


def test_the_gradients_mean_is_the_exact_one():
    """Of the format's part and the task's, over all texts that the model may write."""
    texts = np.array(list(itertools.product(range(VOCAB), repeat=LONGEST)), np.int32)
    walked = FREE.states.walk(jnp.asarray(texts))
    chosen = np.maximum(walked.chosen, 0)
    task = np.where(walked.whole, REWARDS[chosen[:, 0], chosen[:, 1]], 0.0)
    rewards = np.where(walked.choice, task[:, None], walked.kept & walked.real)

    def every(params):
        before = jnp.concatenate([jnp.full((len(texts), 1), VOCAB), texts[:, :-1]], axis=1)
        own = jax.nn.log_softmax(params["table"])[np.arange(LONGEST), before, texts]
        mass = jax.lax.stop_gradient(jnp.exp(own.sum(-1)))
        return -(mass[:, None] * rewards * jnp.where(walked.real, own, 0.0)).sum(), mass

    (_, mass), exact = jax.jit(jax.value_and_grad(every, has_aux=True))(START)
    assert mass.sum() == pytest.approx(1.0, abs=1e-4)
    one = jax.jit(lambda key: jax.grad(loss)(START, *drawn(START, key, 20_000, 4)))
    found = one(jax.random.key(1))["table"]
    np.testing.assert_allclose(found, exact["table"], atol=8e-3)
    assert np.abs(exact["table"]).max() > 0.1


@pytest.fixture(scope="module")
def learned():
    """Parameters after each of 120 steps of the format's rewards and the task's."""
    optimizer = optax.adam(0.1)

    @jax.jit
    def run(params):
        def step(carry, key):
            params, state = carry
            grads = jax.grad(loss)(params, *drawn(params, key, 16, 8))
            updates, state = optimizer.update(grads, state)
            params = optax.apply_updates(params, updates)
            return (params, state), drawn(params, key, 16, 8)[1].mean()

        keys = jax.random.split(jax.random.key(2), 120)
        (params, _), rewards = jax.lax.scan(step, (params, optimizer.init(params)), keys)
        return params, rewards

    return run(START)


def test_form_and_best_ratings_are_found(learned):
    params, rewards = learned
    assert rewards[0] < 0.05
    best, real = FREE.states.write(np.array([[1, 1]]))
    own = FREE._tokens(Table(params["table"]), asked(params, 1), best, real, 1.0)
    assert float(jnp.exp(jnp.where(real, own, 0).sum())) > 0.85
    assert rewards[-10:].mean() > 0.8


def test_the_format_loss_reaches_the_words_alone():
    def sums(params):
        return FREE.taught(Table(params["table"]), asked(params, 1), np.array([[0, 1]]))

    (sum_of_words, _), (words, ratings) = jax.jit(lambda p: (sums(p), jax.jacrev(sums)(p)))(START)
    written = [1, 3, 2, 4, END]
    before = [VOCAB, *written[:-1]]
    for kind, found in (("words", words), ("ratings", ratings)):
        reached = np.argwhere(np.abs(found["table"][0]).sum(-1) > 1e-6).tolist()
        assert reached == [[n, before[n]] for n in ((0, 2, 4) if kind == "words" else (1, 3))]
    table = jax.nn.log_softmax(START["table"])
    expected = sum(table[n, before[n], written[n]] for n in (0, 2, 4))
    assert sum_of_words[0] == pytest.approx(float(expected), rel=1e-5)


def test_forced_answers_are_as_likely_as_their_draws_temperature_makes_them():
    class Told(ForcedAnswers):
        def taught(self, module, prompts, chosen, temperature=1.0):
            return chosen, temperature

    answers = DrawnAnswers(3, (), (), ())
    assert Told(FORM, None, 0.7).log_probs(None, None, answers) == (3, 0.7)


def test_a_ratings_own_reward_goes_to_its_tokens():
    rewards = jax.random.uniform(jax.random.key(4), (50, 4, 2))

    warm = dataclasses.replace(FREE, temperature=2.0)

    @jax.jit
    def run(params):
        answers, *_ = drawn(params, jax.random.key(3), 50, 4)
        own = warm.log_probs(Table(params["table"]), asked(params, 200), answers)
        return answers, FREE.gains(answers, rewards, scale=False), own

    answers, gain, own = jax.tree.map(np.asarray, run(START))
    first = jax.nn.log_softmax(START["table"][0, VOCAB] / 2.0)  # at the temperature of the draws
    np.testing.assert_allclose(own[:, 0], np.asarray(first)[answers.decided[:, 0]], rtol=1e-5)
    task = np.asarray(rewards - (rewards.sum(1, keepdims=True) - rewards) / 3)
    choice = answers.choice.reshape(gain.shape)
    place = np.asarray(FREE.states.place)[answers.at].reshape(gain.shape)
    for a in (0, 1):
        here = choice & (place == a)
        assert here.any()
        np.testing.assert_allclose(
            gain[here], np.broadcast_to(task[..., a, None], gain.shape)[here], atol=1e-6
        )
