"""The losses of a policy: any sampler's decisions, any rewards.

    gain = advantages(rewards)                           # [B G]
    loss = policy_loss(log_probs, gain, rewards)         # its gradient is the policy's

Nothing here knows of aspects or forms: a decision may be a rating, a token, or a token of an item's
id that constrained beams found, with `real` where answers differ in length.

Letters: B questions, G answers of each, D decisions of an answer, S states of a form.
"""

import jax
import jax.numpy as jnp

from recjax.typing import Array, check_shapes


def advantages(rewards: Array, *, scale: bool = False) -> Array:
    """Rewards [B G ...] less the mean of the group's others; zero on average.

    The leave-one-out baseline of REINFORCE (Kool et al. 2019). GRPO (Shao et al. 2024) subtracts
    the mean of all G, which is the same up to the factor G / (G - 1).

    Args:
        rewards: of G answers to one question, independent draws.
        scale: divide by the group's deviation, as GRPO does. The gradient's direction is then no
            longer that of the mean reward: groups that differ little weigh as much as others.
    """
    size = rewards.shape[1]
    if size < 2:
        raise ValueError(f"rewards: one answer a question has no others; got {rewards.shape}")
    # Less the first one: a group of equal rewards is all 0, without the rounding of its mean, which
    # a deviation of 0 would make large.
    rewards = rewards - rewards[:, :1]
    others = (rewards.sum(1, keepdims=True) - rewards) / (size - 1)
    out = rewards - others
    if scale:
        out = out / (jnp.std(rewards, axis=1, keepdims=True) + 1e-6)
    return jax.lax.stop_gradient(out)


def format_advantages(at: Array, keeps_form: Array, words: Array, states: int) -> Array:
    """Advantages of keeping to the form: 1 or 0 less the share of the group's others that do so.

    Args:
        at: [B G D] the state of the form before each token; an answer is in each once at most.
        keeps_form: [B G D] bool, tokens that the form allows there.
        words: [B G D] bool, tokens that count; the others get 0.
        states: S.

    Returns:
        [B G D]. The others are counted in the same state of the form, so that the baseline does not
        depend on the answer itself; it is 0 where no other answer reached that state.
    """
    at = jnp.where(words, at, states)

    def placed(flags: Array) -> Array:
        zero = jnp.zeros((states + 1,), jnp.float32)
        return jax.vmap(jax.vmap(lambda a, s: zero.at[a].add(s)))(at, flags.astype(jnp.float32))

    counts, correct = placed(words), placed(words & keeps_form)
    others, others_correct = (a.sum(1, keepdims=True) - a for a in (counts, correct))
    others_share = others_correct / jnp.maximum(others, 1)
    gain = keeps_form - jnp.take_along_axis(others_share, at, axis=-1)
    return jax.lax.stop_gradient(jnp.where(words, gain, 0.0))


def policy_loss(
    log_probs: Array,
    gain: Array,
    rewards: Array,
    *,
    before: Array | None = None,
    real: Array | None = None,
    clip: float = 0.2,
) -> Array:
    """The sum over B of 1 - the mean reward; its gradient is the policy gradient.

    Args:
        log_probs: [B G D] of the decisions, each given those before it.
        gain: [B G] of answers, or [B G D] of decisions: see `advantages`.
        rewards: [B G] in [0, 1], the loss's value.
        before: [B G D], the log-probabilities when the decisions were drawn; None: now.
        real: [B G D] bool, decisions there are; None: all.
        clip: a decision whose probability has changed by more than this share in its gain's
            direction has no gradient (Schulman et al. 2017, PPO). Without `before` nothing has.
    """
    check_shapes(
        f"BGD, {'BG' if gain.ndim == 2 else 'BGD'}, BG, BGD, BGD",
        log_probs=log_probs, gain=gain, rewards=rewards, before=before, real=real,
    )  # fmt: skip
    gain = gain if gain.ndim == log_probs.ndim else gain[..., None]
    before = jax.lax.stop_gradient(log_probs if before is None else before)
    change = log_probs - before
    if real is not None:
        change = jnp.where(real, change, 0.0)
        gain = jnp.where(real, gain, 0.0)
    ratio = jnp.exp(change)
    clipped = jnp.minimum(ratio * gain, jnp.clip(ratio, 1 - clip, 1 + clip) * gain)
    surrogate = -clipped.sum(-1).mean(1).sum()
    value = (1.0 - rewards.mean(1)).sum()
    return surrogate + jax.lax.stop_gradient(value - surrogate)


def divergence(log_probs: Array, start: Array, real: Array | None = None) -> Array:
    """The sum over B of the mean answer's divergence from the start.

    Schulman's third estimate ("Approximating KL divergence", 2020), never negative and of little
    variance, as in GRPO (Shao et al. 2024, equation 4): its mean is the divergence of the policy
    from the start, and its gradient's mean that of the start from the policy, decision by decision;
    both are least where the two are equal.

    Args:
        log_probs: [B G D] of decisions that the policy drew.
        start: [B G D], the same of the start.
        real: see `policy_loss`.
    """
    check_shapes("BGD, BGD, BGD", log_probs=log_probs, start=start, real=real)
    gap = jax.lax.stop_gradient(start) - log_probs
    if real is not None:
        gap = jnp.where(real, gap, 0.0)
    return (jnp.exp(gap) - gap - 1).sum(-1).mean(1).sum()
