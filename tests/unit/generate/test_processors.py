"""Logits processors, alone and in the loop."""

import jax
import jax.numpy as jnp
import numpy as np

from recjax.generate.loop import decode
from recjax.generate.processors import (
    ForbiddenTokens,
    MinNewTokens,
    RepetitionPenalty,
    seen_tokens,
    token_mask,
)

PROMPTS = jnp.array([[1, 2], [3, 4], [0, 6]])


def run(model, *processors, n=8, **options):
    logits, cache = model.start(PROMPTS)
    options |= {"max_new_tokens": n, "processors": processors}
    return jax.jit(lambda: decode(model.step, logits, cache, **options))()


def test_token_mask():
    assert token_mask(jnp.array([3, -1, 0]), 5).tolist() == [True, False, False, True, False]
    assert not token_mask(jnp.zeros(0, jnp.int32), 5).any()


def test_forbidden_tokens(model):
    plain = run(model).tokens
    out = run(model, ForbiddenTokens(jnp.array([1, 4, -1])))
    assert np.isin(plain, [1, 4]).any() and not np.isin(out.tokens, [1, 4]).any()
    # The others share the probability.
    logits, _ = model.start(PROMPTS)
    allowed = jnp.delete(logits, jnp.array([1, 4]), axis=1)
    np.testing.assert_allclose(out.log_probs[:, 0], jax.nn.log_softmax(allowed).max(-1), rtol=1e-5)


def test_min_new_tokens(model):
    """Of seven tokens only 6 is no stop: it fills the first three places, and no more of them."""
    stop = jnp.arange(6)
    out = run(model, MinNewTokens(jnp.int32(3), stop), stop=stop)
    assert (out.tokens[:, :3] == 6).all() and (out.lengths > 3).all()
    for row, prompt in enumerate(PROMPTS):
        assert int(out.tokens[row, 3]) == model.after([*prompt.tolist(), 6, 6, 6]).argmax()


def test_repetition_penalty_by_hand(model):
    """Greedy tokens with the rule written out, over prompt and answer."""
    mask = jnp.array([[True, True], [True, True], [False, True]])
    penalty = RepetitionPenalty(jnp.float32(1.7), seen_tokens(PROMPTS, mask, 7))
    out = run(model, penalty)
    assert (out.tokens != run(model).tokens).any()
    for row, prompt in enumerate(PROMPTS):
        tokens = [int(t) for t in prompt]
        seen = {t for t, real in zip(tokens, mask[row], strict=True) if real}
        for found in out.tokens[row]:
            logits = model.after(tokens)
            for token in seen:
                logits[token] *= 1.7 if logits[token] < 0 else 1 / 1.7
            assert int(found) == logits.argmax()
            tokens.append(int(found))
            seen.add(int(found))


def test_a_finished_row_adds_nothing():
    penalty = RepetitionPenalty(2.0, jnp.zeros((2, 5), bool))
    state = penalty.update(penalty.init(4), jnp.array([1, 2, 3, 4]), jnp.array([1, 0, 1, 0]) == 1)
    assert state.sum() == 2 and state[0, 1] and state[2, 3]


def test_processors_compose_in_order(model):
    """A penalty of a forbidden token leaves it forbidden, in either order; the last one wins."""
    forbidden = ForbiddenTokens(jnp.array([1, 2, 3, 4]))
    penalty = RepetitionPenalty(3.0, jnp.ones((3, 7), bool))
    for order in ((forbidden, penalty), (penalty, forbidden)):
        assert not np.isin(run(model, *order).tokens, [1, 2, 3, 4]).any()

    class Lift(ForbiddenTokens):
        def __call__(self, state, logits, step):
            return jnp.where(token_mask(self.tokens, logits.shape[1]), 99.0, logits)

    lift = Lift(jnp.array([1]))
    assert (run(model, forbidden, lift).tokens == 1).all()
    assert not (run(model, lift, forbidden).tokens == 1).any()
